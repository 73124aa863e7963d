"""LitData's Arrow chunk: a header whose offsets all point behind it, an Arrow IPC file, its u32 length and a magic word."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from data_bridge.errors import IntegrityError
from data_bridge.pipelines.leaves import ArrowType, Leaf
from data_bridge.pipelines.litdata_classic import mapped, read_offsets
from data_bridge.pipelines.litdata_columns import same_shape
from data_bridge.pipelines.shardfile import ShardFile
from data_bridge.pipelines.spool import Spool
from data_bridge.rows.buffers import EMPTY, Column, bounds, buffer_of, lengths, numbers, packed, pc, valid

BATCH_ROWS: Final = 256
"""Readers compute a row's record batch by this number."""
MAGIC: Final = b"LDARW01\0"


class ArrowLayout:
    """Packs columns into record batches of exactly BATCH_ROWS rows, whatever batches they came in."""

    max_payload_bytes: ClassVar[int] = 2_000_000_000
    """A column of one record batch may not pass 2 GiB: its offsets are 32 bits wide."""
    compressor: ClassVar[None] = None

    def __init__(self, leaves: Sequence[Leaf], *, compressed: bool) -> None:
        self._schema = pa.schema([(leaf.name, leaf.column) for leaf in leaves])
        self._options = pa.ipc.IpcWriteOptions(compression="zstd" if compressed else None)
        self._spool = Spool()

    def pack(self, arrays: Sequence[Column], count: int) -> tuple[tuple[Column, ...], NDArray[np.int64]]:
        """The columns themselves and the bytes of each row, int64 of shape (count,): a function of its values alone."""
        sizes = np.zeros(count, dtype=np.int64)
        for array in arrays:
            sizes += value_bytes(array)
        return tuple(arrays), sizes

    def open(self, folder: Path) -> "ArrowChunk":
        return ArrowChunk(self._spool.open(folder), self._schema, self._options)

    def check(self, path: Path) -> int:
        """Verify the structure of a whole chunk file and return its samples. Raises IntegrityError."""
        data = mapped(path)
        offsets = read_offsets(data, path.name)
        start = int(offsets[0])
        tail = data[-12:].tobytes() if len(data) >= start + 12 else b""
        if (offsets != start).any() or tail[4:] != MAGIC or start + struct.unpack("<I", tail[:4])[0] + 12 != len(data):
            raise IntegrityError(f"{path.name} is damaged: it does not end as a LitData Arrow chunk")
        try:
            rows = _check_batches(pa.ipc.open_file(buffer_of(data[start : len(data) - 12])), self._schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise IntegrityError(f"{path.name} is damaged: {error}") from error
        if rows != len(offsets) - 1:
            raise IntegrityError(f"{path.name} is damaged: it holds {rows} rows, its header says {len(offsets) - 1}")
        return rows


def _check_batches(reader: pa.ipc.RecordBatchFileReader, schema: pa.Schema) -> int:
    if not reader.schema.equals(schema):
        raise ValueError(f"its columns are {reader.schema.names}, not {schema.names}, or of other types")
    rows, last = 0, reader.num_record_batches - 1
    for i in range(last + 1):
        batch = reader.get_batch(i)
        batch.validate(full=True)
        if batch.num_rows != BATCH_ROWS and not (i == last and 0 < batch.num_rows < BATCH_ROWS):
            raise ValueError(f"record batch {i} holds {batch.num_rows} rows")
        rows += batch.num_rows
    return rows


class ArrowChunk:
    """Rows of the chunk in work; full record batches are set aside at once."""

    def __init__(self, spool: Spool, schema: pa.Schema, options: pa.ipc.IpcWriteOptions) -> None:
        self._spool = spool
        self._schema = schema
        sink: Any = _Sink(spool)
        self._writer = pa.ipc.new_file(sink, schema, options=options)
        self._open: list[tuple[tuple[Column, ...], int, int]] = []
        self._open_rows = 0
        self._rows = 0

    def add(self, payload: Any, _ends: NDArray[np.int64], lo: int, hi: int) -> None:
        """Append rows [lo, hi) of packed columns."""
        while lo < hi:
            stop = min(hi, lo + BATCH_ROWS - self._open_rows)
            self._open.append((payload, lo, stop))
            self._open_rows += stop - lo
            lo = stop
            if self._open_rows == BATCH_ROWS:
                self._flush()

    def finish(self, file: ShardFile) -> tuple[int, dict[str, Any]]:
        """Write the chunk. Returns its samples and what the index needs to know."""
        if self._open_rows:
            self._flush()
        self._writer.close()
        start = 4 + 4 * (self._rows + 1)
        file.write(struct.pack("<I", self._rows) + struct.pack("<I", start) * (self._rows + 1))
        for block in self._spool.blocks():
            file.write(block)
        file.write(struct.pack("<I", self._spool.size) + MAGIC)
        self._spool.close()
        return self._rows, {"chunk_bytes": start + self._spool.size + 12}

    def abort(self) -> None:
        self._spool.close()

    def _flush(self) -> None:
        arrays = []
        for i, field in enumerate(self._schema):
            pieces = [payload[i].slice(lo, hi - lo) for payload, lo, hi in self._open]
            merged = pieces[0] if len(pieces) == 1 else pa.chunked_array(_one_type(pieces)).combine_chunks()
            arrays.append(canonical(merged, field.type))
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows += self._open_rows
        self._open, self._open_rows = [], 0


class _Sink:
    """A spool as the file Arrow writes to."""

    closed = False

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def write(self, data: Any) -> int:
        self._spool.write(data)
        return len(data)

    def tell(self) -> int:
        return self._spool.size

    def flush(self) -> None:
        pass

    def writable(self) -> bool:
        return True


def _one_type(pieces: list[Column]) -> list[Column]:
    """Pieces of one column, which may differ in the width of their offsets, as one type."""
    if all(piece.type.equals(pieces[0].type) for piece in pieces):
        return pieces
    return [canonical(piece, _plain(pieces[0].type)) for piece in pieces]


def _plain(kind: ArrowType) -> ArrowType:
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([(kind.field(i).name, _plain(kind.field(i).type)) for i in range(kind.num_fields)])
    if pt.is_large_string(kind):
        return pa.string()
    return pa.binary() if pt.is_large_binary(kind) else kind


def canonical(array: Column, kind: ArrowType) -> Column:
    """The values as a fresh array of `kind`, a type of the same shape.

    Its buffers depend on nothing but the values: no slack, no rest of a larger array, zero under nulls.
    """
    assert same_shape(array.type, kind), f"{array.type} is not {kind}"
    if pt.is_struct(kind):
        return pa.Array.from_buffers(
            kind,
            len(array),
            [_bits(array)],
            children=[canonical(c, kind.field(i).type) for i, c in enumerate(array.flatten())],
        )
    if pt.is_list(kind):
        items = canonical(array.flatten(), kind.value_type)
        return pa.Array.from_buffers(kind, len(array), [_bits(array), _offsets(lengths(array))], children=[items])
    if pt.is_string(kind) or pt.is_binary(kind):
        return _canonical_bytes(array, kind)
    data = np.ascontiguousarray(numbers(array))
    if array.null_count:
        data = np.where(valid(array), data, np.zeros(1, data.dtype))
    if pt.is_boolean(kind):
        data = np.packbits(data, bitorder="little")
    return pa.Array.from_buffers(kind, len(array), [_bits(array), buffer_of(data)])


def _canonical_bytes(array: Column, kind: ArrowType) -> Column:
    validity = _bits(array)
    wide = array.cast(pa.large_binary())
    wide = pc.if_else(wide.is_valid(), wide, EMPTY) if wide.null_count else wide
    _, offsets, data = wide.buffers()
    ends = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    first, last = int(ends[0]), int(ends[-1])
    body = data.slice(first, last - first) if data is not None else buffer_of(b"")
    return pa.Array.from_buffers(kind, len(array), [validity, buffer_of((ends - first).astype(np.int32)), body])


def _bits(array: Column) -> Any:
    return packed(valid(array)) if array.null_count else None


def _offsets(lengths: NDArray[np.int64]) -> Any:
    return buffer_of(bounds(lengths).astype(np.int32))


def value_bytes(array: Column) -> NDArray[np.int64]:
    """Bytes each value takes in a record batch, int64 of shape (n,), padding and validity left out."""
    kind = array.type
    if pt.is_struct(kind):
        return sum((value_bytes(child) for child in array.flatten()), np.zeros(len(array), np.int64))
    if pt.is_nested(kind):
        inner = bounds(value_bytes(array.flatten()))
        return 4 + np.diff(inner[bounds(lengths(array))])
    if pt.is_primitive(kind):
        return np.full(len(array), max(1, kind.bit_width // 8), np.int64)
    return 4 + lengths(array)
