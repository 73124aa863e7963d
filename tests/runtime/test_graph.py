"""Stages are wired by name, and every mistake of a config is told at once."""

from typing import Any

import pytest
from pydantic import ValidationError
from support.stages import Copies, CopiesOptions, Parity

from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.runtime.graph import SOURCE, Graph, Sink
from data_bridge.runtime.stage import StageOptions
from data_bridge.runtime.wiring import Wanted, WantedSink, wire
from data_bridge.stages.build import build
from data_bridge.stages.shuffle import Shuffle, ShuffleOptions

SAME = {"map": {"call": "support.live_calls:times"}}


def graph_of(*stages: dict[str, Any], **pipeline: Any) -> Graph:
    values = {"input_uri": "x.jsonl", "stages": list(stages), **pipeline}
    return build(Settings.model_validate({"pipeline": values}).pipeline, check=True)


def wanted(name: str, *inputs: str) -> Wanted:
    return Wanted(name, "copies", Copies(CopiesOptions()), inputs)


def parity(name: str, *inputs: str) -> Wanted:
    return Wanted(name, "parity", Parity(StageOptions()), inputs)


def test_a_pipeline_without_stages_writes_what_it_reads() -> None:
    assert graph_of().sinks == (Sink("", SOURCE),)


def test_a_stage_reads_the_one_before_it() -> None:
    graph = graph_of(SAME, SAME)

    assert [(node.name, node.inputs) for node in graph.nodes] == [("map", (SOURCE,)), ("map-2", ("map.out",))]
    assert graph.sinks == (Sink("", "map-2.out"),)


def test_stages_may_be_written_in_any_order() -> None:
    problems: list[str] = []

    graph = wire([wanted("late", "early"), wanted("early", SOURCE)], [], problems)

    assert problems == []
    assert [node.name for node in graph.nodes] == ["early", "late"]


@pytest.mark.parametrize("executor", ["thread", "process", "inline"])
def test_results_out_of_order_are_refused_whatever_the_executor(executor: str) -> None:
    with pytest.raises(
        ConfigError, match=r"stages\.map\.ordered: false would let the moment .* other bytes: leave it out"
    ):
        graph_of({**SAME, "ordered": False, "executor": executor})

    assert graph_of({**SAME, "ordered": True, "executor": executor}).nodes


def test_results_out_of_order_are_refused_beside_the_way_too() -> None:
    with pytest.raises(ConfigError, match=r"stages\.preview\.ordered"):
        graph_of(SAME, {"preview": {}, "ordered": False})


def test_what_only_looks_is_passed_by() -> None:
    graph = graph_of(SAME, {"preview": {}}, {"filter": {"where": {"n": {"min": 1}}}}, {"preview": {"samples": 3}})

    assert [(node.name, node.inputs) for node in graph.nodes] == [("map", (SOURCE,)), ("filter", ("map.out",))]
    assert graph.sinks == (Sink("", "filter.out"),)
    assert [(b.port, b.name, b.overflow, b.capacity, b.most) for b in graph.branches] == [
        ("map.out", "preview", "KEEP_NEWEST", 4, 16),
        ("filter.out", "preview-2", "KEEP_NEWEST", 4, 3),
    ]


def test_a_look_at_the_source_needs_no_other_stage() -> None:
    graph = graph_of({"preview": {}})

    assert (graph.nodes, graph.sinks) == ((), (Sink("", SOURCE),))
    assert [branch.port for branch in graph.branches] == [SOURCE]


def test_the_config_says_how_packets_wait_before_a_branch() -> None:
    look = {"name": "look", "queue_capacity": 2, "overflow_behavior": "drop_new"}
    graph = graph_of(
        {**SAME, "outputs": [{"name": "out"}, look]},
        {**SAME, "name": "other", "input": "map.look"},
        {"preview": {}},
    )

    assert graph.sinks == (Sink("", "map.out"),)
    (branch,) = graph.branches
    assert ([node.name for node in branch.nodes], branch.port) == (["other", "preview"], "map.look")
    assert (branch.overflow, branch.capacity, branch.most) == ("DROP_NEW", 2, 0)


def test_the_outputs_of_a_stage_that_does_not_divide_hold_the_same() -> None:
    graph = graph_of({**SAME, "outputs": [{"name": "a"}, {"name": "b"}]})

    assert graph.sinks == (Sink("a", "map.a"), Sink("b", "map.b"))
    assert graph.keeps_counts("map.a")
    assert graph.keeps_counts("map.b")


def test_everything_that_is_wrong_beside_the_way_is_told_at_once() -> None:
    lossy = {"overflow_behavior": "KEEP_NEWEST"}
    with pytest.raises(ConfigError) as refused:
        graph_of(
            {**SAME, "output": lossy},
            {**SAME, "name": "second", "input": "map", "output": {"name": "x", **lossy}},
            {"shuffle": {"window": 8}, "input": "second.x", "output": lossy},
            {"preview": {}, "input": ["shuffle", "source"], "executor": "thread"},
            {"filter": {"where": {"n": {"min": 1}}}, "input": "preview"},
            {**SAME, "name": "last", "input": "map", "pool": "p"},
            writers=[{"name": "w", "input": "last"}],
            pools={"p": {"bytes": "1MB"}},
        )

    told = refused.value.message
    for words in (
        "stages.map.out: KEEP_NEWEST would lose samples on their way to a writer",
        "stages.shuffle: it needs samples together, which it does not get beside",
        "stages.shuffle.out: nothing queues there",
        "stages: second, shuffle, preview lead to no writer, and read map.out and source",
        "stages.preview.executor: it has a thread of its own",
        "stages.filter.input: preview only looks at samples",
        "stages.last.pool: no packet waits there",
        "stages: nothing reads filter.out",
    ):
        assert words in told, told


def test_what_remembers_or_wants_threads_has_no_place_beside_the_way() -> None:
    with pytest.raises(ConfigError) as refused:
        graph_of(
            SAME,
            {"support.stages:Tally": {}, "name": "tally", "input": "map"},
            {"preview": {}},
            writers=[{"name": "w", "input": "map"}],
        )
    assert "stages.tally: it remembers, and what is beside the way" in refused.value.message

    with pytest.raises(ConfigError, match=r"stages\.x\.executor: it leads to no writer"):
        graph_of(
            SAME,
            {**SAME, "name": "x", "input": "map", "executor": "thread"},
            {"preview": {}},
            writers=[{"name": "w", "input": "map"}],
        )


def test_one_branch_has_one_pool() -> None:
    with pytest.raises(ConfigError, match="give them one pool, not a and b"):
        graph_of(
            SAME,
            {**SAME, "name": "x", "pool": "a", "input": "map"},
            {"preview": {}, "pool": "b"},
            writers=[{"name": "w", "input": "map"}],
            pools={"a": {"bytes": 1}, "b": {"bytes": 1}},
        )


def test_a_pool_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"stages.preview.pool: there is no pool 'p' in `pools`; there is q"):
        graph_of({"preview": {}, "pool": "p"}, pools={"q": {"bytes": "1MB"}})


def test_every_output_that_nobody_reads_gets_a_writer_of_its_own() -> None:
    graph = wire([parity("parity"), wanted("copies", "parity.odd")], [], [])

    assert graph.sinks == (
        Sink("even", "parity.even"),
        Sink("rare", "parity.rare"),
        Sink("copies", "copies.out"),
    )


@pytest.mark.parametrize(
    ("stages", "sinks", "problem"),
    [
        ([wanted("a", "b"), wanted("b", "a")], [], "they read one another in a circle"),
        ([wanted("copies"), wanted("other", "copis")], [], "there is no stage 'copis', did you mean `copies`?"),
        ([parity("parity"), wanted("next")], [], "has several outputs: name one of `parity.even`, `parity.odd`"),
        ([parity("parity"), wanted("next", "parity.ood")], [], "parity has no output 'ood'"),
        ([wanted("source")], [], "no stage may be named `source`"),
        ([wanted("a"), wanted("b", "a", "a.out")], [], "reads a.out twice"),
        ([parity("p")], [WantedSink("x", "p.odd"), WantedSink("y", "p.even")], "nothing reads p.rare"),
        ([wanted("a")], [WantedSink("x", "a"), WantedSink("x", SOURCE)], "two are named 'x'"),
        (
            [Wanted("s", "shuffle", Shuffle(ShuffleOptions()), (SOURCE,)), wanted("j", "s", SOURCE)],
            [],
            "joins what s has put in another order: join first",
        ),
        ([wanted("write")], [], "no stage may be named `write`"),
        ([parity("p"), wanted("odd", "p.even")], [], "two are named 'odd'"),
        (
            [Wanted("s", "shuffle", Shuffle(ShuffleOptions()), threads=4)],
            [],
            "it needs samples together, and `thread` gives them one by one",
        ),
        (
            [
                Wanted("a", "shuffle", Shuffle(ShuffleOptions(window=10))),
                Wanted("b", "shuffle", Shuffle(ShuffleOptions(window=20))),
            ],
            [],
            "different numbers of samples at a time (a 10, b 20)",
        ),
    ],
)
def test_a_mistake_is_named(stages: list[Wanted], sinks: list[WantedSink], problem: str) -> None:
    problems: list[str] = []

    wire(stages, sinks, problems)

    assert any(problem in told for told in problems), problems


def test_mistakes_of_several_kinds_are_told_together() -> None:
    with pytest.raises(ConfigError) as refused:
        graph_of(
            {"mapp": {}},
            {"map": {"cal": "x:y"}, "input": "filter"},
            {"map": {"call": "support.live_calls:nothing_there"}, "name": "last", "input": ["map", "nobody"]},
        )

    message = refused.value.message
    assert "no kind of stage 'mapp'" in message
    assert "unknown key, did you mean `call`?" in message
    assert "nothing_there" in message
    assert "there is no stage 'filter'" in message
    assert "there is no stage 'nobody'" in message


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        ({"map": {}, "filter": {}}, "this one has 2: filter, map"),
        ({"name": "x"}, "this one has none"),
        ({"map": {}, "nam": "x"}, "did you mean `name`?"),
        ({"map": "x"}, "are a block"),
        ({"map": {}, "output": {}, "outputs": []}, "exclude each other"),
        ({"map": {}, "name": "a/b"}, "is no name"),
        ({"map": {}, "outputs": [{"name": "a"}, {"name": "a"}]}, "two outputs are named 'a'"),
    ],
)
def test_an_item_holds_exactly_one_kind_and_keys_that_exist(stage: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("?", r"\?")):
        graph_of(stage)


def test_counts_are_kept_only_where_every_sample_stays_one() -> None:
    graph = graph_of(
        SAME,
        {"filter": {"call": "support.stages:is_even"}},
        {"map": {"call": "support.live_calls:times"}, "input": "source", "name": "tee"},
        {"map": {"call": "support.live_calls:times"}, "input": ["filter", "tee"], "name": "join"},
    )

    assert [graph.keeps_counts(p) for p in (SOURCE, "map.out", "filter.out", "tee.out", "join.out")] == [
        True, True, False, True, False,
    ]  # fmt: skip
    assert graph.multiplies("join.out")
    assert not graph.multiplies("filter.out")


def test_a_join_that_is_switched_off_still_joins() -> None:
    graph = wire(
        [wanted("a", SOURCE), wanted("b", SOURCE), Wanted("j", "copies", Copies(CopiesOptions()), ("a", "b"), False)],
        [],
        [],
    )

    assert graph.multiplies("j.out")
    assert not graph.keeps_counts("j.out")


def test_the_order_of_stages_is_that_of_the_config_wherever_it_can_be() -> None:
    names = [f"n{number}" for number in range(8)]

    graph = wire([wanted("all", *names), *(wanted(name, SOURCE) for name in names)], [], [])

    assert [node.name for node in graph.nodes] == [*names, "all"]
