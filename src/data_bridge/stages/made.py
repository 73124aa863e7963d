"""Arrow columns made of Python values, of which None is null."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_bridge.rows.buffers import Column, bounds, buffer_of, packed


def text_column(values: Sequence[str | None]) -> Column:
    """A column of large_string."""
    encoded = [b"" if value is None else value.encode() for value in values]
    ends = bounds(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    buffers = [_validity(values), buffer_of(ends), buffer_of(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(values), buffers)


def number_column(values: Sequence[int | float | None], kind: pa.DataType) -> Column:
    """A column of numbers, dates or points in time, whose values fit the type (a date is its days since 1970)."""
    dtype = np.dtype(f"i{kind.bit_width // 8}" if pa.types.is_temporal(kind) else kind.to_pandas_dtype())
    data = np.array([0 if value is None else value for value in values], dtype)
    return pa.Array.from_buffers(kind, len(values), [_validity(values), buffer_of(data)])


def bool_column(values: Sequence[bool | None]) -> Column:
    flags = np.array([bool(value) for value in values], np.bool_)
    return pa.Array.from_buffers(pa.bool_(), len(values), [_validity(values), packed(flags)])


def list_column(items: Column, ends: NDArray[np.int64], valid: NDArray[np.bool_] | None = None) -> Column:
    """The items `ends[i]:ends[i + 1]` as row i of a column of large lists; null where not `valid`."""
    validity = None if valid is None or bool(valid.all()) else packed(valid)
    kind = pa.large_list(items.type)
    return pa.Array.from_buffers(kind, len(ends) - 1, [validity, buffer_of(ends)], children=[items])


def _validity(values: Sequence[object]) -> pa.Buffer | None:
    present = np.fromiter((value is not None for value in values), np.bool_, len(values))
    found: pa.Buffer | None = None if present.all() else packed(present)
    return found
