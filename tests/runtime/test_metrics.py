"""What is counted adds up, over time and over slots, and is counted once."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.model import spread
from data_bridge.model.metrics import Count, Gauge, Load, Metric, MetricRecord, QueueUse, Statistics, merged
from data_bridge.runtime.metrics import SlotMetrics
from data_bridge.runtime.queue import Queue


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class StageWork:
    name: str
    rows_in: int
    rows_out: int
    failed: int
    dropped: int
    seconds: float
    metrics: tuple[Metric, ...] = ()
    bypassed: int = 0


def over_time(*metrics: Metric) -> Metric:
    (record,) = merged([MetricRecord("s", "map", (m,)) for m in metrics], over_time=True)
    return record.metrics[0]


def over_slots(*metrics: Metric) -> Metric:
    (record,) = merged([MetricRecord("s", "map", (m,)) for m in metrics], over_time=False)
    return record.metrics[0]


def test_counts_and_loads_add_up() -> None:
    assert over_time(Count("n", 2), Count("n", 3)) == over_slots(Count("n", 3), Count("n", 2)) == Count("n", 5)
    assert over_time(Load(busy_s=1, waiting_s=2), Load(busy_s=3, waiting_s=4)) == Load(busy_s=4, waiting_s=6)


def test_the_last_level_counts_and_levels_of_slots_add_up() -> None:
    assert over_time(Gauge("held", 5, 10), Gauge("held", 1, 10)) == Gauge("held", 1, 10)
    assert over_slots(Gauge("held", 5, 10), Gauge("held", 1, 20)) == Gauge("held", 6, 30)
    assert over_slots(Gauge("held", 5), Gauge("held", 1)) == Gauge("held", 6)


@given(st.lists(st.integers(-1000, 1000), min_size=1), st.data())
def test_statistics_of_parts_are_the_statistics_of_the_whole(values: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))

    def of(some: list[int]) -> Statistics:
        return Statistics.of("v", some)

    assert over_time(of(values[:cut]), of(values[cut:])) == of(values)


def test_a_queue_without_looks_does_not_pull_its_levels_down() -> None:
    used = QueueUse("q", 5, 4, 1, fill_min=2, fill_avg=3.0, fill_max=4, samples=10, capacity=4)

    assert over_time(QueueUse("q", capacity=4), used, QueueUse("q", capacity=4)) == used
    assert over_time(used, used) == QueueUse("q", 10, 8, 2, 2, 3.0, 4, 20, 4)


def test_parts_keep_their_order_and_metrics_of_one_name_but_two_kinds_stay_apart() -> None:
    first = MetricRecord("b", "map", (Count("x", 1), Gauge("x", 7)))
    second = MetricRecord("a", "map", (Count("x", 1),))

    assert merged([first, second, first], over_time=True) == (
        MetricRecord("b", "map", (Count("x", 2), Gauge("x", 7))),
        second,
    )


RECORD = MetricRecord(
    "fetch",
    "fetch",
    (Load(), QueueUse("output", 3), Count("rows_in", 1), Gauge("held", 1.5, None), Statistics("ms", 1, 2, 3, 2, 2)),
)


def test_records_travel_between_processes_and_as_json() -> None:
    assert pickle.loads(pickle.dumps(RECORD)) == RECORD
    assert msgspec.json.decode(msgspec.json.encode(RECORD), type=MetricRecord) == RECORD


def test_a_flush_takes_what_was_counted_and_leaves_levels() -> None:
    metrics = SlotMetrics(every_s=0.2, clock=(clock := Clock()))
    part = metrics.part("upload", "upload")
    part.count(bytes=10, shards=1)
    part.load(busy_s=0.5)
    part.gauge("open", 2, 4)
    part.statistics("seconds", 3.0)
    clock.now_s += 0.2

    first = metrics.flush()
    clock.now_s += 0.2
    second = metrics.flush()

    assert first == (
        MetricRecord(
            "upload",
            "upload",
            (
                Load(busy_s=0.5),
                Count("bytes", 10),
                Count("shards", 1),
                Gauge("open", 2, 4),
                Statistics.of("seconds", [3]),
            ),
        ),
    )
    assert second == (MetricRecord("upload", "upload", (Gauge("open", 2, 4),)),)


def test_flushes_are_a_moment_apart_unless_it_is_the_last_one() -> None:
    metrics = SlotMetrics(every_s=0.2, clock=(clock := Clock()))
    metrics.part("read", "source").count(rows_out=1)

    assert metrics.flush() is None
    clock.now_s += 0.19
    assert metrics.flush() is None
    assert metrics.flush(now=True) is not None
    metrics.part("read", "source").count(rows_out=1)
    clock.now_s += 0.19
    assert metrics.flush() is None


def test_nothing_happened_is_no_flush() -> None:
    metrics = SlotMetrics()
    metrics.part("read", "source")

    assert metrics.flush(now=True) is None


def test_the_work_of_a_stage_is_its_rows_and_its_seconds() -> None:
    metrics = SlotMetrics()
    for _ in range(2):
        metrics.add_work([(StageWork("tidy", 10, 7, 1, 2, 0.25), "map")])
    rows: dict[int, int] = {}
    spread.add(rows, 0.025, 20)

    assert metrics.flush(now=True) == (
        MetricRecord(
            "tidy",
            "map",
            (
                Load(busy_s=0.5, row_s=rows),
                Count("rows_in", 20),
                Count("rows_out", 14),
                Count("failed", 2),
                Count("dropped", 4),
            ),
        ),
    )


def test_what_a_stage_counts_of_its_own_stands_beside_what_is_counted_for_it() -> None:
    metrics = SlotMetrics()
    for number in (1, 2):
        own = (Count("pages", number), Gauge("window_current", 10 * number), Count("rows_in", 100))
        metrics.add_work([(StageWork("tidy", 1, 1, 0, 0, 0.5, own), "map")])

    records = metrics.flush(now=True)

    assert records is not None
    assert records[0].get(Count, "pages") == Count("pages", 3)
    assert records[0].get(Gauge, "window_current") == Gauge("window_current", 20)
    assert records[0].count("rows_in") == 202
    assert metrics.flush(now=True) is None


def test_time_in_blocks_is_work_or_waiting() -> None:
    metrics = SlotMetrics(clock=(clock := Clock()))
    part = metrics.part("read", "source")
    with part.working():
        clock.now_s += 2
    with part.waiting():
        clock.now_s += 3

    assert metrics.flush() == (MetricRecord("read", "source", (Load(busy_s=2, waiting_s=3),)),)


def test_queues_are_flushed_with_their_part() -> None:
    metrics = SlotMetrics()
    queue: Queue[int] = Queue(4, name="output")
    metrics.part("fetch", "fetch").also(queue)
    queue.producer().put_many([1, 2])

    records = metrics.flush(now=True)

    assert records is not None
    assert records[0].get(QueueUse, "output") == QueueUse("output", 2, 0, 0, 2, 2.0, 2, 2, 4)


def test_threads_lose_no_count() -> None:
    metrics = SlotMetrics(every_s=0.0)
    seen: list[MetricRecord] = []

    def work(_: int) -> None:
        for _ in range(500):
            metrics.part("read", "source").count(rows_out=1)

    with ThreadPoolExecutor(4) as pool:
        done = pool.map(work, range(4))
        for _ in range(200):
            seen += metrics.flush() or ()
        assert list(done) == [None] * 4
    seen += metrics.flush(now=True) or ()

    assert merged(seen, over_time=True)[0].count("rows_out") == 2000
