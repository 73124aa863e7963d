import base64
import datetime as dt
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.batch import Media
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import count_nonfinite, dump, text

NAN, INF = float("nan"), float("inf")
PARIS = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**63, "9223372036854775808"),
        (2**64, "18446744073709551616"),
        (-(10**30), "-1000000000000000000000000000000"),
        (True, "true"),
        (1.0, "1.0"),
        (NAN, "null"),
        ([INF, -INF, 1.5], "[null,null,1.5]"),
        (Decimal("1.10"), '"1.10"'),
        (Decimal("0E-8"), '"0.00000000"'),
        (Decimal("1E+5"), '"100000"'),
        (Decimal("1E+5000"), '"1E+5000"'),
        (Decimal("NaN"), "null"),
        (dt.datetime(2024, 2, 29, 1, 2, 3), '"2024-02-29T01:02:03"'),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC), '"2024-02-29T01:02:03.000004Z"'),
        (dt.datetime(2024, 2, 29, 1, tzinfo=PARIS), '"2024-02-29T01:00:00+02:00"'),
        (dt.date(1, 1, 1), '"0001-01-01"'),
        (dt.time(1, 2), '"01:02:00"'),
        (dt.timedelta(days=-1, microseconds=1), '"-PT86399.999999S"'),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"a"), '"YQ=="'),
        (memoryview(b"a"), '"YQ=="'),
        (Media(b"\x00\xff", "a.jpg"), '"AP8="'),
        ((1, (2,)), "[1,[2]]"),
        ("\u2028é\U0001f600", '"\u2028é\U0001f600"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (np.array([[1, 2], [3, 4]], dtype=np.int16), "[[1,2],[3,4]]"),
        (np.array([[1, 2], [3, 4]]).T, "[[1,3],[2,4]]"),
        (np.array([0.1, NAN], dtype=np.float32), "[0.1,null]"),
        (np.array([1, 258], dtype=">u2"), "[1,258]"),
        (np.array([True, False]), "[true,false]"),
        (np.array(5), "5"),
        (np.array([], dtype=np.float64), "[]"),
        (np.array(["a", b"b"], dtype=object), '["a","Yg=="]'),
        (np.array(["a", "bc"]), '["a","bc"]'),
        (np.array(["2024-01-01T00:00:00.123456789", "NaT"], dtype="M8[ns]"), '["2024-01-01T00:00:00.123456789",null]'),
        (np.datetime64("2024-01-01"), '"2024-01-01"'),
        (np.int8(-1), "-1"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (np.float16(0.5), "0.5"),
        (np.float64(NAN), "null"),
        (np.bool_(True), "true"),
        (np.str_("x"), '"x"'),
    ],
)
def test_a_value_has_one_json_form_at_any_depth(value: Any, expected: str) -> None:
    assert dump(value).decode() == expected
    assert dump({"a": [value, 2**70, {"b": value}]}).decode() == f'{{"a":[{expected},{2**70},{{"b":{expected}}}]}}'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1: "a"}, "keys of a JSON object must be text, not a value of type int"),
        ({"a": {None: 1}}, "must be text"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ([2**70, "\ud800"], "surrogate"),
        ({1, 2}, "type set"),
        (object(), "type object"),
        (1j, "type complex"),
        (np.array([1j]), "complex128"),
        (np.timedelta64(1, "s"), "type timedelta64"),
    ],
)
def test_what_has_no_json_form_says_why(value: Any, reason: str) -> None:
    for nested in (value, [value], {"a": [value]}):
        with pytest.raises(BadRow, match=reason):
            dump(nested)


def test_nesting_without_end_is_a_reason_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]

    with pytest.raises(BadRow, match="too deeply"):
        dump({"a": deep})
    with pytest.raises(BadRow, match="too deeply"):
        dump({"a": [2**70, deep]})


def test_keys_stay_in_the_order_given() -> None:
    assert dump({"b": 1, "a": {"z": 1, "y": 2}}) == b'{"b":1,"a":{"z":1,"y":2}}'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    def expected(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, list):
            return [expected(i) for i in item]
        return {k: expected(v) for k, v in item.items()} if isinstance(item, dict) else item

    assert repr(json.loads(dump(value))) == repr(expected(value))
    assert count_nonfinite(value) == json.dumps(value).count("NaN") + json.dumps(value).count("Infinity") - repr(
        value
    ).count("NaN") - repr(value).count("Infinity")


def test_nonfinite_numbers_are_counted_wherever_they_are() -> None:
    row = {
        "a": NAN,
        "b": [INF, 1.0, "nan", (NAN,)],
        "c": np.array([NAN, 1.0]),
        "d": np.float32(INF),
        "e": Decimal("Infinity"),
        "f": np.array([NAN, "x"], dtype=object),
        "g": {"h": -INF},
        "i": np.array([1, 2]),
    }

    assert count_nonfinite(row) == 8


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain “text”", "plain “text”"),
        (5, "5"),
        (10**30, str(10**30)),
        (True, "true"),
        (0.1, "0.1"),
        (np.int64(3), "3"),
        (Decimal("1.50"), "1.50"),
        (dt.date(2024, 1, 2), "2024-01-02"),
    ],
)
def test_text_is_the_json_form_without_quotes(value: Any, expected: str) -> None:
    assert text(value) == expected


@pytest.mark.parametrize("value", [None, [], {}, b"x", np.array([1]), Media(b""), NAN, Decimal("NaN"), np.float32(INF)])
def test_what_is_no_single_value_has_no_text_form(value: Any) -> None:
    with pytest.raises(BadRow):
        text(value)


def test_nested_bytes_can_be_read_back() -> None:
    data = bytes(range(256))

    assert base64.b64decode(json.loads(dump({"a": [data]}))["a"][0]) == data
