"""Packets come out in order, with what the stage makes of them, whatever the threads do."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from data_bridge.errors import FatalError, Interrupted
from data_bridge.model.batch import DictRows, LineRows, Row
from data_bridge.runtime.flights import Landed
from data_bridge.runtime.stage import Result, Skip, Stage, StageBatch, StageOptions
from data_bridge.runtime.threaded import Threaded
from data_bridge.stages.filter import Filter, FilterOptions

LIMIT_S = 20.0


class Waits(Stage[StageOptions]):
    """Doubles `n`; -1 is a failure, -2 the run's end; rows with a `gate` wait for it until interrupted."""

    kind = "waits"

    def __init__(self) -> None:
        super().__init__(StageOptions())
        self.interrupted = threading.Event()
        self.lock = threading.Lock()
        self.working = self.most = 0
        self.threads: set[int] = set()

    def one(self, row: Row) -> Row:
        with self.lock:
            self.threads.add(threading.get_ident())
            self.working += 1
            self.most = max(self.most, self.working)
        try:
            if (gate := row.get("gate")) is not None:
                gate(self)
            if row["n"] == -1:
                raise Skip("minus one")
            if row["n"] == -2:
                raise FatalError("minus two")
            return {"n": 2 * row["n"]}
        finally:
            with self.lock:
                self.working -= 1

    def interrupt(self) -> None:
        self.interrupted.set()

    def process(self, batch: StageBatch) -> Result:
        return batch.each(self.one)


def batch(numbers: Sequence[int], gate: Any = None) -> StageBatch:
    rows = [{"n": n} if gate is None else {"n": n, "gate": gate} for n in numbers]
    return StageBatch(DictRows(rows), np.arange(len(rows), dtype=np.int64))


def same(packet: StageBatch) -> StageBatch:
    return packet


def numbers(landed: Landed[Any]) -> list[int]:
    assert isinstance(landed.result, Result)
    assert isinstance(landed.result.rows, DictRows)
    return [row["n"] for row in landed.result.rows.rows]


def threads_of(stage: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{stage}-")]


def test_results_are_those_of_the_stage_alone_in_packet_order() -> None:
    packets = [batch([n, -1, n + 1]) for n in range(50)] + [batch([])]
    stage = Waits()
    with Threaded[StageBatch](stage, workers=4, window=3) as threaded:
        found = list(threaded.map(packets, same))

    assert [landed.packet for landed in found] == packets
    for landed in found:
        alone = stage.process(landed.packet)
        assert isinstance(landed.result, Result)
        assert landed.result.rows == alone.rows
        assert landed.result.positions.tolist() == alone.positions.tolist()
        assert landed.result.failures == alone.failures
    assert len(stage.threads - {threading.get_ident()}) > 0


def test_rows_of_several_packets_are_at_work_at_once() -> None:
    together = threading.Barrier(4)
    packets = [batch([n], lambda _: together.wait(LIMIT_S)) for n in range(4)]
    with Threaded[StageBatch](Waits(), workers=4, window=4) as threaded:
        assert [numbers(landed) for landed in threaded.map(packets, same)] == [[0], [2], [4], [6]]


def test_a_slow_row_holds_up_results_but_not_the_packets_behind_it() -> None:
    last_began = threading.Event()
    packets = [
        batch([1], lambda _: last_began.wait(LIMIT_S)),
        batch([2]),
        batch([3], lambda _: last_began.set()),
    ]
    with Threaded[StageBatch](Waits(), workers=2, window=3) as threaded:
        assert [numbers(landed) for landed in threaded.map(packets, same)] == [[2], [4], [6]]
    assert last_began.is_set()


def test_no_more_packets_are_taken_than_the_window_holds() -> None:
    taken: list[int] = []

    def packets() -> Iterator[StageBatch]:
        for n in range(10):
            taken.append(n)
            if n == 2:
                third.set()
            yield batch([n], lambda _: third.wait(LIMIT_S))

    third = threading.Event()
    with Threaded[StageBatch](Waits(), workers=8, window=3) as threaded:
        coming = threaded.map(packets(), same)
        next(coming)
        assert taken == [0, 1, 2]
        coming.close()


def test_while_there_is_too_much_only_the_first_packet_goes_on() -> None:
    fourth = threading.Event()
    early: list[bool] = []
    packets = [
        batch([1], lambda _: early.append(fourth.wait(0.3))),  # as long as it is on its way
        batch([2]),
        batch([3]),
        batch([4], lambda _: fourth.set()),
        *(batch([n]) for n in range(5, 50)),
    ]
    with Threaded[StageBatch](Waits(), workers=2, window=50, total=100) as threaded:
        assert [numbers(landed) for landed in threaded.map(packets, same)] == [[2 * n] for n in range(1, 50)]
    assert early == [False]
    assert fourth.is_set()


def test_no_more_rows_are_at_work_than_there_are_workers() -> None:
    stage = Waits()
    with Threaded[StageBatch](stage, workers=3, window=4) as threaded:
        list(threaded.map([batch(range(100)) for _ in range(8)], same))

    assert stage.most <= 3


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1)])
def test_workers_may_change_while_packets_are_in_flight(before: int, after: int) -> None:
    stage = Waits()
    with Threaded[StageBatch](stage, workers=before, window=2) as threaded:
        coming = threaded.map((batch(range(20)) for _ in range(40)), same)
        next(coming)
        threaded.workers = after
        for _ in range(5):
            next(coming)
        stage.most = 0
        if after > before:
            together = threading.Barrier(after)
            coming.close()
            waiting = batch(range(after), lambda _: together.wait(LIMIT_S))
            assert [numbers(landed) for landed in threaded.map([waiting], same)] == [[0, 2, 4, 6]]
        else:
            assert [numbers(landed) for landed in coming] == [[2 * n for n in range(20)]] * 34
            assert stage.most <= before


def test_an_exception_that_concerns_the_run_is_raised_in_its_packets_turn() -> None:
    packets = [batch([1, 2]), batch([3, -2]), batch([5])]
    with Threaded[StageBatch](Waits(), workers=4, window=3) as threaded:
        coming = threaded.map(packets, same)

        assert numbers(next(coming)) == [2, 4]
        with pytest.raises(FatalError, match="minus two"):
            next(coming)
    assert threads_of("waits") == []


def test_an_exception_of_the_packets_is_raised_behind_the_results_before_it() -> None:
    def packets() -> Iterator[StageBatch]:
        yield batch([1])
        yield batch([2])
        raise OSError("no more")

    with Threaded[StageBatch](Waits(), workers=2, window=4) as threaded:
        coming = threaded.map(packets(), same)
        assert [numbers(next(coming)), numbers(next(coming))] == [[2], [4]]
        with pytest.raises(OSError, match="no more"):
            next(coming)


def test_leaving_ends_the_threads_at_once_though_rows_would_wait_for_ever() -> None:
    began = threading.Semaphore(0)

    def gate(stage: Waits) -> None:
        began.release()
        assert stage.interrupted.wait(LIMIT_S)

    def first(_stage: Waits) -> None:
        assert began.acquire(timeout=LIMIT_S)
        assert began.acquire(timeout=LIMIT_S)

    with Threaded[StageBatch](Waits(), workers=3, window=4) as threaded:
        next(threaded.map([batch([1], first), *(batch([1], gate) for _ in range(3))], same))
    assert threads_of("waits") == []


def test_closing_from_another_thread_wakes_who_waits_and_gives_no_result_of_interrupted_rows() -> None:
    def gate(stage: Waits) -> None:
        threading.Thread(target=threaded.close).start()
        assert stage.interrupted.wait(LIMIT_S)
        raise Skip("interrupted")

    threaded = Threaded[StageBatch](Waits(), workers=1, window=4)
    with threaded, pytest.raises(Interrupted):
        list(threaded.map([batch([1], gate), batch([2])], same))


def test_a_run_that_is_stopped_waits_for_no_more_rows() -> None:
    stop = threading.Event()

    def gate(stage: Waits) -> None:
        stop.set()
        assert stage.interrupted.wait(LIMIT_S)

    with Threaded[StageBatch](Waits(), workers=1, window=2, stopped=stop.is_set) as threaded:
        coming = threaded.map([batch([1]), batch([2], gate)], same)
        assert numbers(next(coming)) == [2]
        with pytest.raises(Interrupted):
            next(coming)
    assert threads_of("waits") == []


def test_every_row_done_is_a_sign_of_life() -> None:
    beats: list[int] = []
    with Threaded[StageBatch](Waits(), workers=2, window=2, alive=lambda: beats.append(1)) as threaded:
        list(threaded.map([batch([1, 2, 3]), batch([4])], same))
    assert len(beats) >= 4


def test_waiting_for_a_row_is_a_sign_of_life() -> None:
    beats = threading.Semaphore(0)

    def gate(stage: Waits) -> None:
        for _ in range(3):
            assert beats.acquire(timeout=LIMIT_S)

    with Threaded[StageBatch](Waits(), workers=1, window=1, alive=beats.release) as threaded:
        assert [numbers(landed) for landed in threaded.map([batch([1], gate)], same)] == [[2]]


def test_packets_that_come_after_it_was_closed_are_not_waited_for() -> None:
    threaded = Threaded[StageBatch](Waits(), workers=2, window=1)

    def packets() -> Iterator[StageBatch]:
        yield batch([1])
        threaded.close()
        yield batch([2])

    with threaded:
        coming = threaded.map(packets(), same)
        assert numbers(next(coming)) == [2]
        with pytest.raises(Interrupted):
            next(coming)
    assert threads_of("waits") == []


def even(row: Row) -> bool:
    if row["n"] == 7:
        raise Skip("seven")
    return bool(row["n"] % 2 == 0)


def lines(numbers: Sequence[int]) -> StageBatch:
    texts = [b'{"n": %d}' % n for n in numbers]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    starts = ends - np.array([len(text) for text in texts], dtype=np.int64)
    return StageBatch(LineRows(b"".join(texts), starts, ends), np.arange(len(texts), dtype=np.int64))


@pytest.mark.parametrize("values", [range(9), [1, 3], []])
def test_a_stage_of_batches_gives_in_threads_what_it_gives_alone(values: Sequence[int]) -> None:
    stage = Filter(FilterOptions(call=f"{__file__}:even"))
    packet = lines(values)
    with Threaded[StageBatch](stage, workers=3, window=2) as threaded:
        (landed,) = threaded.map([packet], same)

    alone = stage.process(packet)
    assert isinstance(landed.result, Result)
    assert isinstance(landed.result.rows, LineRows)
    assert isinstance(alone.rows, LineRows)
    rows, wanted = landed.result.rows, alone.rows
    assert [rows.data[a:b] for a, b in zip(rows.starts, rows.ends, strict=True)] == [
        wanted.data[a:b] for a, b in zip(wanted.starts, wanted.ends, strict=True)
    ]
    assert landed.result.positions.tolist() == alone.positions.tolist()
    assert landed.result.failures == alone.failures


class Splits(Stage[StageOptions]):
    """Odd and even, by two outputs; two of each."""

    kind = "splits"

    def __init__(self) -> None:
        super().__init__(StageOptions())

    def process(self, batch: StageBatch) -> dict[str, Result]:
        def chosen(odd: int) -> Result:
            return batch.several(lambda row: [{**row, "copy": i} for i in range(2)] if row["n"] % 2 == odd else [])

        return {"even": chosen(0), "odd": chosen(1)}


def test_several_outputs_and_several_rows_of_one_keep_their_order() -> None:
    stage, packet = Splits(), batch([1, 2, 4, 5])
    with Threaded[StageBatch](stage, workers=3) as threaded:
        (landed,) = threaded.map([packet], same)

    assert isinstance(landed.result, dict)
    alone = stage.process(packet)
    assert landed.result.keys() == alone.keys()
    for name, result in alone.items():
        assert landed.result[name].rows == result.rows
        assert landed.result[name].positions.tolist() == result.positions.tolist()
