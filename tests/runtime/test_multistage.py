"""A stage that tells its inputs apart is given all that became of a sample, by the names of its inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel, ValidationError

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, FatalError
from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Row, Rows
from data_bridge.model.source import Field
from data_bridge.rows.decoding import decode
from data_bridge.rows.values import dump
from data_bridge.runtime.flow import Flow, Lot
from data_bridge.runtime.graph import Graph
from data_bridge.runtime.multistage import MultiStage, Sample
from data_bridge.runtime.stage import Fields, Result, StageBatch, StageOptions
from data_bridge.stages.build import build
from data_bridge.testing import MultiStageContract, run_multistage, run_stage

JOIN = "support.stages:Captioned"
COPIES = {"support.stages:Copies": {"most": 3}, "name": "copies"}
EVEN = {"filter": {"call": "support.stages:is_even"}, "name": "even", "input": "source"}
HERE = f"{__name__}:"


def graph_of(*stages: dict[str, Any], **pipeline: Any) -> Graph:
    values = {"input_uri": "x.jsonl", "stages": list(stages), **pipeline}
    return build(Settings.model_validate({"pipeline": values}).pipeline)


def joined(**more: Any) -> dict[str, Any]:
    return {JOIN: {}, "name": "joined", "input": {"texts": "copies", "pictures": "even"}, **more}


def lot(count: int, first: int = 0, form: str = "dictionaries") -> Lot:
    places = np.arange(count, dtype=np.int64)
    found = [{"id": first + i, "text": f"t{first + i}"} for i in range(count)]
    rows: Rows = DictRows(found)
    if form == "columns":
        rows = ArrowRows(pa.RecordBatch.from_pylist(found))
    if form == "lines":
        lines = [dump(row) for row in found]
        ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
        rows = LineRows(b"".join(lines), ends - np.array([len(line) for line in lines]), ends)
    return Lot(rows, places, places + first)


def samples(flow: Flow, given: Lot) -> dict[str, list[Any]]:
    passed = flow(given)
    found: dict[str, list[Any]] = {port: decode(each.rows)[0] for port, each in passed.lots.items()}
    return {**found, "failed": [(int(given.indices[f.offset]), f.stage, f.reason) for f in passed.failures]}


@pytest.mark.parametrize("form", ["dictionaries", "columns", "lines"])
def test_it_is_given_by_name_what_became_of_each_sample_of_the_source(form: str) -> None:
    flow = Flow(graph_of(COPIES, EVEN, joined()))

    found = samples(flow, lot(40, form=form))

    texts = {i: [f"t{i}"] * (i % 3) for i in range(0, 40, 2) if i != 36}
    assert found["joined.both"] == [{"id": i, "text": f"t{i}", "texts": t} for i, t in texts.items() if t]
    assert found["joined.alone"] == [{"id": i, "text": f"t{i}"} for i, t in texts.items() if not t]
    assert found["failed"] == [(36, "joined", "ValueError: picture 36 is torn")]


def test_it_makes_the_same_however_the_samples_are_cut() -> None:
    flow = Flow(graph_of(COPIES, EVEN, joined()))
    whole = samples(flow, lot(60))

    for size in (1, 7, 25):
        parts = [samples(flow, lot(min(size, 60 - first), first)) for first in range(0, 60, size)]
        assert {name: [row for part in parts for row in part[name]] for name in whole} == whole


def test_rows_that_became_part_of_a_sample_are_not_counted_as_left_out() -> None:
    flow = Flow(graph_of(COPIES, EVEN, joined()))

    (work,) = [work for work in flow(lot(12)).work if work.name == "joined"]

    assert (work.rows_in, work.rows_out, work.failed) == (6 + 12, 6, 0)
    assert work.dropped == 6, "the copies of odd samples, which have no picture"


def test_the_order_in_which_the_config_names_them_is_nothing_to_it() -> None:
    turned = joined(input={"pictures": "even", "texts": "copies"})
    one, other = (graph_of(COPIES, EVEN, stage).nodes[-1] for stage in (joined(), turned))

    assert one.names == other.names == ("pictures", "texts")
    assert one.inputs == other.inputs == ("even.out", "copies.out")


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (joined(input=["copies", "even"]), "the stage's inputs go by name: write `input: {pictures: …, texts: …}`"),
        ({JOIN: {}, "name": "joined"}, "the stage's inputs go by name: write `input: {pictures: …, texts: …}`"),
        (joined(input={"texts": "copies", "pics": "even"}), "there is no pics; the stage's inputs go by name"),
        (joined(input={"texts": "copies", "pictures": "evn"}), "there is no stage 'evn', did you mean `even`?"),
        (joined(outputs=[{"name": "bth"}]), "stages.joined.outputs: it has no bth; its own are both, alone"),
        (joined(executor="thread"), "stages.joined.executor: it puts together what a sample became"),
        (
            {"filter": {"call": "support.stages:is_even"}, "name": "f", "input": {"a": "even", "b": "copies"}},
            "stages.f.input: there is no a, b; the stage's inputs go by name: write `input: {in: …}`",
        ),
    ],
)
def test_inputs_that_are_not_those_of_the_stage_are_told_by_the_plan(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        graph_of(COPIES, EVEN, stage)

    assert said in refused.value.message


def test_an_input_that_is_the_only_one_is_named_in() -> None:
    assert graph_of(COPIES, {**EVEN, "input": {"in": "copies"}}).nodes[-1].inputs == ("copies.out",)


def test_an_input_that_is_neither_text_nor_list_nor_names_is_refused() -> None:
    with pytest.raises(ValidationError, match="input"):
        graph_of(COPIES, {**EVEN, "input": {"in": ["copies"]}})


class Priced(BaseModel):
    price: int


class Bill(MultiStage[StageOptions]):
    """Adds what wares cost; tells its fields."""

    kind = "bill"
    takes = {"buyers": None, "wares": Priced}

    def fields_of(self, inputs: Mapping[str, Fields]) -> Mapping[str, Fields]:
        return {"out": (*inputs["buyers"], Field(name="sum", type="int64", nullable=False))}

    def combine(self, sample: Sample) -> Sample:
        total = sum(ware["price"] for ware in sample["wares"])
        return {"out": [{**buyer, "sum": total} for buyer in sample["buyers"]]}


class Astray(Bill):
    def combine(self, sample: Sample) -> Sample:
        return {"nowhere": sample["buyers"]}


class Summed(BaseModel):
    sum: int


class Uneven(Bill):
    """Gives what it may not."""

    output_schema = Summed

    def combine(self, sample: Sample) -> Sample:
        return {"out": [{**row, "sum": row["sum"] / 4} for row in super().combine(sample)["out"]]}


def test_what_may_not_be_given_is_counted_once() -> None:
    graph = bill(Uneven)
    rows: list[Row] = [{"id": i, "price": i} for i in range(8)]
    places = np.arange(8, dtype=np.int64)

    passed = Flow(graph)(Lot(DictRows(rows), places, places))

    work = passed.work[-1]
    assert len(passed.failures) == work.failed == 4
    assert (work.rows_in, work.rows_out, work.dropped) == (4 + 8, 0, 4), "the wares of odd samples, which nobody buys"


class Counted(Bill):
    """Has a method on the whole batch."""

    def process(self, batch: StageBatch) -> dict[str, Result]:
        assert batch.origins is not None
        buyers = np.flatnonzero(batch.origins == batch.inputs.index("buyers"))
        return {"out": batch.only(buyers)}


def bill(kind: type[Bill] = Bill) -> Graph:
    wares = {"map": {"call": "support.live_calls:times"}, "name": "wares", "input": "source"}
    buyers = {"filter": {"call": "support.stages:is_even"}, "name": "buyers", "input": "source"}
    given = {"buyers": "buyers", "wares": "wares"}
    return graph_of(wares, buyers, {f"{HERE}{kind.__name__}": {}, "name": "bill", "input": given})


def test_fields_at_its_inputs_are_checked_and_those_at_its_outputs_told() -> None:
    names = (Field(name="id", type="int64"), Field(name="price", type="string"))
    observed = {"wares.out": names, "buyers.out": names}

    with pytest.raises(ConfigError, match=r"stages\.bill: needs at wares `price`: expected int, found string"):
        bill().fields(names, observed)
    names = (Field(name="id", type="int64"), Field(name="price", type="int64"))
    told = bill().fields(names, {"wares.out": names, "buyers.out": names})

    assert [field.name for field in told["bill.out"]] == ["id", "price", "sum"]


def test_a_sample_that_does_not_fit_an_input_is_a_failure_and_none_of_it_goes_on() -> None:
    wares: list[Any] = [{"price": 2}, {"price": 3}]
    run = run_multistage(
        {f"{HERE}Bill": {}},
        [
            {"buyers": [{"name": "a"}], "wares": wares},
            {"buyers": [{"name": "b"}], "wares": [{"price": "much"}, *wares]},
            {"buyers": [{"name": "c"}]},
            {"wares": wares},
        ],
    )

    assert run.samples == [{"name": "a", "sum": 5}, {"name": "c", "sum": 0}]
    assert run.origins == {"out": [0, 2]}
    assert run.reasons == {1: "needs at wares `price`: expected a valid integer, found str 'much'"}


def test_samples_for_an_output_that_it_does_not_name_end_the_run() -> None:
    with pytest.raises(FatalError, match="a bill gave samples to nowhere, and its outputs are out"):
        run_multistage({f"{HERE}Astray": {}}, [{"buyers": [{"name": "a"}]}])


def test_a_method_on_the_whole_batch_is_told_by_which_input_each_row_came() -> None:
    run = run_multistage(
        {f"{HERE}Counted": {}}, [{"buyers": [{"n": 1}], "wares": [{"price": 1}]}, {"buyers": [{"n": 2}]}]
    )

    assert run.samples == [{"n": 1}, {"n": 2}]


class TestCaptioned(MultiStageContract):
    kind = JOIN
    samples = [
        {"pictures": [{"id": 1}], "texts": [{"id": 1, "text": "one"}, {"id": 1, "text": "eins"}]},
        {"pictures": [{"id": 5}], "texts": [{"id": 5, "text": "torn"}]},
        {"pictures": [{"id": 2}]},
        {"texts": [{"id": 3, "text": "three"}]},
        {"pictures": [{"id": 4}], "texts": [{"id": 4}]},
    ]


class Hoarding(Bill):
    """Keeps what it was given, and changes it."""

    def combine(self, sample: Sample) -> Sample:
        for ware in sample["wares"]:
            ware["tags"].append("seen")
        return {"out": sample["wares"]}


def test_a_stage_that_changes_what_it_was_given_fails_the_test_of_it() -> None:
    sample = {"wares": [{"price": 1, "tags": ["a"]}]}
    case: Any = type("Case", (MultiStageContract,), {"kind": f"{HERE}Hoarding", "samples": [sample]})()

    with pytest.raises(AssertionError):
        case.test_samples_it_was_given_stay_as_they_are()


def test_it_cannot_be_run_as_if_it_had_one_input() -> None:
    with pytest.raises(TypeError, match="run_multistage"):
        run_stage({f"{HERE}Bill": {}}, [{"price": 1}])
