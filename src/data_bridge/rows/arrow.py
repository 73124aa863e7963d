"""Arrow columns as Python values, whole columns at a time and without losing digits."""

import uuid
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from data_bridge.model.batch import Media, Row
from data_bridge.rows.buffers import Column, numbers, pc, valid
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import count_nonfinite as count_in_values
from data_bridge.rows.values import duration_text

_UNIT_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def decode_batch(batch: pa.RecordBatch) -> tuple[list[Row], dict[int, str]]:
    """One dictionary per row, and the reason by row for those that cannot be used (their dictionary is worthless)."""
    return _rows(batch, column_values)


def json_rows(batch: pa.RecordBatch) -> tuple[list[Row], dict[int, str]]:
    """As `decode_batch`, for writing as JSON alone: lists are lists, which cost less to write than arrays."""
    return _rows(batch, lambda array: (array.to_pylist(), {}) if _is_json_list(array.type) else column_values(array))


def _rows(
    batch: pa.RecordBatch, values_in: Callable[[Column], tuple[list[Any], dict[int, str]]]
) -> tuple[list[Row], dict[int, str]]:
    names = batch.schema.names
    reasons: dict[int, str] = {}
    columns = []
    for name, array in zip(names, batch.columns, strict=True):
        values, bad = values_in(array)
        columns.append(values)
        for row, reason in bad.items():
            reasons.setdefault(row, f"field {name!r}: {reason}")
    if not columns:
        return [{} for _ in range(batch.num_rows)], reasons
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)], reasons


def _is_json_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists, of any depth, of numbers that are the same in Python: not so float32."""
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _is_json_list(kind.value_type) or pt.is_integer(kind.value_type) or pt.is_float64(kind.value_type)
    return False


def column_values(array: Column) -> tuple[list[Any], dict[int, str]]:
    """Values of a column, and the reason by row where a value has no Python form (its value is then None)."""
    try:
        return values_of(array), {}
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    values: list[Any] = []
    bad: dict[int, str] = {}
    for row in range(len(array)):
        try:
            values.append(values_of(array.slice(row, 1))[0])
        except (ValueError, OverflowError, pa.ArrowException) as error:
            values.append(None)
            bad[row] = _reason(error)
    return values, bad


def count_nonfinite(array: Column) -> int:
    """How many NaN and infinite numbers a column holds, at any depth."""
    kind = array.type
    if pt.is_float16(kind):
        array = array.cast(pa.float32())
    if pt.is_floating(kind):
        finite = pc.sum(pc.is_finite(array)).as_py() or 0
        return len(array) - int(array.null_count) - int(finite)
    if not _holds_floats(kind):
        return 0
    if isinstance(array, pa.ExtensionArray):
        return count_nonfinite(array.storage)
    if pt.is_dictionary(kind):
        return count_nonfinite(array.dictionary_decode())
    if pt.is_run_end_encoded(kind):
        return count_nonfinite(pc.run_end_decode(array))
    if pt.is_union(kind):
        return count_in_values(array.to_pylist())
    if pt.is_struct(kind):
        return sum(count_nonfinite(child) for child in array.flatten())
    if pt.is_map(kind):
        return count_nonfinite(_plain_list(array).flatten())
    return count_nonfinite(array.flatten())


def values_of(array: Column) -> list[Any]:
    """Values of a column. Raises ValueError, OverflowError or ArrowException for a value without a Python form."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        values = values_of(array.storage)
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in values] if _is_uuid(kind) else values
    for matches, convert in _CONVERTERS:
        if matches(kind):
            return convert(array)
    return list(array.to_pylist())


def _reason(error: Exception) -> str:
    if isinstance(error, BadRow):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"the text is not valid UTF-8 (byte {error.start})"
    return f"the value cannot be read: {error}"


def _is_uuid(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.uuid"


def _holds_floats(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_floats(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _holds_floats(kind.value_type)
    if pt.is_nested(kind):
        return any(_holds_floats(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pt.is_floating(kind))


def _nulled(array: Column, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    return [v if ok else None for v, ok in zip(values, array.is_valid().to_pylist(), strict=True)]


def _integers(array: Column) -> Any:
    """The stored integers of a temporal column, 0 where null: int64 of shape (n,)."""
    width = pa.int32() if array.type.bit_width == 32 else pa.int64()
    found = numbers(array.view(width)).astype(np.int64)
    return np.where(valid(array), found, 0) if array.null_count else found


def _moments(array: Column, unit: str) -> list[str]:
    stored = _integers(array)
    if (stored == np.iinfo(np.int64).min).any():
        raise BadRow("the point in time is out of range")
    texts: list[str] = np.datetime_as_string(stored.view(f"datetime64[{unit}]")).tolist()
    return texts


def _timestamps(array: Column) -> list[Any]:
    zone = "Z" if array.type.tz is not None else ""
    texts = _moments(array, array.type.unit)
    return _nulled(array, [text + zone for text in texts] if zone else texts)


def _dates(array: Column) -> list[Any]:
    unit = "D" if pt.is_date32(array.type) else "ms"
    return _nulled(array, [text.partition("T")[0] for text in _moments(array, unit)])


def _times(array: Column) -> list[Any]:
    unit = array.type.unit
    stored = _integers(array)
    if ((stored < 0) | (stored >= 86_400 * 10 ** _UNIT_DIGITS[unit])).any():
        raise BadRow("the time of day is out of range")
    return _nulled(
        array, [text.partition("T")[2] for text in np.datetime_as_string(stored.view(f"datetime64[{unit}]")).tolist()]
    )


def _durations(array: Column) -> list[Any]:
    digits = _UNIT_DIGITS[array.type.unit]
    return _nulled(array, [duration_text(number, digits) for number in _integers(array).tolist()])


def _intervals(array: Column) -> list[Any]:
    return [
        None if v is None else {"months": v.months, "days": v.days, "nanoseconds": v.nanoseconds}
        for v in array.to_pylist()
    ]


def _structs(array: Column) -> list[Any]:
    kind = array.type
    names = [kind.field(i).name for i in range(kind.num_fields)]
    if len(set(names)) != len(names):
        raise BadRow("the struct has two fields of one name")
    columns = [values_of(array.field(i)) for i in range(kind.num_fields)]
    if is_media(kind):
        return _nulled(array, _media(array, columns[names.index("bytes")], columns[names.index("path")]))
    if not columns:
        return _nulled(array, [{} for _ in range(len(array))])
    return _nulled(array, [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)])


def is_media(kind: pa.DataType) -> bool:
    """Whether a type is the `{bytes, path}` struct that image and audio columns are stored as."""
    if not pt.is_struct(kind) or kind.num_fields != 2:
        return False
    fields = {kind.field(i).name: kind.field(i).type for i in range(2)}
    return (
        set(fields) == {"bytes", "path"}
        and is_binary(fields["bytes"])
        and (is_text(fields["path"]) or pt.is_null(fields["path"]))
    )


def is_binary(kind: pa.DataType) -> bool:
    return bool(
        pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind) or pt.is_binary_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _media(array: Column, data: list[bytes | None], paths: list[str | None]) -> list[Media | None]:
    values: list[Media | None] = []
    valid = array.is_valid().to_pylist()
    for content, path, present in zip(data, paths, valid, strict=True):
        if content is None and path is not None and present:
            raise BadRow(f"there is only a path ({path!r}), not the file's bytes")
        values.append(None if content is None else Media(content, path or ""))
    return values


def _plain_list(array: Column) -> Column:
    """A map as the list of its `{key, value}` entries."""
    kind = array.type
    entry = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
    return array.cast(pa.list_(entry))


def _maps(array: Column) -> list[Any]:
    entries = _lists(_plain_list(array))
    if not is_text(array.type.key_type):
        return entries
    values: list[Any] = []
    for items in entries:
        value = None if items is None else {item["key"]: item["value"] for item in items}
        if value is not None and len(value) != len(items):
            raise BadRow("a map holds a key twice")
        values.append(value)
    return values


def _lists(array: Column) -> list[Any]:
    kind = array.type
    if pt.is_fixed_size_list(kind):
        size, first = kind.list_size, array.offset
        child = array.values.slice(first * size, len(array) * size)
        bounds = np.arange(len(array) + 1, dtype=np.int64) * size
    else:
        offsets = numbers(array.offsets).astype(np.int64)
        child = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        bounds = offsets - offsets[0]
    edges = bounds.tolist()
    return _nulled(array, _runs(child, edges[:-1], edges[1:]))


def _list_views(array: Column) -> list[Any]:
    # pyarrow 26 casts a list view with nulls to a list with a broken offsets buffer: read the views themselves
    starts = numbers(array.offsets).astype(np.int64)
    ends = starts + numbers(array.sizes)
    return _nulled(array, _runs(array.values, starts.tolist(), ends.tolist()))


def _runs(child: Column, starts: list[int], ends: list[int]) -> list[Any]:
    items: Any = numbers(child) if _is_numeric(child) else values_of(child)
    return [items[lo:hi] for lo, hi in zip(starts, ends, strict=True)]


def _is_numeric(array: Column) -> bool:
    return not array.null_count and (pt.is_integer(array.type) or pt.is_floating(array.type))


_CONVERTERS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[Column], list[Any]]], ...]] = (
    (pt.is_timestamp, _timestamps),
    (pt.is_date, _dates),
    (pt.is_time, _times),
    (pt.is_duration, _durations),
    (pt.is_interval, _intervals),
    (pt.is_float16, lambda array: array.cast(pa.float32()).to_pylist()),
    (pt.is_dictionary, lambda array: values_of(array.dictionary_decode())),
    (pt.is_run_end_encoded, lambda array: values_of(pc.run_end_decode(array))),
    (pt.is_struct, _structs),
    (pt.is_map, _maps),
    (lambda kind: pt.is_list_view(kind) or pt.is_large_list_view(kind), _list_views),
    (lambda kind: pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind), _lists),
)
