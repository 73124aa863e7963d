import datetime as dt
from decimal import Decimal
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
from data_bridge.testing import StageContract, StageRun, assert_same_however_cut, run_stage, stage_of


def kept(where: dict[str, Any], *values: Any) -> list[Any]:
    run = run_stage({"filter": {"where": {"x": where}}}, [{"x": value} for value in values])
    assert run.failures == []
    return [row["x"] for row in run.samples]


def why(where: dict[str, Any], value: Any) -> str:
    run = run_stage({"filter": {"where": {"x": where}}}, [{"x": value}])
    assert run.samples == []
    return run.failures[0].reason


def is_even(row: Row) -> bool:
    return bool(row["n"] % 2 == 0)


def at_least(row: Row, bound: int) -> bool:
    return bool(row["n"] >= bound)


class TestWithConditions(StageContract):
    kind = "filter"
    options = {
        "where": {"score": {"min": 0.5}, "lang": {"in": ["en", "de"]}, "text": {"min_length": 2, "matches": "^[A-Z]"}}
    }
    samples = [
        {"score": 0.5, "lang": "en", "text": "Ab"},
        {"score": 0.4, "lang": "en", "text": "Abc"},
        {"score": 0.9, "lang": "fr", "text": "Abc"},
        {"score": 1.5, "lang": "de", "text": "A"},
        {"score": 1.5, "lang": "de", "text": "abc"},
        {"score": None, "lang": "de", "text": "Abc"},
        {"score": 1.0, "lang": None, "text": "Abc"},
        {"score": 1.0, "lang": "en", "text": None},
        {"score": 1.0, "lang": "en", "text": "Ünder"},
        {"score": 2.0, "lang": "en", "text": "Zz"},
    ]  # fmt: skip
    refused = [
        {},
        {"call": "mod:fn", "where": {"score": {"min": 1}}},
        {"where": {}},
        {"where": {"score": {}}},
        {"where": {"score": {"min": True}}},
        {"where": {"score": {"min": float("nan")}}},
        {"where": {"score": {"least": 1}}},
        {"where": {"score": {"min": 2, "max": 1}}},
        {"where": {"score": {"null": True, "min": 1}}},
        {"where": {"text": {"matches": "("}}},
        {"where": {"text": {"min": 1}}},
        {"where": {"score": {"matches": "1"}}},
        {"where": {"score": {"min_length": 1}}},
        {"where": {"lang": {"in": ["en", False]}}},
        {"where": {"nothing": {"min": 1}}},
        {"where": {"score": {"min": 1}}, "arguments": {"a": 1}},
    ]

    def test_it_keeps_what_meets_every_condition(self) -> None:
        assert run_stage(self.config(), self.samples).origins["out"] == [0, 9]


class TestWithFailures(StageContract):
    kind = "filter"
    options = {"where": {"a": {"min": 1}, "b": {"min_length": 1}}}
    samples = [
        {"a": 1, "b": "x"},
        {"a": "1", "b": "x"},
        {"a": 0, "b": 5},
        {"a": 2, "b": 5},
        {"b": "x"},
        {"a": 3, "b": "y"},
    ]
    refused = [{"where": {"c": {"null": True}}}]

    def test_a_sample_dropped_by_an_earlier_condition_does_not_fail_by_a_later_one(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.origins["out"] == [0, 5]
        assert run.reasons == {
            1: "field 'a' is text, not a number (`min` and `max` compare numbers)",
            3: "field 'b' is of type int, which has no length",
        }


class TestWithAFunction(StageContract):
    kind = "filter"
    options = {"call": f"{__file__}:is_even"}
    samples = [{"n": 1}, {"n": 2}, {"m": 3}, {"n": "x"}, {"n": 4}]
    refused = [{"call": "no_such_module:fn"}, {"call": f"{__file__}:no_such_function"}, {"call": "fn"}]


def test_a_function_gets_its_arguments() -> None:
    run = run_stage({"filter": {"call": f"{__file__}:at_least", "arguments": {"bound": 2}}}, [{"n": 1}, {"n": 2}])

    assert run.samples == [{"n": 2}]


@pytest.mark.parametrize(
    ("where", "values", "expected"),
    [
        ({"min": 1}, [0, 1, 1.5, Decimal(2), np.float32(0.5), np.int64(3)], [1, 1.5, Decimal(2), 3]),
        ({"max": 1}, [0, 1, 1.5, None, float("nan"), Decimal("nan")], [0, 1]),
        ({"min": 2**53 + 1}, [2**53, 2**53 + 1, float(2**53)], [2**53 + 1]),
        ({"in": [1]}, [1, 1.0, True, "1", None], [1, 1.0]),
        ({"in": [True, "x"]}, [1, True, "x", "X"], [True, "x"]),
        ({"not_in": [0, "a"]}, [0, False, "a", "b", None, 0.5], [False, "b", 0.5]),
        ({"min_length": 2}, ["a", "ab", "\U0001f600", b"ab", [1, 2], [1], Media(b"ab")], ["ab", b"ab", [1, 2], Media(b"ab")]),
        ({"max_length": 1}, ["", "a", "ab", None, []], ["", "a", []]),
        ({"matches": "b$"}, ["ab", "ba", "b", None], ["ab", "b"]),
        ({"null": True}, [None, 0, ""], [None]),
        ({"null": False}, [None, 0, ""], [0, ""]),
    ],
)  # fmt: skip
def test_a_condition_keeps_the_values_that_meet_it(
    where: dict[str, Any], values: list[Any], expected: list[Any]
) -> None:
    assert kept(where, *values) == expected


def test_a_missing_field_is_as_null() -> None:
    run = run_stage({"filter": {"where": {"x": {"null": True}}}}, [{}, {"x": 1}, {"x": None}])

    assert run.samples == [{}, {"x": None}]


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ({"min": 1}, True, "field 'x' is of type bool, not a number (`min` and `max` compare numbers)"),
        ({"in": [1]}, [1], "field 'x' is a list, not a single value (`in` and `not_in` compare those)"),
        ({"matches": "a"}, 5, "field 'x' is of type int, not text (`matches` is for text)"),
        ({"min_length": 1}, dt.date(2024, 1, 1), "field 'x' is of type date, which has no length"),
    ],
)
def test_a_value_that_cannot_be_asked_is_a_failure_that_names_it(
    where: dict[str, Any], value: Any, reason: str
) -> None:
    assert why(where, value) == reason


COLUMNS = [pa.int8(), pa.uint64(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
           pa.binary(), pa.list_(pa.int32()), pa.large_list(pa.float64()), pa.list_(pa.int64(), 2), pa.decimal128(5, 1)]  # fmt: skip
BOUNDS = st.integers(-300, 300) | st.floats(-300, 300) | st.sampled_from([2**63, -(2**70), 2**53 + 1, 0.7, 1e300])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, list[Any], dict[str, Any]]:
    kind: Any = draw(st.sampled_from(COLUMNS))
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if pa.types.is_integer(kind):
        value: st.SearchStrategy[Any] = st.integers(0, 127)
    elif pa.types.is_floating(kind):
        value = st.floats(width=16) | st.sampled_from([0.7])
    elif pa.types.is_decimal(kind):
        value = st.decimals(-999, 999, places=1)
    elif pa.types.is_nested(kind):
        value = st.lists(st.integers(0, 5), min_size=2, max_size=2 if pa.types.is_fixed_size_list(kind) else 4)
    else:
        value = st.text(st.characters(codec="utf-8"), max_size=4) if "string" in str(kind) else st.binary(max_size=4)
    values = draw(st.lists(st.none() | value, max_size=12))
    names = ["min", "max"] if numeric else ["min_length", "max_length"]
    bounds = {name: draw(st.none() | (BOUNDS if numeric else st.integers(0, 4))) for name in names}
    where = {name: bound for name, bound in bounds.items() if bound is not None} or {"null": draw(st.booleans())}
    if len(where) == 2 and where[names[0]] > where[names[1]]:
        where = {names[0]: where[names[0]]}
    return kind, values, where


@settings(deadline=None, max_examples=60)
@given(cases())
def test_columns_and_single_values_are_judged_alike(case: tuple[Any, list[Any], dict[str, Any]]) -> None:
    kind, values, where = case
    halves = kind == pa.float16()
    array: Any = pa.array([None if v is None else np.float16(v) for v in values] if halves else values, kind)
    columns = ArrowRows(pa.record_batch({"x": array}))
    stage = stage_of({"filter": {"where": {"x": where}}})

    assert run_stage(stage, columns).origins == run_stage(stage, DictRows(decode(columns)[0])).origins


def test_a_column_that_is_not_there_is_as_null() -> None:
    columns = ArrowRows(pa.record_batch({"x": pa.array([1, 2])}))

    assert run_stage({"filter": {"where": {"y": {"null": True}}}}, columns).origins["out"] == [0, 1]
    assert run_stage({"filter": {"where": {"y": {"min": 1}}}}, columns).origins["out"] == []


def test_a_threshold_may_change_in_a_running_stage_and_is_checked_as_in_the_config() -> None:
    options = stage_of({"filter": {"where": {"x": {"min": 1}}}}).options
    changed = options.model_validate({**options.model_dump(), "where": {"x": {"min": 2}}})

    assert type(options).model_fields["where"].json_schema_extra == {"live": "any"}
    assert changed.where["x"].min == 2


def test_what_no_value_of_the_type_equals_is_refused_with_the_likely_reason() -> None:
    stage = stage_of({"filter": {"where": {"lang": {"in": ["en", False]}}}})

    with pytest.raises(ConfigError, match="which False never equals") as refused:
        stage.fields((Field(name="lang", type="string"),))

    assert "quotes" in refused.value.hint


def test_a_field_that_is_not_there_is_refused_with_the_one_that_was_meant() -> None:
    stage = stage_of({"filter": {"where": {"scores": {"min": 1}}}})

    with pytest.raises(ConfigError, match="no field 'scores'") as refused:
        stage.fields((Field(name="score", type="double"),))

    assert "did you mean 'score'?" in refused.value.hint


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.fixed_dictionaries({"x": st.none() | st.integers(-3, 3), "y": st.text("ab", max_size=3)}), max_size=15)
)
def test_it_keeps_the_same_samples_however_they_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"filter": {"where": {"x": {"min": 0}, "y": {"matches": "a"}}}}, samples)


def test_kept_samples_are_as_they_were() -> None:
    samples = [{"x": 1, "y": {"z": [1, None]}}, {"x": 0, "y": {"z": []}}]

    run: StageRun = run_stage({"filter": {"where": {"x": {"min": 1}}}}, samples)

    assert run.samples == samples[:1]
