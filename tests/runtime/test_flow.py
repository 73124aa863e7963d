"""A packet goes through a graph: nothing is lost, nothing changes places, and broken stages are found out."""

import gc
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.stages import Copies, CopiesOptions, Parity

from data_bridge.errors import FatalError
from data_bridge.model.batch import DictRows, RowFailure
from data_bridge.runtime.arena import Arena
from data_bridge.runtime.flow import Flow, Lot, Passed
from data_bridge.runtime.graph import SOURCE
from data_bridge.runtime.stage import Outlet, Result, Stage, StageBatch, StageOptions
from data_bridge.runtime.wiring import Wanted, WantedSink, wire


def lot(count: int, first: int = 0) -> Lot:
    places = np.arange(count, dtype=np.int64)
    return Lot(DictRows([{"id": first + i} for i in range(count)]), places, places + first)


def flow_of(*stages: Wanted, sinks: Mapping[str, str] | None = None, keep_raw: bool = False) -> Flow:
    problems: list[str] = []
    wanted = [WantedSink(name, port) for name, port in (sinks or {}).items()]
    graph = wire(stages, wanted, problems)
    assert problems == []
    return Flow(graph, keep_raw=keep_raw)


def ids(passed: Passed, port: str) -> list[int]:
    found = passed.lots[port].rows
    assert isinstance(found, DictRows)
    return [row["id"] for row in found.rows]


class Failing(Stage[StageOptions]):
    kind = "failing"

    def process(self, batch: StageBatch) -> Result:
        def one(row: dict[str, Any]) -> dict[str, Any]:
            if row["id"] % 3 == 1:
                raise ValueError("every third")
            return row

        return batch.each(one)


class Broken(Stage[StageOptions]):
    """Gives what a test tells it to."""

    kind = "broken"

    def __init__(self, result: Result) -> None:
        super().__init__(StageOptions())
        self.result = result

    def process(self, _batch: StageBatch) -> Result:
        return self.result


@given(st.integers(0, 40), st.integers(0, 1000), st.integers(1, 5))
def test_every_sample_of_a_split_is_at_one_output(count: int, first: int, most: int) -> None:
    flow = flow_of(
        Wanted("copies", "copies", Copies(CopiesOptions(most=most))), Wanted("parity", "parity", Parity(StageOptions()))
    )

    passed = flow(lot(count, first))

    everyone = [i for i in range(first, first + count) for _ in range(i % most)]
    assert sorted(id_ for port in passed.lots for id_ in ids(passed, port)) == everyone
    for port in passed.lots:
        there = passed.lots[port]
        assert (there.indices - first).tolist() == there.offsets.tolist() == [i - first for i in ids(passed, port)]


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_a_join_is_in_source_order_and_then_in_that_of_the_inputs(count: int, one: int, other: int) -> None:
    flow = flow_of(
        Wanted("one", "copies", Copies(CopiesOptions(most=one)), (SOURCE,)),
        Wanted("other", "copies", Copies(CopiesOptions(most=other)), (SOURCE,)),
        Wanted("both", "copies", Copies(CopiesOptions(most=1)), ("one", "other"), enabled=False),
    )

    assert ids(flow(lot(count)), "both.out") == [i for i in range(count) for _ in range(i % one + i % other)]


@pytest.mark.parametrize("keep_raw", [False, True])
def test_a_failure_says_which_stage_and_which_sample_of_the_source(keep_raw: bool) -> None:
    flow = flow_of(
        Wanted("parity", "parity", Parity(StageOptions())),
        Wanted("odd ones", "failing", Failing(StageOptions()), ("parity.odd",)),
        sinks={"odd": "odd ones", "even": "parity.even", "rare": "parity.rare"},
        keep_raw=keep_raw,
    )

    passed = flow(lot(12, first=60))

    assert [(f.offset, f.stage, f.reason) for f in passed.failures] == [
        (1, "odd ones", "ValueError: every third"),
        (7, "odd ones", "ValueError: every third"),
    ]
    assert [f.raw for f in passed.failures] == ([b'{"id":61}', b'{"id":67}'] if keep_raw else [None, None])
    assert [(w.name, w.rows_in, w.rows_out, w.failed, w.dropped) for w in passed.work] == [
        ("parity", 12, 12, 0, 0),
        ("odd ones", 6, 4, 2, 0),
    ]


class Pairs(Stage[StageOptions]):
    """Makes one row of two, named after the first."""

    kind = "pairs"
    drops = True

    def process(self, batch: StageBatch) -> Result:
        pairs = np.arange(len(batch) // 2, dtype=np.int64)
        return replace(batch.only(pairs * 2), used=np.arange(len(pairs) * 2, dtype=np.int64))


def test_samples_that_became_part_of_another_are_not_left_out() -> None:
    passed = flow_of(Wanted("pairs", "pairs", Pairs(StageOptions())))(lot(7))

    assert [(w.rows_in, w.rows_out, w.failed, w.dropped) for w in passed.work] == [(7, 3, 0, 1)]


def test_a_stage_that_is_switched_off_lets_samples_pass_by_its_first_output() -> None:
    flow = flow_of(Wanted("parity", "parity", Parity(StageOptions()), enabled=False))

    passed = flow(lot(5))

    assert [ids(passed, port) for port in ("parity.even", "parity.odd", "parity.rare")] == [[0, 1, 2, 3, 4], [], []]


class InPlace(Stage[StageOptions]):
    kind = "in place"

    def process(self, batch: StageBatch) -> Result:
        def one(row: dict[str, Any]) -> dict[str, Any]:
            row["id"] += 1000
            return row

        return batch.each(one)


def test_what_a_stage_changes_in_place_is_changed_for_nobody_else() -> None:
    flow = flow_of(
        Wanted("same", "parity", Parity(StageOptions()), enabled=False),
        Wanted("changed", "in place", InPlace(StageOptions()), ("same.even",)),
        sinks={"same": "same.even", "changed": "changed", "odd": "same.odd", "rare": "same.rare"},
    )

    passed = flow(lot(3))

    assert ids(passed, "same.even") == [0, 1, 2]
    assert ids(passed, "changed.out") == [1000, 1001, 1002]


@pytest.mark.parametrize(
    ("positions", "failures", "problem"),
    [
        ([0], (), "gave 1 positions for 2 rows"),
        ([0, 3], (), "positions beyond the 3 rows"),
        ([-1, 0], (), "positions beyond the 3 rows"),
        ([1, 0], (), "changed the order of its rows"),
        ([1, 1], (), "several rows of one"),
        ([0, 1], (RowFailure(3, "no such row"),), "failures of rows it was not given"),
    ],
)
def test_a_stage_that_would_mix_up_samples_stops_the_run(
    positions: list[int], failures: tuple[RowFailure, ...], problem: str
) -> None:
    result = Result(DictRows([{}, {}]), np.array(positions, dtype=np.int64), failures)
    flow = flow_of(Wanted("broken", "broken", Broken(result)))

    with pytest.raises(FatalError, match=problem):
        flow(lot(3))


def test_a_stage_that_uses_rows_it_was_not_given_stops_the_run() -> None:
    result = Result(DictRows([{}]), np.array([0], dtype=np.int64), used=np.array([0, 3], dtype=np.int64))

    with pytest.raises(FatalError, match="positions beyond the 3 rows"):
        flow_of(Wanted("broken", "broken", Broken(result)))(lot(3))


def test_what_is_kept_of_a_packet_holds_no_memory_that_lanes_share() -> None:
    arena = Arena(1, 1 << 20)
    box = arena.take()
    assert box is not None
    given = Lot(DictRows([{"n": 1, "image": b"x" * 5000}]), np.array([3]), np.array([7]))
    spans = arena.put(box, given)
    assert spans is not None
    shared = arena.lease(box, spans, arena.give_back)

    kept = shared.kept()
    del shared
    gc.collect()

    assert arena.take() == box
    assert (kept.rows, kept.offsets.tolist(), kept.indices.tolist()) == (given.rows, [3], [7])


def test_a_lot_that_cannot_be_pickled_is_kept_as_it_is() -> None:
    given = Lot(DictRows([{"view": memoryview(b"x")}]), np.array([3]), np.array([7]))

    assert given.kept() is given


def test_samples_that_pass_a_stage_that_is_switched_off_are_counted() -> None:
    flow = flow_of(
        Wanted("failing", "failing", Failing(StageOptions()), enabled=False),
        Wanted("copies", "copies", Copies(CopiesOptions())),
    )

    passed = flow(lot(10))

    assert [(w.name, w.bypassed, w.rows_in, w.rows_out, w.dropped) for w in passed.work] == [
        ("failing", 10, 0, 0, 0),
        ("copies", 0, 10, 13, 3),
    ]


class Making(Stage[StageOptions]):
    """Makes `x` anew, and writes down what it might have overwritten."""

    kind = "making"

    def __init__(self, outlets: Any = ()) -> None:
        super().__init__(StageOptions(), outlets)
        self.mine: frozenset[str] | None = None

    def process(self, batch: StageBatch) -> Result:
        self.mine = batch.mine
        return batch.same(batch.rows).owning("x")


X = frozenset({"x"})


def test_the_sources_memory_is_nobodys_and_what_a_stage_made_its_only_readers() -> None:
    first, second, third = Making(), Making(), Making()
    flow = flow_of(
        Wanted("first", "making", first), Wanted("second", "making", second), Wanted("third", "making", third)
    )

    flow(lot(5))

    assert [stage.mine for stage in (first, second, third)] == [frozenset(), X, X]


def test_a_bypassed_stage_hands_memory_on() -> None:
    last = Making()
    flow = flow_of(
        Wanted("first", "making", Making()),
        Wanted("off", "making", Making(), enabled=False),
        Wanted("last", "making", last),
    )

    flow(lot(5))

    assert last.mine == X


def test_what_is_read_twice_is_overwritten_by_nobody_behind_a_bypassed_stage() -> None:
    last = Making()
    flow = flow_of(
        Wanted("first", "making", Making()),
        Wanted("off", "making", Making(), enabled=False),
        Wanted("last", "making", last),
        sinks={"w": "first", "v": "last"},
    )

    flow(lot(5))

    assert last.mine == frozenset()


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_read_twice_is_overwritten_by_nobody(enabled: bool) -> None:
    two = [Outlet("a"), Outlet("b")]
    stage, reader, of_a, of_b = Making(), Making(), Making(), Making()
    flow = flow_of(
        Wanted("first", "making", stage),
        Wanted("reader", "making", reader),
        Wanted("tee", "making", Making(two), ("reader",), enabled=enabled),
        Wanted("of_a", "making", of_a, ("tee.a",)),
        Wanted("of_b", "making", of_b, ("tee.b",)),
        sinks={"w": "first", "a": "of_a", "b": "of_b"},
    )

    flow(lot(5))

    assert reader.mine == of_a.mine == of_b.mine == frozenset()


@pytest.mark.parametrize("how", ["kept for failures", "looked at everywhere", "sent to another process"])
def test_memory_that_somebody_else_may_still_look_at_is_not_overwritten(how: str) -> None:
    second = Making()
    flow = flow_of(
        Wanted("first", "making", Making()),
        Wanted("second", "making", second),
        keep_raw=how == "kept for failures",
    )
    transit = flow.begin(lot(5))
    every = how == "looked at everywhere"
    flow.advance(transit, 1, every=every)
    if how == "sent to another process":
        transit = pickle.loads(pickle.dumps(transit))

    flow.rest(transit, every=every)

    assert second.mine == frozenset()


class ToBoth(Stage[StageOptions]):
    """Says that its outputs hold different samples, and gives one to both."""

    kind = "to both"
    divides = True

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        first = np.array([0], dtype=np.int64)
        return {"a": batch.same(batch.rows), "b": batch.only(first)}


def test_a_stage_that_divides_gives_no_sample_to_two_outputs() -> None:
    stage = ToBoth(StageOptions(), [Outlet("a"), Outlet("b")])

    with pytest.raises(FatalError, match="gave a row to several outputs"):
        flow_of(Wanted("both", "to both", stage), sinks={"a": "both.a", "b": "both.b"})(lot(3))


@given(st.lists(st.integers(0, 5)), st.integers(0, 40))
def test_an_edge_cuts_no_sample_apart(counts: list[int], at: int) -> None:
    places = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    given_ = Lot(DictRows([{} for _ in places]), places, places)

    edge = given_.edge(at + 1)

    assert edge <= len(given_)
    assert not set(places[:edge]) & set(places[edge:])
    assert edge - at - 1 < 5
