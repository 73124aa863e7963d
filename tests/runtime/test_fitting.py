"""Rows against what a stage declares that it needs and gives."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, field_validator

from data_bridge.model import source
from data_bridge.model.batch import ArrowRows, DictRows, Media, Row
from data_bridge.runtime.fitting import fitted, mismatches
from data_bridge.runtime.stage import Outlet, Result, RowSchema, Stage, StageBatch, StageOptions
from data_bridge.runtime.threaded import Threaded
from data_bridge.testing import run_stage
from data_bridge.testing.running import forms


class Passing(Stage[StageOptions]):
    kind = "passing"
    given = 0

    def process(self, batch: StageBatch) -> Result:
        self.given += len(batch)
        return batch.same(batch.rows)


def passing(needs: RowSchema = None, gives: RowSchema = None) -> Passing:
    class Declared(Passing):
        input_schema = needs
        output_schema = gives

    return Declared(StageOptions())


class Inner(BaseModel):
    n: int


class Wanted(BaseModel):
    id: int = Field(ge=1)
    text: str
    inner: Inner | None = None
    tags: list[str] = []

    @field_validator("text")
    @classmethod
    def not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value


def test_a_row_that_does_not_fit_is_a_failure_with_field_expected_and_found_and_is_not_given_to_the_stage() -> None:
    rows: list[Row] = [
        {"id": 1, "text": "a"},
        {"id": "2", "text": "a"},
        {"id": 3},
        {"id": 0, "text": "a"},
        {"id": 5, "text": ""},
        {"id": 6, "text": "a", "inner": {"n": None}},
        {"id": 7, "text": "a", "inner": None, "tags": ["x"], "more": 1},
    ]
    for _, form in forms(rows):
        stage = passing(Wanted)
        run = run_stage(stage, form)

        assert run.origins["out"] == [0, 6]
        assert stage.given == 2
        assert run.reasons | {5: ""} == {
            1: "needs `id`: expected a valid integer, found str '2'",
            2: "needs `text`: expected a value, found none",
            3: "needs `id`: expected greater than or equal to 1, found int '0'",
            4: "needs `text`: expected must not be empty, found str ''",
            5: "",
        }
        assert "inner.n" in run.reasons[5]


ARROW: list[tuple[pa.DataType, list[Any], list[Any]]] = [
    (pa.int8(), [127, -128], [128, 1.5, "1", True, None]),
    (pa.uint16(), [65535], [-1]),
    (pa.float32(), [1.5, 2], ["1"]),
    (pa.bool_(), [True], [1]),
    (pa.string(), ["x"], [b"x", 1]),
    (pa.binary(), [b"x", Media(b"x")], ["x", [1]]),
    (pa.list_(pa.int16()), [[1, 2], np.array([1, 2])], [[1, "2"], 3, [70_000]]),
    (pa.list_(pa.float32(), 2), [[1.0, 2.0]], [[1.0]]),
    (pa.struct([pa.field("a", pa.int8(), nullable=False)]), [{"a": 1}], [{}, {"a": None}, 1]),
    (pa.timestamp("us"), ["2020-01-01T00:00:00"], [5]),
    (pa.dictionary(pa.int8(), pa.string()), ["x"], [5]),
]


@pytest.mark.parametrize(
    ("type_", "good", "bad"), ARROW, ids=lambda value: str(value) if isinstance(value, pa.DataType) else ""
)
def test_values_fit_an_arrow_type_exactly(type_: pa.DataType, good: list[Any], bad: list[Any]) -> None:
    stage = passing(pa.schema([pa.field("my field", type_, nullable=False)]))
    run = run_stage(stage, [{"my field": value} for value in [*good, *bad]])

    assert run.origins["out"] == list(range(len(good)))
    assert sorted(run.reasons) == list(range(len(good), len(good) + len(bad)))
    assert all("my field" in why for why in run.reasons.values())


def test_columns_of_the_very_types_are_not_looked_at_and_nulls_are_found_where_none_may_be() -> None:
    wanted = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    whole = ArrowRows(pa.RecordBatch.from_pydict({"n": [1, 2]}))
    holes = ArrowRows(pa.RecordBatch.from_pydict({"n": [1, None]}))

    assert fitted(passing(wanted), StageBatch(whole, np.arange(2))).rows is whole  # type: ignore[union-attr]
    assert run_stage(passing(wanted), holes).reasons == {1: "needs `n`: expected a valid integer, found null"}


class Doubles(Stage[StageOptions]):
    """Two of each, the second with something in it that is none of what it says."""

    kind = "doubles"
    multiplies = True
    output_schema = pa.schema([("n", pa.int64())])

    def process(self, batch: StageBatch) -> Result:
        return batch.several(lambda row: [row, {"n": "bad" if row["n"] == 2 else 9}])


def test_a_sample_of_which_something_was_made_that_does_not_fit_is_a_failure_whole() -> None:
    run = run_stage(Doubles(StageOptions()), [{"n": 1}, {"n": 2}, {"n": 3}])

    assert run.samples == [{"n": 1}, {"n": 9}, {"n": 3}, {"n": 9}]
    assert run.reasons == {1: "gave `n`: expected a valid integer, found str 'bad'"}


class Halves(Stage[StageOptions]):
    kind = "halves"
    divides = True
    drops = True
    input_schema = pa.schema([("n", pa.int64())])
    output_schema = pa.schema([pa.field("ok", pa.bool_())])

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        small = np.flatnonzero([row["n"] < 3 for row in batch.rows.rows])  # type: ignore[union-attr] # given as such
        return {"a": batch.only(small), "b": batch.only(np.setdiff1d(np.arange(len(batch)), small))}


def test_every_output_is_held_to_the_schema_and_places_are_those_of_the_whole_batch() -> None:
    rows: list[Row] = [{"n": "x"}, {"n": 1, "ok": 5}, {"n": 2, "ok": True}, {"n": 4, "ok": "no"}, {"n": 5}]
    run = run_stage(Halves(StageOptions(), [Outlet("a"), Outlet("b")]), rows)

    assert run.origins == {"a": [2], "b": [4]}
    assert [failure.offset for failure in run.failures] == [0, 1, 3]


class Twice(Stage[StageOptions]):
    """Gives every row to both outputs, at one of them changed."""

    kind = "twice"
    divides = True
    multiplies = True
    output_schema = pa.schema([pa.field("n", pa.int64())])

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        changed = batch.each(lambda row: {"n": "even"} if row["n"] % 2 == 0 else row)
        return {"as_it_is": batch.same(batch.rows), "changed": changed}


def test_a_row_that_does_not_fit_at_one_output_is_at_no_other() -> None:
    run = run_stage(Twice(StageOptions(), [Outlet("as_it_is"), Outlet("changed")]), [{"n": 1}, {"n": 2}, {"n": 3}])

    assert run.origins == {"as_it_is": [0, 2], "changed": [0, 2]}
    assert [failure.offset for failure in run.failures] == [1]


@pytest.mark.parametrize("rowwise", [True, False])
def test_in_threads_the_same_rows_fit(rowwise: bool) -> None:
    class Calls(Passing):
        input_schema = Wanted
        output_schema = pa.schema([("late", pa.int64())])

    class OneByOne(Calls):
        def one(self, row: Row) -> Row:
            return row

        def interrupt(self) -> None: ...

    batch = StageBatch(
        DictRows([{"id": "1"}, {"id": 2, "text": "a"}, {"id": 3, "text": "b", "late": "x"}, {"id": 4, "text": "c"}]),
        np.arange(4, dtype=np.int64),
    )
    stage = (OneByOne if rowwise else Calls)(StageOptions())
    with Threaded[StageBatch](stage, 2) as threads:
        (landed,) = threads.map([batch], lambda packet: packet)

    assert isinstance(landed.result, Result)
    assert landed.result.positions.tolist() == [1, 3]
    assert [f.offset for f in landed.result.failures] == [0, 2]


def test_fields_that_cannot_fit_are_told_without_a_row() -> None:
    fields = tuple(
        source.Field(name=name, type=type_)
        for name, type_ in (("id", "string"), ("text", "large_string"), ("inner", "list<int64>"), ("tags", "json"))
    )

    assert list(mismatches(Wanted, fields, "needs")) == [
        "needs `id`: expected int, found string",
        "needs `inner`: expected struct, found list<int64>",
    ]
    assert next(mismatches(Wanted, fields[2:3], "needs")) == (
        "needs `id`: expected int, found no such field among inner"
    )
    assert not list(mismatches(Wanted, (), "needs")), "nothing is known"
    types: list[tuple[str, pa.DataType]] = [("x", pa.float32()), ("at", pa.timestamp("ms")), ("image", pa.binary())]
    wanted = pa.schema(types)
    known = (("x", "int64"), ("at", "timestamp[us]"), ("image", "media"))
    assert not list(mismatches(wanted, tuple(source.Field(name=n, type=t) for n, t in known), "needs"))
