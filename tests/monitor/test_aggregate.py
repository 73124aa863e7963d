"""What all slots say adds up to the last second and to the whole run."""

from typing import Any

import pytest

from data_bridge.events import (
    Event,
    Flushed,
    PartitionClaimed,
    PartitionDone,
    PartitionFailed,
    RunPlanned,
    SamplesPacked,
    ShardCommitted,
    SlotLost,
)
from data_bridge.model.metrics import Count, Gauge, Load, MetricRecord, QueueUse, Statistics
from data_bridge.monitor.aggregate import MOST_WAITING, Aggregate
from data_bridge.monitor.series import CATALOGUE, PREFIX, families
from data_bridge.monitor.snapshot import RUN, SlotView, Snapshot

PLANNED = RunPlanned("0123456789abcdef", "file:///out", 4, 1, 100, 1000, 25, 250)


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def after(*events: Event, window_s: float = 1.0) -> tuple[Aggregate, Clock]:
    aggregate = Aggregate(clock=(clock := Clock()), now=lambda: 1e9)
    for event in events:
        aggregate(event)
    clock.now_s += window_s
    aggregate.roll()
    return aggregate, clock


def flushed(partition: int, stage: str, *metrics: Any) -> Flushed:
    return Flushed(partition, (MetricRecord(stage, "map", metrics),))


def test_slots_add_up_and_windows_start_anew() -> None:
    aggregate, clock = after(
        flushed(0, "tidy", Count("rows_in", 5)), flushed(1, "tidy", Count("rows_in", 7)), window_s=2.0
    )
    first = aggregate.snapshot()
    aggregate(flushed(1, "tidy", Count("rows_in", 3)))
    assert aggregate.snapshot().last == first.last
    clock.now_s += 1
    aggregate.roll()
    second = aggregate.snapshot()

    assert (first.rate("tidy", "rows_in"), first.amount("tidy", "rows_in")) == (6.0, 12)
    assert (second.rate("tidy", "rows_in"), second.amount("tidy", "rows_in")) == (3.0, 15)
    assert (second.rate("other", "rows_in"), second.amount("tidy", "other")) == (0.0, 0)
    assert (second.seconds, second.window_s) == (3.0, 1.0)


def test_levels_are_those_of_the_partitions_in_work() -> None:
    aggregate, _ = after(
        PartitionClaimed(0, 0),
        PartitionClaimed(1, 0),
        flushed(0, "memory", Gauge("held", 9, 10)),
        flushed(0, "memory", Gauge("held", 5, 10)),
        flushed(1, "memory", Gauge("held", 2, 10)),
    )
    assert aggregate.snapshot().total[1].get(Gauge, "held") == Gauge("held", 7, 20)
    aggregate(PartitionDone(0, 10, 0))
    (held,) = [m for r in aggregate.snapshot().total for m in r.metrics if isinstance(m, Gauge)]
    assert held == Gauge("held", 2, 10)


def test_a_slot_tells_how_far_it_is_how_fast_and_what_keeps_it_busy() -> None:
    aggregate, clock = after(
        PLANNED,
        PartitionClaimed(2, 40),
        SamplesPacked(2, 10, 100),
        flushed(2, "tidy", Load(busy_s=0.1)),
        flushed(2, "resize", Load(busy_s=0.3)),
        window_s=0.5,
    )
    assert aggregate.snapshot().slots == (SlotView(2, 50, 20.0, "resize"),)
    assert aggregate.snapshot().busiest == "resize"
    clock.now_s += 1
    aggregate.roll()
    assert aggregate.snapshot().slots == (SlotView(2, 50, 0.0, "resize", still_s=1.0),)
    assert aggregate.snapshot().busiest == ""


def test_a_slot_that_stands_still_is_named_with_the_full_queue_and_what_it_did_last() -> None:
    full, free = QueueUse("uploads", 1, 0, 0, 3, 3.0, 3, 1, 3), QueueUse("output", 1, 1, 0, 0, 0.5, 1, 2, 4)
    aggregate, clock = after(
        PartitionClaimed(2, 0),
        SamplesPacked(2, 10, 100),
        flushed(2, "upload", Load(busy_s=0.9), full),
        flushed(2, "fetch", free),
    )
    assert aggregate.snapshot().slots == (SlotView(2, 10, 10.0, "upload"),)
    for _ in range(3):
        clock.now_s += 4
        aggregate.roll()
    assert aggregate.snapshot().slots == (SlotView(2, 10, 0.0, "upload", still_s=12.0, full="upload.uploads"),)

    aggregate(SamplesPacked(2, 5, 50))
    clock.now_s += 1
    aggregate.roll()
    assert aggregate.snapshot().slots == (SlotView(2, 15, 5.0, ""),)


def test_a_queue_that_was_full_and_is_free_again_is_not_what_a_slot_stands_still_for() -> None:
    full, free = QueueUse("uploads", 1, 0, 0, 3, 3.0, 3, 1, 3), QueueUse("uploads", 1, 1, 0, 0, 0.5, 1, 2, 3)
    aggregate, _ = after(PartitionClaimed(2, 0), flushed(2, "upload", full), flushed(2, "upload", free))

    assert aggregate.snapshot().slots == (SlotView(2, 0, 0.0, "", still_s=1.0),)


def test_what_a_lost_slot_told_is_not_told_of_the_next_one() -> None:
    aggregate, _ = after(
        PartitionClaimed(2, 0),
        flushed(2, "tidy", Load(busy_s=0.4), Gauge("held", 9, 10)),
        SlotLost(0, 2, "died"),
        PartitionClaimed(2, 0),
    )

    assert aggregate.snapshot().slots == (SlotView(2, 0, 0.0, "", still_s=1.0),)
    assert [m for r in aggregate.snapshot().total for m in r.metrics if isinstance(m, Gauge)] == []
    assert sum(m.busy_s for r in aggregate.snapshot().total for m in r.metrics if isinstance(m, Load)) == 0.4


def test_what_nobody_asks_for_does_not_pile_up_and_is_not_lost() -> None:
    aggregate, _ = after(
        PartitionClaimed(0, 0), *[flushed(0, "tidy", Count("rows_in", 1), Load(busy_s=1.0))] * (MOST_WAITING + 7)
    )

    assert aggregate.snapshot().amount("tidy", "rows_in") == MOST_WAITING + 7
    assert aggregate.snapshot().slots[0].busiest == "tidy"


@pytest.mark.parametrize("end", [PartitionDone(2, 9, 0), PartitionFailed(2, "broken"), SlotLost(0, 2, "died")])
def test_a_partition_that_ended_is_no_slot_any_more(end: Event) -> None:
    aggregate, _ = after(PartitionClaimed(2, 0), end)

    assert aggregate.snapshot().slots == ()


def test_the_run_counts_what_is_committed_and_lost() -> None:
    aggregate, _ = after(
        PLANNED,
        PartitionClaimed(1, 0),
        SamplesPacked(1, 30, 1),
        ShardCommitted(1, "a.tar", 20, 2, 500),
        ShardCommitted(1, None, 0, 3, 0),
        PartitionDone(1, 20, 1),
        SlotLost(3, None, "died"),
    )
    now = aggregate.snapshot()

    counts = {
        name: now.amount(RUN, name)
        for name in (
            "samples_packed",
            "samples_committed",
            "samples_failed",
            "shards_committed",
            "bytes_committed",
            "workers_lost",
        )
    }
    assert list(counts.values()) == [30, 20, 6, 1, 500, 1]
    assert (now.run, now.partitions, now.partitions_done, now.samples_expected, now.samples_before) == (
        PLANNED.run,
        4,
        2,
        100,
        25,
    )
    assert now.state == "running"
    aggregate.end()
    assert aggregate.snapshot().state == "ended"


def series(snapshot: Snapshot) -> dict[str, float]:
    return {
        f"{f.name}{s.suffix}{{{','.join(f'{k}={v}' for k, v in s.labels.items() if k != 'run')}}}": s.value
        for f in families(snapshot)
        for s in f.samples
    }


def test_every_kind_of_metric_becomes_series() -> None:
    use = QueueUse("output", 10, 8, 1, 1, 2.5, 4, 4, 4)
    aggregate, clock = after(
        PLANNED,
        PartitionClaimed(0, 0),
        flushed(0, "fetch", Count("rows_in", 5), Load(busy_s=1, waiting_s=2), Load("sending", 3, 4), use),
        flushed(0, "fetch", Gauge("held", 3, 9), Statistics("size of it", 1, 5, 6, 2, 5)),
    )

    found = series(aggregate.snapshot())

    expected = {
        "data_bridge_rows_in{stage=fetch,type=map}": 5,
        "data_bridge_busy_seconds{stage=fetch,type=map}": 1,
        "data_bridge_waiting_seconds{stage=fetch,type=map,load=sending}": 4,
        "data_bridge_queue_put{stage=fetch,type=map,queue=output}": 10,
        "data_bridge_queue_dropped{stage=fetch,type=map,queue=output}": 1,
        "data_bridge_queue_fill{stage=fetch,type=map,queue=output,level=avg}": 2.5,
        "data_bridge_queue_capacity{stage=fetch,type=map,queue=output}": 4,
        "data_bridge_held{stage=fetch,type=map}": 3,
        "data_bridge_held_capacity{stage=fetch,type=map}": 9,
        "data_bridge_size_of_it_sum{stage=fetch,type=map}": 6,
        "data_bridge_size_of_it_count{stage=fetch,type=map}": 2,
        "data_bridge_size_of_it_max{stage=fetch,type=map}": 5,
        "data_bridge_samples_expected{}": 100,
        "data_bridge_slot_samples{partition=0}": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    clock.now_s += 1
    aggregate.roll()
    later = series(aggregate.snapshot())
    assert later["data_bridge_queue_fill{stage=fetch,type=map,queue=output,level=avg}"] == 0
    assert later["data_bridge_queue_put{stage=fetch,type=map,queue=output}"] == 10


def test_one_name_is_one_kind_of_series() -> None:
    aggregate, _ = after(PartitionClaimed(0, 0), flushed(0, "a", Count("x", 1)), flushed(0, "b", Gauge("x", 7)))

    (x,) = [f for f in families(aggregate.snapshot()) if f.name == PREFIX + "x"]

    assert (x.kind, [s.value for s in x.samples]) == ("counter", [1])
    assert x.help == "`x_total`, as its stage counts it"


def test_the_products_own_series_have_a_meaning() -> None:
    aggregate, _ = after(PLANNED, ShardCommitted(0, "a.tar", 1, 0, 1))

    for family in families(aggregate.snapshot()):
        bare = family.name.removeprefix(PREFIX)
        assert family.help == CATALOGUE.get(bare, CATALOGUE.get(f"{bare}_total")), family.name
