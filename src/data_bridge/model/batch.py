"""The value that flows on the hot path: consecutive samples of one partition, many at a time.

Rows keep the form the source had them in, so that a writer may copy bytes instead of building
Python objects: raw JSON lines, Arrow columns, or plain dictionaries.
"""

from collections.abc import Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

OUT_OF_BAND = 5
"""The pickle protocol since which buffers need not be copied into a pickle."""

Token: TypeAlias = Any
"""A JSON-able position in a partition, made and understood by its reader alone."""

Row = dict[str, Any]
"""One sample: field name -> null, bool, int, float, str, bytes, datetime, Decimal, list, dict, ndarray or Media."""


class Media(msgspec.Struct, frozen=True):
    """Encoded bytes of an image, audio clip or other file, with the path it came from ('' when unknown)."""

    data: bytes
    path: str = ""


class RowFailure(msgspec.Struct, frozen=True):
    """One sample that could not be used. `offset` counts samples from the start of its batch or rows, failed ones included."""

    offset: int
    reason: str
    where: str = ""
    """Position as a person would look it up: `data.jsonl line 17`, `part-3.parquet row 12`."""
    raw: bytes | None = None
    """The row as it stood in the source, where it can be had; kept by `on_error: quarantine`."""
    stage: str = "source"


class LineRows(msgspec.Struct, frozen=True):
    """JSON lines, each exactly one UTF-8 JSON object (the reader checked), in one buffer without copies.

    `starts[i]:ends[i]` of `data` is row i, without its line end. Both are int64 arrays of shape (n,).
    """

    data: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def lines(self) -> list[bytes]:
        """A copy of each line."""
        return [self.data[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def slice(self, lo: int, hi: int) -> "LineRows":
        return LineRows(self.data, self.starts[lo:hi], self.ends[lo:hi])

    def cropped(self) -> tuple[int, bytes, NDArray[np.int64], NDArray[np.int64]]:
        """Where the lines' own bytes begin in `data`, those bytes, and the spans in them."""
        if not len(self):
            return 0, b"", self.starts, self.ends
        first, last = int(self.starts.min()), int(self.ends.max())  # they may be in any order
        return first, self.data[first:last], self.starts - first, self.ends - first

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.cropped()[1:]  # other lines of the buffer stay where they are


class ArrowRows(msgspec.Struct, frozen=True):
    """Columns of one `pyarrow.RecordBatch`, valid in full: text is UTF-8 at any depth (the reader checked)."""

    batch: "pa.RecordBatch"

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def slice(self, lo: int, hi: int) -> "ArrowRows":
        return ArrowRows(self.batch.slice(lo, hi - lo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """As an Arrow stream: pickles of Arrow's own would take along what was sliced off."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.batch.schema) as writer:
            writer.write_batch(self.batch)
        return _arrow_rows, (outside(sink.getvalue(), protocol),)


def _arrow_rows(stream: Any) -> ArrowRows:
    import pyarrow as pa

    with pa.ipc.open_stream(stream) as reader:
        return ArrowRows(reader.read_next_batch())


def outside(data: Any, protocol: int) -> Any:
    """A buffer as it is to be pickled: beside the pickle where the protocol knows how, else as bytes in it."""
    return PickleBuffer(data) if protocol >= OUT_OF_BAND else bytes(data)


class DictRows(msgspec.Struct, frozen=True):
    """Samples as dictionaries: the slow, general form."""

    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, lo: int, hi: int) -> "DictRows":
        return DictRows(self.rows[lo:hi])


Rows: TypeAlias = LineRows | ArrowRows | DictRows


class Batch(msgspec.Struct, frozen=True):
    """Consecutive samples of one partition in source order; a few MB at most.

    `start` re-opens the partition exactly at the first sample. The batch covers `count` samples: the
    good ones are in `rows`, the bad ones in `failures` (ascending `offset`); together they are all.
    """

    start: Token
    rows: Rows
    failures: tuple[RowFailure, ...] = ()

    @property
    def count(self) -> int:
        return len(self.rows) + len(self.failures)

    def offsets(self) -> NDArray[np.int64]:
        """Offset in the batch of each good row, int64 of shape (len(rows),)."""
        every = np.arange(self.count, dtype=np.int64)
        return np.delete(every, [f.offset for f in self.failures]) if self.failures else every
