"""The beginning of a CSV file: its dialect, the names of its columns, and where its records start."""

from collections import Counter

import msgspec

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.codecs import stem_extension
from data_bridge.io.locations import shown
from data_bridge.io.sources.csv_records import Dialect, Record, walk
from data_bridge.io.sources.lines import (
    BOM,
    HEAD_BYTES,
    head_of,
    invalid_utf8,
    refuse_binary,
    refuse_html,
    wrong_format,
)
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

MAX_HEADER_BYTES = 16_000_000
_WANTED = "CSV"
_DELIMITERS = ",;\t|"
_TAB_EXTENSIONS = (".tsv", ".tab")


class Layout(msgspec.Struct, frozen=True):
    """How one file is laid out. `start` and `line` are where the first record after the header may be."""

    dialect: Dialect
    names: tuple[str, ...]
    start: int
    line: int

    @property
    def width(self) -> int:
        return len(self.names)


def find_layout(transport: Transport, file: SourceFile, options: SourceOptions, *, tab: bool) -> Layout | None:
    """Read the beginning of a file; None when it holds nothing but empty lines.

    Raises SourceError when it is not CSV, or its header names a column twice or cannot be read.
    """
    default = "\t" if tab or stem_extension(file.uri) in _TAB_EXTENSIONS else ","
    dialect = Dialect(options.delimiter or default, options.quotes)
    for size in (HEAD_BYTES, MAX_HEADER_BYTES):
        head = head_of(transport, file, size)
        _refuse_wrong(head[:HEAD_BYTES], file)
        skipped = len(BOM) if head.startswith(BOM) else 0
        whole = len(head) < size
        record = next((r for r in walk(head[skipped:], dialect, final=whole) if r.end > r.start), None)
        if record is not None:
            return _layout(file, options, dialect, head, skipped, record)
        if whole:
            break
    if head[skipped:].strip(b"\r\n"):
        raise SourceError(
            f"{shown(file.uri)}: the first record has no end within {len(head):,} bytes",
            hint='a `"` in it is never closed, or this is no CSV file: look at it, or set pipeline.input_format',
        )
    return None


def _layout(
    file: SourceFile, options: SourceOptions, dialect: Dialect, head: bytes, skipped: int, record: Record
) -> Layout:
    raw = head[skipped + record.start : skipped + record.end]
    reason = record.reason or invalid_utf8(raw)
    if reason:
        raise SourceError(
            f"{shown(file.uri)}: the first record cannot be read: {reason}",
            hint="the file must be UTF-8 with \\n or \\r\\n at the end of lines",
        )
    _refuse_other_delimiter(file, options, dialect, record)
    numbered = tuple(f"c{i}" for i in range(len(record.fields)))
    if not options.header:
        return Layout(dialect, numbered, skipped, 1)
    names = tuple(f.decode() if f else number for f, number in zip(record.fields, numbered, strict=True))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(
            f"{shown(file.uri)}: the header names {', '.join(map(repr, twice))} more than once",
            hint="rename the columns, or set source_options.header: false if the first line is data",
        )
    start = skipped + record.next
    return Layout(dialect, names, start, 1 + head.count(b"\n", 0, start))


def _refuse_wrong(head: bytes, file: SourceFile) -> None:
    refuse_binary(head, file, _WANTED)
    refuse_html(head, file, _WANTED)
    if head.removeprefix(BOM).lstrip().startswith((b'{"', b'[{"')):
        raise wrong_format(file, _WANTED, "JSON", hint="set pipeline.input_format: jsonl")


def _refuse_other_delimiter(file: SourceFile, options: SourceOptions, dialect: Dialect, record: Record) -> None:
    """One column whose name has another delimiter in it is a file read with the wrong one."""
    if options.delimiter is not None or len(record.fields) != 1:
        return
    other = next((d for d in _DELIMITERS if d.encode() in (record.fields[0] or b"")), None)
    if other is not None:
        raise SourceError(
            f"{shown(file.uri)}: no {dialect.delimiter!r} in the first record, but {other!r}",
            hint=f"set source_options.delimiter to {other!r}, or to {dialect.delimiter!r} if there is one column",
        )
