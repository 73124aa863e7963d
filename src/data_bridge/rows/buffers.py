"""Arrow columns as numpy arrays over the same memory, and back.

`to_numpy`, `pa.array`, `pa.scalar` and `fill_null` import pandas wherever it is installed, a quarter of a second of
every process; nothing here does.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.types as pt
from numpy.typing import NDArray

pc: Any = pyarrow.compute  # its functions are made at import: the type stubs miss some
Column: TypeAlias = Any
"""A `pyarrow.Array`; the type stubs do not know what its subclasses can do."""

buffer_of: Any = pa.py_buffer  # takes every contiguous buffer: the type stubs know of few


def numbers(array: Column) -> NDArray[Any]:
    """Values of a column of numbers or bools (uint8 then), little-endian, of shape (n,). Under nulls lies anything."""
    if pt.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if array.null_count:
        array = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    values: NDArray[Any] = np.from_dlpack(array)
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def overwritable(array: Column) -> NDArray[Any] | None:
    """Values of a column of numbers as an array over the same memory that may be written to; None where it may not."""
    data = array.buffers()[1]
    if data is None or not data.is_mutable or array.type.bit_width % 8:
        return None
    size = array.type.bit_width // 8
    return np.frombuffer(data, np.uint8, len(array) * size, array.offset * size).view(numbers(array).dtype)


def valid(array: Column) -> NDArray[np.bool_]:
    """Which values are not null."""
    return numbers(array.is_valid()).view(np.bool_)


def column(values: NDArray[Any]) -> Column:
    """Numbers or bools as an Arrow column, numbers over the same memory."""
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    kind = pa.from_numpy_dtype(data.dtype)
    return pa.Array.from_buffers(kind, len(data), [None, packed(data) if pt.is_boolean(kind) else buffer_of(data)])


def packed(flags: NDArray[np.bool_]) -> Any:
    """The flags as Arrow keeps bools and validity."""
    return buffer_of(np.packbits(flags, bitorder="little"))


def lengths(array: Column) -> NDArray[np.int64]:
    """Bytes or items of each value of a text, binary or list column, int64 of shape (n,); 0 where null."""
    counts = pc.list_value_length(array) if pt.is_nested(array.type) else pc.binary_length(array)
    found = numbers(counts).astype(np.int64)
    return np.where(valid(array), found, 0) if array.null_count else found


def bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of n pieces that lie one after the other begins, and where the last one ends: int64 of shape (n + 1,)."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def pieces(data: Any, ends: NDArray[np.int64]) -> Column:
    """The bytes `data[ends[i]:ends[i + 1]]` as a column of large_binary, not copied."""
    return pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, [None, buffer_of(ends), buffer_of(data)])


def joined(values: Sequence[bytes]) -> Column:
    """The values as a column of large_binary."""
    return pieces(b"".join(values), bounds(np.fromiter(map(len, values), np.int64, len(values))))


EMPTY: Final = pieces(b"", np.zeros(2, np.int64))[0]
"""A scalar of no bytes."""
