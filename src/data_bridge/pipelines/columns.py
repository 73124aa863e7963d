"""Arrow columns as members of a tar, without Python objects per cell where the buffers hold the bytes already."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from data_bridge.pipelines.content import BINARY_EXTENSIONS, INTEGER_EXTENSIONS, JSON_EXTENSIONS, kind_of, member_bytes
from data_bridge.pipelines.tarfmt import MemberColumn, column
from data_bridge.rows.arrow import (
    column_values,
    count_nonfinite,
    is_binary,
    is_media,
    is_text,
    json_rows,
)
from data_bridge.rows.buffers import Column
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import count_nonfinite as count_in_values
from data_bridge.rows.values import dump


def member_column(array: Column, extension: str) -> MemberColumn | None:
    """One column as one member of each sample; None when a value is null or does not fit."""
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = kind_of(extension)
    if kind not in INTEGER_EXTENSIONS:
        if is_media(array.type) and not array.null_count:
            array = array.field("bytes")
        if is_binary(array.type) or (is_text(array.type) and kind not in JSON_EXTENSIONS | BINARY_EXTENSIONS | {"npy"}):
            return _slices(array, extension)
    values, bad = column_values(array)
    if bad or any(value is None for value in values):
        return None
    try:
        return column(extension, [member_bytes(value, extension) for value in values])
    except BadRow:
        return None


def rest_column(batch: pa.RecordBatch, extension: str) -> tuple[MemberColumn, dict[int, int]] | None:
    """The columns together as one JSON member of each sample, and by sample how many numbers in it are not finite.

    None when a value has no JSON form.
    """
    rows, bad = json_rows(batch)
    if bad:
        return None
    try:
        contents = [dump(row) for row in rows]
    except BadRow:
        return None
    some = any(count_nonfinite(array) for array in batch.columns)
    return column(extension, contents), {at: count_in_values(row) for at, row in enumerate(rows)} if some else {}


def _slices(array: Column, extension: str) -> MemberColumn | None:
    """The bytes of a binary or text column where they lie; None for nulls and text that is not UTF-8."""
    if array.null_count:
        return None
    if pt.is_binary_view(array.type) or pt.is_string_view(array.type):
        array = array.cast(pa.large_binary() if pt.is_binary_view(array.type) else pa.large_string())
    if is_text(array.type) and not _is_utf8(array):
        return None
    bounds, data = _bounds(array)
    edges = bounds.tolist()
    contents = [data[start:end] for start, end in pairwise(edges)]
    return MemberColumn(extension, contents, np.diff(bounds))


def _bounds(array: Column) -> tuple[Any, memoryview]:
    """Offsets (int64, shape (n + 1,)) into the bytes of a column, and those bytes."""
    buffers, count, first = array.buffers(), len(array), array.offset
    data = memoryview(buffers[-1]) if buffers[-1] is not None else memoryview(b"")
    if pt.is_fixed_size_binary(array.type):
        return (np.arange(first, first + count + 1, dtype=np.int64) * array.type.byte_width), data
    wide = pt.is_large_binary(array.type) or pt.is_large_string(array.type)
    if buffers[1] is None:
        return np.zeros(count + 1, dtype=np.int64), data
    offsets = np.frombuffer(
        buffers[1], dtype=np.int64 if wide else np.int32, count=count + 1, offset=first * (8 if wide else 4)
    )
    return offsets.astype(np.int64), data


def _is_utf8(array: Column) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
