"""Parquet: row groups found in the footer, read in small batches, any row addressable."""

import io
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.remote_file import RangedFile
from data_bridge.io.sources.arrow_rows import COLUMN_BATCH_BYTES, cut, path_of, plain_batch
from data_bridge.io.sources.arrow_schema import plain_schema, reading
from data_bridge.io.sources.base import TARGET_BATCH_ROWS
from data_bridge.io.sources.columnar import Columnar, PieceRows, Run, windows
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch
from data_bridge.model.source import FilePiece, SourceFile

STREAM_BYTES = 1 << 20
"""Read-ahead per column of a local file."""
REMOTE_STREAM_BYTES = 8 << 20
"""… and of a remote one, where each read is a request."""
WHOLE_BYTES = 8 << 20
"""Columns of row groups up to this size that are at hand are read whole: pages then need not be copied out of the read-ahead."""
COALESCE_BYTES = 64 << 20
"""Row groups of remote files up to this size are fetched whole, in few large requests."""
FOOTER_BYTES = 16 << 20
"""Footers that are kept for when their files are read on, as they are stored; in memory they are some times as large."""

_DENSE = 0.8
"""Columns that fill less of their span are read one by one."""
_POOLED_BYTES = 1 << 20


class _IntoArrow(io.BufferedReader):
    """Large reads go into memory of Arrow's pool, which is used again; a page may be as large as its row group."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < _POOLED_BYTES:
            return super().read(size)
        pooled = pa.allocate_buffer(size)
        got = self.readinto(memoryview(pooled))
        return cast("bytes", memoryview(pooled)[:got])  # Arrow takes any buffer, and keeps it without a copy


class _Opened(msgspec.Struct, frozen=True):
    """A file open for reading. `whole` reads a row group as its place demands; `streamed`, what `remote` fetches ahead."""

    whole: pq.ParquetFile
    streamed: pq.ParquetFile | None = None
    remote: RangedFile | None = None

    def ahead(self, group: int, names: Sequence[str]) -> bool:
        """Have the columns of a row group fetched, if that can be done and is worth it."""
        span = _span(self.whole.metadata.row_group(group), names) if self.remote is not None else None
        return span is not None and self.remote is not None and self.remote.expect(*span)

    def done(self, group: int) -> None:
        """The row groups before this one are read."""
        if self.remote is not None:
            self.remote.forget(_start(self.whole.metadata.row_group(group)))

    def over(self) -> None:
        """A piece is read; the next one may lie before it."""
        if self.remote is not None:
            self.remote.forget(self.remote.seek(0, io.SEEK_END))


class _Footers:
    """Of the files a partition is made of, the last ones used."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._bytes = 0

    def get(self, uri: str) -> "pq.FileMetaData | None":
        found = self._kept.get(uri)
        if found is not None:
            self._kept.move_to_end(uri)
        return found

    def keep(self, uri: str, footer: "pq.FileMetaData") -> None:
        if uri in self._kept:
            return
        self._kept[uri] = footer
        self._bytes += footer.serialized_size
        while self._bytes > FOOTER_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].serialized_size


class Parquet(Columnar):
    """Reads Parquet files. Opening at a row reads the footer, once a partition, and that row's group from its start."""

    name = "parquet"

    def __init__(self, options: SourceOptions, transport: Transport) -> None:
        super().__init__(options, transport)
        self._footers = _Footers()

    def _scan(self, file: SourceFile) -> tuple[list[Run], pa.Schema]:
        """Rows and compressed bytes of every row group, from the footer."""
        with self._opened(file) as opened:
            parquet = opened.whole
            meta = parquet.metadata
            groups = (meta.row_group(i) for i in range(meta.num_row_groups))
            return [Run(group.num_rows, _stored(group)) for group in groups], parquet.schema_arrow

    @contextmanager
    def _reading(self, file: SourceFile) -> Generator[tuple[pa.Schema, PieceRows]]:
        with self._opened(file, self._footers.get(file.uri)) as opened:
            self._footers.keep(file.uri, opened.whole.metadata)
            yield opened.whole.schema_arrow, partial(_rows, opened)

    @contextmanager
    def _opened(self, file: SourceFile, footer: "pq.FileMetaData | None" = None) -> Generator[_Opened]:
        with self._transport.open(file) as stream, reading(file.uri, "Parquet"), ExitStack() as files:
            path = path_of(stream)
            raw = getattr(stream, "raw", None)
            source: Any = pa.OSFile(path, "rb") if path is not None else stream
            if isinstance(raw, RangedFile):
                source = _IntoArrow(raw)
            meta = pq.read_metadata(source) if footer is None else footer
            largest = _largest(meta)

            def reader(buffer_bytes: int, *, at_once: bool = False) -> pq.ParquetFile:
                return files.enter_context(
                    pq.ParquetFile(
                        source,
                        metadata=meta,
                        pre_buffer=at_once,
                        buffer_size=buffer_bytes,
                        page_checksum_verification=True,
                    )
                )

            near = 0 if largest <= WHOLE_BYTES else STREAM_BYTES
            if path is not None:
                yield _Opened(reader(near))
            elif largest > COALESCE_BYTES:
                yield _Opened(reader(REMOTE_STREAM_BYTES))
            elif isinstance(raw, RangedFile):
                yield _Opened(reader(0, at_once=True), reader(near), raw)
            else:
                yield _Opened(reader(0, at_once=True))


def _stored(group: "pq.RowGroupMetaData") -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _largest(meta: "pq.FileMetaData") -> int:
    return max((_stored(meta.row_group(i)) for i in range(meta.num_row_groups)), default=0)


def _rows(opened: _Opened, piece: FilePiece, names: Sequence[str], row: int | None) -> Iterator[Batch]:
    """Batches of one piece from a row of the file on; `start` is the row number."""
    meta = opened.whole.metadata
    wanted = windows([meta.row_group(group).num_rows for group in range(meta.num_row_groups)], piece, row)
    there = False
    for number, (group, first, start, end) in enumerate(wanted):
        opened.done(group)
        here = there or opened.ahead(group, names)
        there = number + 1 == len(wanted)
        parquet = opened.streamed if here and opened.streamed is not None else opened.whole
        with reading(f"{piece.file.uri} row group {group}", "Parquet"):
            for batch in _group(parquet, piece.file.uri, group, first, start, end, names):
                # this group's first rows are here: the next may come while they are packed
                there = there or opened.ahead(wanted[number + 1].number, names)
                yield batch
    opened.over()


def _start(group: "pq.RowGroupMetaData") -> int:
    return min((_place(group.column(i)) for i in range(group.num_columns)), default=0)


def _place(column: "pq.ColumnChunkMetaData") -> int:
    return min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)


def _span(group: "pq.RowGroupMetaData", names: Sequence[str]) -> tuple[int, int] | None:
    """Where the columns of a group stand in the file; None where much of that would be other columns."""
    wanted = set(names)
    columns = [
        column
        for column in (group.column(i) for i in range(group.num_columns))
        if column.path_in_schema.split(".")[0] in wanted and column.total_compressed_size
    ]
    if not columns:
        return None
    start = min(map(_place, columns))
    end = max(_place(column) + column.total_compressed_size for column in columns)
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
