import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Row
from data_bridge.model.source import Field
from data_bridge.rows.decoding import decode
from data_bridge.rows.values import dump
from data_bridge.stages.cast import TYPES
from data_bridge.testing import StageContract, StageRun, assert_same_however_cut, run_stage, stage_of

NAN, INF = float("nan"), float("inf")


def cast(kind: str, *values: Any) -> StageRun:
    return run_stage({"cast": {"fields": {"x": kind}}}, [{"x": value} for value in values])


def one(kind: str, value: Any) -> Any:
    run = cast(kind, value)
    assert run.failures == []
    return run.samples[0]["x"]


def why(kind: str, value: Any) -> str:
    run = cast(kind, value)
    assert run.samples == []
    return run.failures[0].reason


class TestNumbers(StageContract):
    kind = "cast"
    options = {"fields": {"id": "int32", "score": "float32", "name": "string"}}
    samples = [
        {"id": 1, "score": 0.1, "name": "a"},
        {"id": -(2**31), "score": None, "name": None},
        {"id": 2**31, "score": 1.0, "name": "b"},
        {"id": 7, "score": 1e39, "name": "c"},
        {"id": None, "score": -2.5, "name": "d"},
    ]
    refused = [
        {},
        {"fields": {}},
        {"fields": {"id": "int33"}},
        {"fields": {"id": "list<int64>"}},
        {"fields": {"ids": "int64"}},
    ]


class TestTexts(StageContract):
    kind = "cast"
    options = {"fields": {"n": "int64", "f": "float64", "b": "bool", "t": "timestamp", "d": "date"}}
    samples = [
        {"n": "12", "f": "1.5", "b": "true", "t": "2024-02-29T12:00:00Z", "d": "2024-02-29"},
        {"n": "-3", "f": "1e3", "b": "0", "t": "1969-12-31 23:59:59.5+01:00", "d": "0001-01-01"},
        {"n": "1.5", "f": "1", "b": "1", "t": None, "d": None},
        {"n": "1", "f": "nan", "b": "1", "t": None, "d": None},
        {"n": "1", "f": "1", "b": "yes", "t": None, "d": None},
        {"n": "1", "f": "1", "b": "1", "t": "2024-02-29T12:00:00", "d": None},
        {"n": "1", "f": "1", "b": "1", "t": None, "d": "2023-02-29"},
        {"n": " 5 ", "f": " 5 ", "b": "False", "t": "2024-01-01Z", "d": None},
    ]

    def test_texts_are_read_as_what_they_spell(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.samples == [
            {"n": 12, "f": 1.5, "b": True, "t": "2024-02-29T12:00:00.000000Z", "d": "2024-02-29"},
            {"n": -3, "f": 1000.0, "b": False, "t": "1969-12-31T22:59:59.500000Z", "d": "0001-01-01"},
            {"n": 5, "f": 5.0, "b": False, "t": "2024-01-01T00:00:00.000000Z", "d": None},
        ]
        assert sorted(run.reasons) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int64", 2.0, 2),
        ("int64", True, 1),
        ("int64", Decimal("5.0"), 5),
        ("uint64", str(2**64 - 1), 2**64 - 1),
        ("int8", np.float32(-128), -128),
        ("float64", 2**53, 2.0**53),
        ("float32", 0.1, 0.10000000149011612),
        ("float64", Decimal("0.1"), 0.1),
        ("string", 1, "1"),
        ("string", 1.0, "1.0"),
        ("string", True, "true"),
        ("string", Decimal("1.10"), "1.10"),
        ("string", dt.date(2024, 1, 2), "2024-01-02"),
        ("string", "é".encode(), "é"),
        ("bool", 1, True),
        ("bool", 0.0, False),
        ("date", dt.date(2024, 1, 2), "2024-01-02"),
        ("date", "2024-01-02T00:00:00", "2024-01-02"),
        ("timestamp[s]", 0, "1970-01-01T00:00:00"),
        ("timestamp[ms, tz=UTC]", 1500, "1970-01-01T00:00:01.500Z"),
        ("timestamp[ns]", "2024-01-01T00:00:00.123456789", "2024-01-01T00:00:00.123456789"),
        ("timestamp[s]", dt.datetime(2024, 1, 1, 5), "2024-01-01T05:00:00"),
        ("timestamp", dt.datetime(2024, 1, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=2))), "2024-01-01T03:00:00.000000Z"),
    ],
)  # fmt: skip
def test_a_value_becomes_the_same_in_the_other_type(kind: str, value: Any, expected: Any) -> None:
    found = one(kind, value)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("int64", 1.5, "field 'x' is 1.5, which is no whole number"),
        ("int64", NAN, "field 'x' is nan, which is no whole number"),
        ("int64", "0x10", "field 'x' is '0x10', which is no whole number"),
        ("int64", Decimal("1E+999999"), "field 'x' is Decimal('1E+999999'), which is no whole number"),
        ("int8", 128, "field 'x' is 128, which does not fit int8"),
        ("uint8", -1, "field 'x' is -1, which does not fit uint8"),
        ("float64", 2**53 + 1, "field 'x' is 9007199254740993, a whole number that float64 does not hold exactly"),
        ("float32", 2**24 + 1, "field 'x' is 16777217, a whole number that float32 does not hold exactly"),
        ("float32", 1e39, "field 'x' is 1e+39, which is too large for float32"),
        ("float64", "1e999", "field 'x' is '1e999', which is too large for float64"),
        ("float64", "inf", "field 'x' is 'inf', which is no number"),
        ("string", b"\xff\xfea", "field 'x' is b'\\xff\\xfea', which is no UTF-8 text"),
        ("bool", 2, "field 'x' is 2, which is neither true nor false"),
        ("date", "2024-01-02T00:00:01", "field 'x' is '2024-01-02T00:00:01', which is more than a date"),
        ("timestamp[s]", "2024-01-01T00:00:00.5", "field 'x' is '2024-01-01T00:00:00.5', which has more digits than a timestamp in s"),
        ("timestamp[s]", "2024-01-01T00:00:00Z", "field 'x' is '2024-01-01T00:00:00Z', which has an offset from UTC: that is a timestamp[s, tz=UTC]"),
        ("timestamp[ns]", "3000-01-01T00:00:00", "field 'x' is '3000-01-01T00:00:00', which is out of range for a timestamp in ns"),
        ("timestamp[s]", "2024-13-01", "field 'x' is '2024-13-01', which is no point in time: month must be in 1..12"),
        ("timestamp[s]", 1.5, "field 'x' is 1.5, which is no point in time"),
        ("string", "x" * 100 and [1], "field 'x' is [1]: a value of type list has no text form"),
    ],
)  # fmt: skip
def test_a_value_that_would_lose_something_is_a_failure_that_names_it(kind: str, value: Any, reason: str) -> None:
    assert why(kind, value) == reason


def test_a_whole_number_that_float64_holds_stays_the_same_beyond_the_exact_range() -> None:
    assert one("float64", 2**60) == 2.0**60


def test_infinite_numbers_stay_infinite_in_a_narrower_type() -> None:
    assert one("float32", INF) == INF


COLUMNS: list[Any] = [
    pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.string(),
    pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.date32(), pa.decimal128(20, 2),
]  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-128, 127),
    "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
    "uint64": st.integers(0, 2**64 - 1) | st.integers(0, 300),
    "halffloat": st.floats(width=16) | st.integers(-100, 100).map(float),
    "float": st.floats(width=32) | st.integers(-100, 100).map(float),
    "double": st.floats() | st.integers(-(2**54), 2**54).map(float),
    "bool": st.booleans(),
    "string": st.sampled_from(["1", "-7", "1.5", "true", "x", "2024-01-01", "2024-01-01T00:00:00Z", "300", "1e400"]),
    "timestamp[ms]": st.integers(-(10**12), 10**12),
    "timestamp[us, tz=UTC]": st.integers(-(10**15), 10**15),
    "date32[day]": st.integers(-1000, 1000),
    "decimal128(20, 2)": st.decimals(-(10**6), 10**6, places=2),
}


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    kind = draw(st.sampled_from(COLUMNS))
    return kind, draw(st.lists(st.none() | VALUES[str(kind)], min_size=1, max_size=8))


@settings(deadline=None, max_examples=200)
@given(columns(), st.sampled_from(TYPES))
def test_columns_and_single_values_are_cast_alike(given: tuple[Any, list[Any]], kind: str) -> None:
    own, values = given
    if own == pa.float16():
        values = [None if value is None else np.float16(value) for value in values]
    table = ArrowRows(pa.record_batch({"x": pa.array(values, own), "y": pa.array(range(len(values)))}))
    config = {"cast": {"fields": {"x": kind}}}

    found, expected = run_stage(config, table), run_stage(config, DictRows(decode(table)[0]))

    assert found.reasons == expected.reasons
    assert [dump(row) for row in found.samples] == [dump(row) for row in expected.samples]
    for part in (1, 3):
        assert [dump(row) for row in run_stage(config, table, batch=part).samples] == [dump(r) for r in found.samples]


def test_the_fields_have_the_new_types_in_their_places() -> None:
    fields = (Field(name="a", type="string"), Field(name="b", type="json"), Field(name="c", type="int64"))

    told = stage_of({"cast": {"fields": {"b": "timestamp", "a": "float32"}}}).fields(fields)

    assert told is not None
    assert [(f.name, f.type) for f in told] == [("a", "float"), ("b", "timestamp[us, tz=UTC]"), ("c", "int64")]


def test_lists_and_files_are_refused_when_the_plan_is_made() -> None:
    for kind in ("list<int64>", "media", "struct<a: int64>"):
        with pytest.raises(ConfigError, match="only single values"):
            stage_of({"cast": {"fields": {"a": "string"}}}).fields((Field(name="a", type=kind),))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.fixed_dictionaries({"x": st.none() | st.integers(-300, 300)}), max_size=10))
def test_it_makes_the_same_however_samples_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"cast": {"fields": {"x": "int8"}}}, samples)
