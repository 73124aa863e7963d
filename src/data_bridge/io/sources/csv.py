"""CSV and TSV (RFC 4180): columns of text, or of the types that `source_options.csv_types` declares."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from data_bridge.config import SourceOptions
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.codecs import is_compressed
from data_bridge.io.locations import shown
from data_bridge.io.sources.arrow_schema import select
from data_bridge.io.sources.base import TARGET_BATCH_BYTES, read_each
from data_bridge.io.sources.csv_header import Layout, find_layout
from data_bridge.io.sources.csv_records import Records, parse
from data_bridge.io.sources.csv_types import FIELD_TYPES, typed
from data_bridge.io.sources.lines import MAX_LINE_BYTES, cuts
from data_bridge.io.sources.observed import PROBE_FILES, observe
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, Batch, RowFailure, Token
from data_bridge.model.source import Extent, Field, FilePiece, Probe, SourceFile


class _Chunk(msgspec.Struct, frozen=True):
    """Records that were read together. `offset` is the position of `data[0]`; `line` its line, where it is known."""

    offset: int
    line: int | None
    data: bytes
    records: Records

    @property
    def next_line(self) -> int | None:
        return None if self.line is None else self.line + self.data.count(b"\n", 0, self.records.used)


class Csv:
    """Reads delimited text. All fields are strings unless `csv_types` says otherwise; an empty one is null.

    A file is one indivisible extent, for only reading from the start tells which newlines are inside quotes.
    The token is the byte offset of a record in the decoded content. `buffer_bytes` is how much is read and
    parsed together; it moves batches but never samples.
    """

    name = "csv"
    counted = False

    def __init__(
        self,
        options: SourceOptions,
        transport: Transport,
        *,
        buffer_bytes: int = TARGET_BATCH_BYTES,
        max_record_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        _check_delimiter(options)
        self._options = options
        self._transport = transport
        self._buffer_bytes = buffer_bytes
        self._max_record_bytes = max_record_bytes
        self._first: tuple[SourceFile, Layout] | None = None

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """The whole file; none when it holds no record to name the columns.

        Raises SourceError when its header is not that of the files seen before it, naming both.
        """
        if self._layout(file) is None:
            return ()
        return (Extent(start=0, end=None if is_compressed(file.uri) else file.size, bytes=file.size),)

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        first = files[:PROBE_FILES]
        seen = observe(first, (batch for file in first for batch in self._read_piece(FilePiece(file), None)))
        if self._first is None:
            return seen
        nullable = {field.name: field.nullable for field in seen.fields}
        types = self._options.csv_types or {}
        fields = tuple(
            Field(name=name, type=FIELD_TYPES[types.get(name, "string")], nullable=nullable.get(name, True))
            for name in self._selected(*self._first)
        )
        return Probe(fields, declared=False, rows=seen.rows, mean_sample_bytes=seen.mean_sample_bytes)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        return read_each(self._read_piece, pieces, token)

    def _layout(self, file: SourceFile) -> Layout | None:
        """Columns of a file, checked against the options and against the first file; None when it is empty."""
        layout = find_layout(self._transport, file, self._options, tab=self.name == "tsv")
        if layout is None:
            return None
        if self._first is None:
            _check_types(layout, file, self._options)
            self._selected(file, layout)
            self._first = (file, layout)
        elif layout.names != self._first[1].names:
            other = self._first[0]
            raise SourceError(
                f"{shown(file.uri)} has other columns than {shown(other.uri)}: "
                f"{_difference(layout.names, self._first[1].names)}",
                hint="all files of one source have the same header; read the others as a source of their own",
            )
        return layout

    def _selected(self, file: SourceFile, layout: Layout) -> list[str]:
        return select(layout.names, self._options.columns, shown(file.uri))

    def _read_piece(self, piece: FilePiece, token: Token | None) -> Iterator[Batch]:
        layout = self._layout(piece.file)
        if layout is None:
            return
        names = self._selected(piece.file, layout)
        start = max(piece.start, layout.start) if token is None else int(token)
        for chunk in self._chunks(piece, layout, start):
            yield from self._batches(chunk, piece.file, layout, names)

    def _content(self, piece: FilePiece, start: int) -> Iterator[bytes]:
        if is_compressed(piece.file.uri):
            return self._transport.decoded(piece.file, start)
        return self._transport.blocks(piece.file, start, piece.end)

    def _chunks(self, piece: FilePiece, layout: Layout, start: int) -> Iterator[_Chunk]:
        """The records from `start`, where one begins, to the end of the piece."""
        offset, line = start, layout.line if start == layout.start else None
        parts: list[bytes] = []
        size, needed = 0, self._buffer_bytes
        for block in self._content(piece, start):
            parts.append(block)
            size += len(block)
            if size < needed:
                continue
            data = b"".join(parts)
            records = parse(data, layout.width, layout.dialect, final=False)
            if records.used:
                chunk = _Chunk(offset, line, data, records)
                yield chunk
                offset, line, data = offset + records.used, chunk.next_line, data[records.used :]
            elif size > self._max_record_bytes:
                raise self._endless(piece.file, offset, line, f"goes on for more than {self._max_record_bytes:,} bytes")
            parts, size = [data], len(data)
            needed = max(self._buffer_bytes, 2 * size)  # a long record is not searched again for every block
        data = b"".join(parts)
        while data:
            records = parse(data, layout.width, layout.dialect, final=True)
            if not records.used:
                raise self._endless(piece.file, offset, line, "opens a quote that is never closed")
            chunk = _Chunk(offset, line, data, records)
            yield chunk
            offset, line, data = offset + records.used, chunk.next_line, data[records.used :]

    def _endless(self, file: SourceFile, offset: int, line: int | None, why: str) -> SourceError:
        return SourceError(
            f"{_place(file, offset, line)}: the record {why}",
            hint='mend the `"` there; where `"` is a plain character, set source_options.quotes: false',
        )

    def _batches(self, chunk: _Chunk, file: SourceFile, layout: Layout, names: Sequence[str]) -> Iterator[Batch]:
        records = chunk.records
        reasons = dict(records.bad)
        good = np.delete(np.arange(len(records.starts)), list(reasons))
        table, keep = self._table(records, layout, names, good, reasons)
        good = good[keep]
        for lo, hi in cuts(records.starts, records.ends):
            first, last = np.searchsorted(good, (lo, hi)).tolist()
            failures = (
                tuple(_failure(chunk, file, i, lo, reasons[i]) for i in range(lo, hi) if i in reasons)
                if reasons
                else ()
            )
            yield Batch(chunk.offset + int(records.starts[lo]), ArrowRows(table.slice(first, last - first)), failures)

    def _table(
        self, records: Records, layout: Layout, names: Sequence[str], good: "np.ndarray", reasons: dict[int, str]
    ) -> tuple[pa.RecordBatch, "np.ndarray"]:
        """The selected columns of the good records in their types, and which of them stay; adds to `reasons`."""
        types = self._options.csv_types or {}
        keep = np.ones(len(good), np.bool_)
        columns = []
        for name in names:
            text = records.columns[layout.names.index(name)]
            kind = types.get(name, "string")
            column, bad = typed(text, kind)
            columns.append(column)
            for i in np.flatnonzero(bad).tolist():
                reasons.setdefault(int(good[i]), f"column {name!r}: {text[i].as_py()[:80]!r} is not {kind}")
            keep &= ~bad
        table = pa.RecordBatch.from_arrays(columns, names=list(names))
        return (table if keep.all() else table.filter(pa.array(keep))), keep


class Tsv(Csv):
    """CSV whose default delimiter is a tab."""

    name = "tsv"


def _failure(chunk: _Chunk, file: SourceFile, index: int, first: int, reason: str) -> RowFailure:
    start, end = int(chunk.records.starts[index]), int(chunk.records.ends[index])
    line = None if chunk.line is None else chunk.line + chunk.data.count(b"\n", 0, start)
    return RowFailure(
        offset=index - first, reason=reason, where=_place(file, chunk.offset + start, line), raw=chunk.data[start:end]
    )


def _place(file: SourceFile, offset: int, line: int | None) -> str:
    return f"{shown(file.uri)} line {line}" if line is not None else f"{shown(file.uri)} byte {offset}"


def _check_delimiter(options: SourceOptions) -> None:
    delimiter = options.delimiter
    if delimiter is None:
        return
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in "\r\n" or (delimiter == '"' and options.quotes):
        raise ConfigError(
            f"pipeline.source_options.delimiter: {delimiter!r} cannot separate fields",
            hint="give one ASCII character other than a quote or a line end",
        )


def _check_types(layout: Layout, file: SourceFile, options: SourceOptions) -> None:
    unknown = [name for name in options.csv_types or {} if name not in layout.names]
    if unknown:
        raise ConfigError(
            f"pipeline.source_options.csv_types: {shown(file.uri)} has no column {', '.join(map(repr, unknown))}",
            hint=f"its columns are {', '.join(layout.names)}",
        )


def _difference(names: Sequence[str], others: Sequence[str]) -> str:
    """What distinguishes two headers, in words."""
    missing = [name for name in others if name not in names]
    extra = [name for name in names if name not in others]
    if missing:
        return f"{', '.join(map(repr, missing))} is missing"
    if extra:
        return f"{', '.join(map(repr, extra))} is new"
    return f"they come in another order ({', '.join(names)})"
