"""Arrow schemas in the product's words."""

from typing import Any

import pyarrow as pa
import pytest

from data_bridge.io.sources.arrow_rows import plain_array
from data_bridge.io.sources.arrow_schema import (
    column_order,
    difference,
    fields_of,
    plain_type,
    type_text,
)

MEDIA_KIND: Any = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def schema(*fields: Any) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.int64(), "int64"),
        (pa.float64(), "double"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.large_binary(), "binary"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.list_(pa.int32()), "list<int32>"),
        (pa.large_list(pa.dictionary(pa.int8(), pa.string())), "list<string>"),
        (pa.list_(pa.float32(), 3), "list<float>[3]"),
        (pa.map_(pa.string(), pa.large_string()), "map<string, string>"),
        (pa.struct([pa.field("a", pa.list_(pa.large_string()))]), "struct<a: list<string>>"),
        (pa.timestamp("us", "UTC"), "timestamp[us, tz=UTC]"),
        (pa.decimal128(10, 2), "decimal128(10, 2)"),
        (pa.fixed_shape_tensor(pa.int32(), [2, 2]), "list<int32>[4]"),
        (pa.uuid(), "extension<arrow.uuid>"),
    ],
)
def test_types_are_named_without_how_they_are_stored(kind: pa.DataType, text: str) -> None:
    assert type_text(kind) == text


@pytest.mark.parametrize(
    ("kind", "media"),
    [
        (MEDIA_KIND, True),
        (pa.struct([pa.field("path", pa.large_string()), pa.field("bytes", pa.large_binary())]), True),
        (pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.null())]), True),
        (pa.struct([pa.field("bytes", pa.binary(4)), pa.field("path", pa.string())]), True),
        (pa.struct([pa.field("bytes", pa.binary())]), False),
        (pa.struct([*MEDIA_KIND, pa.field("size", pa.int64())]), False),
        (pa.struct([pa.field("bytes", pa.string()), pa.field("path", pa.string())]), False),
        (pa.binary(), False),
    ],
)
def test_only_structs_of_bytes_and_path_are_media(kind: pa.DataType, media: bool) -> None:
    assert (fields_of(schema(("x", kind)))[0].type == "media") == media


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        pa.array([["x"], None, [], ["y", None]], pa.large_list(pa.large_string())),
        pa.array(
            [{"a": ["p"]}, None, {"a": None}, {"a": []}], pa.struct([pa.field("a", pa.large_list(pa.string_view()))])
        ),
        pa.array([["v"], None, [], ["w", "w"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([[("k", "v")], None, [], [("k", None)]], pa.map_(pa.string(), pa.large_string())),
        pa.array([[1, 2], None, [3, 4], [5, None]], pa.list_(pa.int8(), 2)),
        pa.array([b"1" * 16, None, b"2" * 16, b"3" * 16], pa.binary(16)).cast(pa.uuid()),
    ],
)
def test_plain_arrays_hold_the_same_values_whatever_slice_they_come_from(array: Any) -> None:
    for part in (array, array.slice(1), array.slice(1, 2), array.slice(2, 0)):
        plain = plain_array(part, plain_type(array.type))

        plain.validate(full=True)
        assert plain.to_pylist() == part.to_pylist()
        assert plain.type == plain_type(array.type)


def test_a_difference_is_told_in_words_and_order_is_none() -> None:
    left = fields_of(schema(("a", pa.int64()), ("b", pa.string())))

    assert difference(left, fields_of(schema(("b", pa.large_string()), ("a", pa.int64())))) is None
    assert difference(left, fields_of(schema(("a", pa.int32()), ("b", pa.string())))) == "field 'a' is int32, not int64"
    assert column_order(["x", "y"], [left, left[::-1]]) == [None, ["a", "b"]]
