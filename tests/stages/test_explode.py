from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Media, Row
from data_bridge.model.source import Field
from data_bridge.rows.decoding import decode
from data_bridge.testing import StageContract, assert_same_however_cut, run_stage, stage_of

SAMPLES: list[Row] = [
    {"id": 1, "tags": ["a", "b"]},
    {"id": 2, "tags": []},
    {"id": 3, "tags": None},
    {"id": 4, "tags": ["c", None]},
    {"id": 5, "tags": "d"},
    {"id": 6},
]


class TestDroppingEmptyLists(StageContract):
    kind = "explode"
    options = {"field": "tags"}
    samples = SAMPLES
    refused = [
        {},
        {"field": "tag"},
        {"field": "id"},
        {"field": "tags", "index_field": "id"},
        {"field": "tags", "empty": "fail"},
    ]

    def test_each_element_becomes_a_sample_with_the_other_fields(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.samples == [
            {"id": 1, "tags": "a"},
            {"id": 1, "tags": "b"},
            {"id": 4, "tags": "c"},
            {"id": 4, "tags": None},
        ]
        assert run.origins["out"] == [0, 0, 3, 3]
        assert run.reasons == {4: "field 'tags' is of type str, not a list"}


class TestKeepingEmptyLists(StageContract):
    kind = "explode"
    options = {"field": "tags", "empty": "keep", "index_field": "place"}
    samples = [sample for sample in SAMPLES if sample.get("tags") != "d"]

    def test_a_sample_without_an_element_is_kept_with_null(self) -> None:
        assert run_stage(self.config(), self.samples).samples == [
            {"id": 1, "tags": "a", "place": 0},
            {"id": 1, "tags": "b", "place": 1},
            {"id": 2, "tags": None, "place": None},
            {"id": 3, "tags": None, "place": None},
            {"id": 4, "tags": "c", "place": 0},
            {"id": 4, "tags": None, "place": 1},
            {"id": 6, "tags": None, "place": None},
        ]


LISTS: list[Any] = [
    pa.list_(pa.int32()),
    pa.large_list(pa.float64()),
    pa.list_(pa.list_(pa.int8())),
    pa.list_(pa.int64(), 2),
]


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    kind = draw(st.sampled_from(LISTS))
    item: st.SearchStrategy[Any] = st.none() | st.integers(0, 9)
    if pa.types.is_nested(kind.value_type):
        item = st.lists(st.integers(0, 9), max_size=2)
    size: Any = {"min_size": 2, "max_size": 2} if pa.types.is_fixed_size_list(kind) else {"max_size": 3}
    return kind, draw(st.lists(st.none() | st.lists(item, **size), max_size=8))


@settings(deadline=None, max_examples=100)
@given(columns(), st.sampled_from(["drop", "keep"]), st.none() | st.just("n"), st.integers(0, 3))
def test_columns_and_single_values_are_exploded_alike(given: Any, empty: str, place: str | None, first: int) -> None:
    kind, values = given
    batch = pa.record_batch(
        {"a": pa.array(range(len(values))), "x": pa.array(values, kind), "z": pa.array(["z"] * len(values))}
    )
    table = ArrowRows(batch).slice(min(first, len(values)), len(values))
    config = {"explode": {"field": "x", "empty": empty, "index_field": place}}

    found, expected = run_stage(config, table), run_stage(config, DictRows(decode(table)[0]))

    assert found == expected
    assert [list(row) for row in found.samples] == [list(row) for row in expected.samples]


def test_columns_stay_columns() -> None:
    from data_bridge.runtime.stage import Result, StageBatch

    table = ArrowRows(pa.record_batch({"x": pa.array([["a"], ["b", "c"]])}))

    made = stage_of({"explode": {"field": "x"}}).process(StageBatch(table, np.arange(2, dtype=np.int64)))

    assert isinstance(made, Result)
    assert isinstance(made.rows, ArrowRows)


def test_arrays_give_plain_numbers_and_files_stay_files() -> None:
    run = run_stage(
        {"explode": {"field": "x"}}, [{"x": np.array([1, 2], dtype=np.int16)}, {"x": [Media(b"a", "a.jpg")]}]
    )

    assert [row["x"] for row in run.samples] == [1, 2, Media(b"a", "a.jpg")]
    assert type(run.samples[0]["x"]) is int


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("list<int32>", "int32"),
        ("list<list<string>>", "list<string>"),
        ("list<float>[3]", "float"),
        ("list<struct<bytes: binary, path: string>>", "media"),
    ],
)
def test_the_field_has_the_type_of_the_elements(kind: str, made: str) -> None:
    told = stage_of({"explode": {"field": "x", "index_field": "n"}}).fields(
        (Field(name="x", type=kind), Field(name="y", type="bool"))
    )

    assert told is not None
    assert [(f.name, f.type) for f in told] == [("x", made), ("y", "bool"), ("n", "int64")]


def test_a_list_of_anything_is_known_only_by_looking() -> None:
    assert stage_of({"explode": {"field": "x"}}).fields((Field(name="x", type="json"),)) is None


def test_a_number_is_no_list() -> None:
    with pytest.raises(ConfigError, match="not a list"):
        stage_of({"explode": {"field": "x"}}).fields((Field(name="x", type="int64"),))


def test_a_sample_that_has_the_new_field_already_fails() -> None:
    run = run_stage({"explode": {"field": "x", "index_field": "n"}}, [{"x": [1]}, {"x": [1], "n": 5}])

    assert run.reasons == {1: "there is a field 'n' already"}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.fixed_dictionaries({"x": st.none() | st.lists(st.text("ab"), max_size=3), "y": st.integers(0, 9)}),
        max_size=9,
    )
)
def test_it_makes_the_same_however_samples_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"explode": {"field": "x", "index_field": "n"}}, samples)
    assert_same_however_cut({"explode": {"field": "x", "index_field": "n", "empty": "keep"}}, samples)
