"""Parquet: row groups found in the footer, read in small batches, any row addressable."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge.errors import SourceError
from data_bridge.io.sources.arrow_rows import COLUMN_BATCH_BYTES, cut, path_of, plain_batch
from data_bridge.io.sources.arrow_schema import plain_schema, reading
from data_bridge.io.sources.base import TARGET_BATCH_ROWS
from data_bridge.io.sources.columnar import Columnar, PieceRows, Run
from data_bridge.model.batch import Batch
from data_bridge.model.source import FilePiece, SourceFile

STREAM_BYTES = 1 << 20
"""Read-ahead per column of a local file."""
REMOTE_STREAM_BYTES = 8 << 20
"""… and of a remote one, where each read is a request."""
COALESCE_BYTES = 64 << 20
"""Row groups of remote files up to this size are fetched whole, in few large requests."""


class Parquet(Columnar):
    """Reads Parquet files. Opening at a row reads the footer and that row's group from its start."""

    name = "parquet"

    def _scan(self, file: SourceFile) -> tuple[list[Run], pa.Schema]:
        """Rows and compressed bytes of every row group, from the footer."""
        with self._opened(file) as parquet:
            meta = parquet.metadata
            groups = (meta.row_group(i) for i in range(meta.num_row_groups))
            return [Run(group.num_rows, _stored(group)) for group in groups], parquet.schema_arrow

    @contextmanager
    def _reading(self, file: SourceFile) -> Generator[tuple[pa.Schema, PieceRows]]:
        with self._opened(file) as parquet:
            yield parquet.schema_arrow, partial(_rows, parquet)

    @contextmanager
    def _opened(self, file: SourceFile) -> Generator[pq.ParquetFile]:
        with self._transport.open(file) as stream, reading(file.uri, "Parquet"):
            path = path_of(stream)
            local = path is not None
            source: Any = pa.OSFile(path, "rb") if path is not None else stream
            meta = pq.read_metadata(source)
            whole = not local and _largest(meta) <= COALESCE_BYTES
            with pq.ParquetFile(
                source,
                metadata=meta,
                pre_buffer=whole,
                buffer_size=0 if whole else STREAM_BYTES if local else REMOTE_STREAM_BYTES,
                page_checksum_verification=True,
            ) as parquet:
                yield parquet


def _stored(group: "pq.RowGroupMetaData") -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _largest(meta: "pq.FileMetaData") -> int:
    return max((_stored(meta.row_group(i)) for i in range(meta.num_row_groups)), default=0)


def _rows(parquet: pq.ParquetFile, piece: FilePiece, names: Sequence[str], row: int | None) -> Iterator[Batch]:
    """Batches of one piece from a row of the file on; `start` is the row number."""
    meta = parquet.metadata
    at = piece.start if row is None else row
    end = meta.num_rows if piece.end is None else piece.end
    if end > meta.num_rows:
        raise SourceError(
            f"{piece.file.uri}: has {meta.num_rows} rows, {end} are planned",
            hint="the file has changed since it was planned; start again with --fresh",
        )
    first = 0
    for group in range(meta.num_row_groups):
        rows = meta.row_group(group).num_rows
        if first < end and at < first + rows:
            with reading(f"{piece.file.uri} row group {group}", "Parquet"):
                yield from _group(parquet, piece.file.uri, group, first, max(at, first), min(end, first + rows), names)
        first += rows


def _group(
    parquet: pq.ParquetFile, uri: str, group: int, first: int, start: int, end: int, names: Sequence[str]
) -> Iterator[Batch]:
    """Rows [start, end) of a row group whose first row is `first`, all numbered in the file."""
    size = _batch_rows(parquet.metadata.row_group(group), names)
    full = plain_schema(parquet.schema_arrow)
    schema = pa.schema([full.field(name) for name in names])
    at = first
    for raw in parquet.iter_batches(size, row_groups=[group], columns=list(names), use_threads=False):
        lo, hi = max(start - at, 0), min(end - at, raw.num_rows)
        if lo < hi:
            rows = plain_batch(raw.slice(lo, hi - lo), schema)
            yield from cut(rows, at + lo, uri)
        at += raw.num_rows
        if at >= end:
            return
    raise SourceError(f"{uri} row group {group}: ends after {at - first} rows", hint="the file is damaged: replace it")


def _batch_rows(group: "pq.RowGroupMetaData", names: Sequence[str]) -> int:
    """Rows of a batch of about COLUMN_BATCH_BYTES."""
    wanted = set(names)
    columns = (group.column(i) for i in range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in wanted)
    per_row = max(1, size // max(1, group.num_rows))
    return max(1, min(TARGET_BATCH_ROWS, COLUMN_BATCH_BYTES // per_row))
