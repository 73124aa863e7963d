"""Parquet: row groups found in the footer, read in small batches, any row addressable."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge.errors import SourceError
from data_bridge.io.remote_file import RangedFile
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
WHOLE_BYTES = 8 << 20
"""Columns of local row groups up to this size are read whole: pages then need not be copied out of the read-ahead."""
COALESCE_BYTES = 64 << 20
"""Row groups of remote files up to this size are fetched whole, in few large requests."""


_DENSE = 0.8

Expect: TypeAlias = Callable[[int, int], None]


class Parquet(Columnar):
    """Reads Parquet files. Opening at a row reads the footer and that row's group from its start."""

    name = "parquet"

    def _scan(self, file: SourceFile) -> tuple[list[Run], pa.Schema]:
        """Rows and compressed bytes of every row group, from the footer."""
        with self._opened(file) as (parquet, _):
            meta = parquet.metadata
            groups = (meta.row_group(i) for i in range(meta.num_row_groups))
            return [Run(group.num_rows, _stored(group)) for group in groups], parquet.schema_arrow

    @contextmanager
    def _reading(self, file: SourceFile) -> Generator[tuple[pa.Schema, PieceRows]]:
        with self._opened(file) as (parquet, expect):
            yield parquet.schema_arrow, partial(_rows, parquet, expect)

    @contextmanager
    def _opened(self, file: SourceFile) -> Generator[tuple[pq.ParquetFile, Expect]]:
        """The file, and how to have a span of it fetched ahead where that can be done."""
        with self._transport.open(file) as stream, reading(file.uri, "Parquet"):
            path = path_of(stream)
            local = path is not None
            source: Any = pa.OSFile(path, "rb") if path is not None else stream
            meta = pq.read_metadata(source)
            whole = _largest(meta) <= (WHOLE_BYTES if local else COALESCE_BYTES)
            with pq.ParquetFile(
                source,
                metadata=meta,
                pre_buffer=whole and not local,
                buffer_size=0 if whole else STREAM_BYTES if local else REMOTE_STREAM_BYTES,
                page_checksum_verification=True,
            ) as parquet:
                raw = getattr(stream, "raw", None)
                yield parquet, raw.expect if whole and isinstance(raw, RangedFile) else _expect_nothing


def _expect_nothing(start: int, end: int) -> None:
    """For files whose next bytes are as near as they can be."""


def _stored(group: "pq.RowGroupMetaData") -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _largest(meta: "pq.FileMetaData") -> int:
    return max((_stored(meta.row_group(i)) for i in range(meta.num_row_groups)), default=0)


def _rows(
    parquet: pq.ParquetFile, expect: Expect, piece: FilePiece, names: Sequence[str], row: int | None
) -> Iterator[Batch]:
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
    wanted: list[tuple[int, int, int]] = []
    for group in range(meta.num_row_groups):
        rows = meta.row_group(group).num_rows
        if first < end and at < first + rows:
            wanted.append((group, first, first + rows))
        first += rows
    for number, (group, first, last) in enumerate(wanted):
        after = _span(meta.row_group(wanted[number + 1][0]), names) if number + 1 < len(wanted) else None
        with reading(f"{piece.file.uri} row group {group}", "Parquet"):
            for batch in _group(parquet, piece.file.uri, group, first, max(at, first), min(end, last), names):
                if after is not None:  # this group is here: the next may come while it is packed
                    expect(*after)
                    after = None
                yield batch


def _span(group: "pq.RowGroupMetaData", names: Sequence[str]) -> tuple[int, int] | None:
    """Where the columns of a group stand in the file; None where much of that would be other columns."""
    wanted = set(names)
    columns = [
        column
        for column in (group.column(i) for i in range(group.num_columns))
        if column.path_in_schema.split(".")[0] in wanted and column.total_compressed_size
    ]
    starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in columns]
    if not columns:
        return None
    start = min(starts)
    end = max(at + c.total_compressed_size for at, c in zip(starts, columns, strict=True))
    size = sum(c.total_compressed_size for c in columns)
    return (start, end) if size >= _DENSE * (end - start) else None


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
