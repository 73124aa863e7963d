"""Parquet: row groups found in the footer, read in small batches, any row addressable."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.arrow_rows import cut, path_of, plain_batch, probe_rows
from data_bridge.io.sources.arrow_schema import chosen_fields, column_order, demand_same, plain_schema, reading
from data_bridge.io.sources.base import TARGET_BATCH_BYTES, TARGET_BATCH_ROWS
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, Token
from data_bridge.model.source import Extent, Field, FilePiece, Probe, SourceFile

FOOTER_THREADS = 16
STREAM_BYTES = 1 << 20
"""Read-ahead per column of a local file."""
REMOTE_STREAM_BYTES = 8 << 20
"""… and of a remote one, where each read is a request."""
COALESCE_BYTES = 64 << 20
"""Row groups of remote files up to this size are fetched whole, in few large requests."""


class Parquet:
    """Reads Parquet files of one schema (columns in any order). Positions are row numbers in the file.

    Tokens are `[piece number, row number]`. Opening at a row reads the footer and that row's group from its start.
    """

    name = "parquet"
    counted = True

    def __init__(self, options: SourceOptions, transport: Transport) -> None:
        self._columns = options.columns
        self._transport = transport

    def prepare(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Read all footers at once: the files with their row groups noted, so that they need not be read again.

        Raises SourceError naming both files and the field where two files do not have the same fields.
        """
        with ThreadPoolExecutor(FOOTER_THREADS) as threads:
            footers = list(threads.map(self._footer, files))
        orders = column_order([f.uri for f in files], [fields for _, fields in footers])
        return [
            file.model_copy(update={"extra": {**file.extra, "groups": groups, **({"order": order} if order else {})}})
            for file, (groups, _), order in zip(files, footers, orders, strict=True)
        ]

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """One per row group that has rows, with its exact rows and its compressed bytes."""
        extents = []
        start = 0
        for rows, size in self._groups(file):
            if rows:
                extents.append(Extent(start=start, end=start + rows, samples=rows, bytes=size, divisible=True))
            start += rows
        return extents

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        """Fields of the first file's footer; rows from the first file that has any."""
        fields = self._footer(files[0])[1]
        for file in files:
            groups = self._groups(file)
            count = sum(rows for rows, _ in groups)
            if count:
                rows = probe_rows(self.read([FilePiece(file)], None), fields)
                return Probe(
                    fields, declared=True, rows=rows, mean_sample_bytes=sum(size for _, size in groups) / count
                )
        return Probe(fields, declared=True)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Batches of ArrowRows. Prepared files all have the first file's column order."""
        reference: tuple[str, tuple[Field, ...]] | None = None
        first, row = token if token is not None else (0, None)
        for number in range(first, len(pieces)):
            file = pieces[number].file
            with self._opened(file) as parquet:
                fields = chosen_fields(parquet.schema_arrow, self._columns, file.uri)
                reference = reference or (file.uri, fields)
                demand_same(*reference, file.uri, fields)
                names = file.extra.get("order") or [f.name for f in fields]
                for batch in _rows(parquet, pieces[number], names, row):
                    yield Batch([number, batch.start], batch.rows, batch.failures)
            row = None

    def _groups(self, file: SourceFile) -> list[list[int]]:
        return file.extra["groups"] if "groups" in file.extra else self._footer(file)[0]

    def _footer(self, file: SourceFile) -> tuple[list[list[int]], tuple[Field, ...]]:
        """`[rows, compressed bytes]` of every row group, and the fields."""
        with self._opened(file) as parquet:
            meta = parquet.metadata
            groups = [[meta.row_group(i).num_rows, _stored(meta.row_group(i))] for i in range(meta.num_row_groups)]
            return groups, chosen_fields(parquet.schema_arrow, self._columns, file.uri)

    @contextmanager
    def _opened(self, file: SourceFile) -> Iterator[pq.ParquetFile]:
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
    """Rows of a batch of about TARGET_BATCH_BYTES."""
    wanted = set(names)
    columns = (group.column(i) for i in range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in wanted)
    per_row = max(1, size // max(1, group.num_rows))
    return max(1, min(TARGET_BATCH_ROWS, TARGET_BATCH_BYTES // per_row))
