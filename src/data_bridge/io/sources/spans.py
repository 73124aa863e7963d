"""Arrow columns over the bytes of a buffer, without an object per value."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def string_column(
    data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], nulls: NDArray[np.bool_] | None = None
) -> "pa.Array[Any]":
    """The spans `data[starts[i]:ends[i]]` as one column of strings.

    Spans ascend and do not overlap, and each is valid UTF-8. `nulls` marks those that are null.
    """
    if not len(starts):
        return pa.Array.from_buffers(pa.string(), 0, [None, pa.py_buffer(b""), pa.py_buffer(b"")])
    # the strings and the gaps between them make one array over the buffer as it is: every second element is taken
    offsets = np.empty(2 * len(starts), np.int32)
    offsets[0::2], offsets[1::2] = starts, ends
    count = len(offsets) - 1
    both = pa.Array.from_buffers(pa.string(), count, [None, _buffer(offsets), pa.py_buffer(data)])
    # not `pa.array`, which imports pandas where it is installed: a second of every process
    validity = None if nulls is None else _buffer(np.packbits(~nulls, bitorder="little"))
    wanted = pa.Array.from_buffers(pa.int64(), len(starts), [validity, _buffer(np.arange(0, count, 2, dtype=np.int64))])
    taken: pa.Array[Any] = both.take(cast("pa.Int64Array", wanted))
    return taken


def _buffer(values: "NDArray[Any]") -> pa.Buffer:
    return pa.py_buffer(values.tobytes())
