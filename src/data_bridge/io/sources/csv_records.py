"""CSV records of a buffer as columns: whole buffers at a time where quotes are regular, exactly field by field where not.

A quote is special only where a field starts. Inside quotes, `""` is a quote and everything else is itself; the
closing quote ends the field. A record ends at `\\n` or `\\r\\n` outside quotes. Empty lines are no records.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_bridge.io.sources.lines import invalid_utf8
from data_bridge.io.sources.spans import string_column

_NEWLINE, _RETURN, _QUOTE = 10, 13, 34
_Positions = NDArray[np.int64]


class Dialect(msgspec.Struct, frozen=True):
    delimiter: str = ","
    quotes: bool = True
    """Whether `"` protects delimiters and line ends, or is a character like others."""

    @property
    def stop(self) -> re.Pattern[bytes]:
        return re.compile(b"[\\n" + re.escape(self.delimiter.encode()) + b"]")


class Records(msgspec.Struct, frozen=True):
    """The records of a buffer. `starts` and `ends` are their spans without line ends (int64, shape (n,))."""

    starts: _Positions
    ends: _Positions
    columns: list["pa.Array[Any]"]
    """Strings of the good records; an empty field is null, or "" when it is quoted."""
    bad: dict[int, str]
    """What is wrong with the others, by position among all."""
    used: int
    """Bytes of the buffer these records take; the rest is the beginning of another one."""


class Record(msgspec.Struct):
    """One record as the exact parser finds it."""

    start: int
    end: int
    next: int
    fields: list[bytes | None] = msgspec.field(default_factory=list)
    reason: str = ""


def parse(data: bytes, width: int, dialect: Dialect, *, final: bool) -> Records:
    """Records of `width` fields from the start of `data`, which is the start of a record.

    With `final` the data ends the file, so that its last record may lack a line end. A record that is not
    complete, or whose quotes do not close, is left over.
    """
    records = _regular(data, width, dialect, final=final)
    return records if records is not None else _exact(data, width, dialect, final=final)


# ---- regular quotes: every quote opens, closes or doubles where it should --------------------------------------------


def _regular(data: bytes, width: int, dialect: Dialect, *, final: bool) -> Records | None:
    """All complete records by vector operations; None when a quote or carriage return is out of place."""
    every = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(every == _NEWLINE)
    quotes = np.flatnonzero(every == _QUOTE) if dialect.quotes else np.empty(0, np.int64)
    ends = newlines[_outside(newlines, quotes)]
    used = int(ends[-1]) + 1 if len(ends) else 0
    if final and used < len(data) and len(quotes) % 2 == 0:
        used = len(data)
        ends = np.append(ends, used)
    if not _quotes_fit(every, quotes if used == 0 else quotes[quotes < used], dialect):
        return None
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    returns = np.flatnonzero(every[:used] == _RETURN)
    if len(returns):
        returns = returns[_outside(returns, quotes)]
        if returns[-1:].tolist() == [len(data) - 1] or not (every[returns + 1] == _NEWLINE).all():
            return None
        ends = ends - ((ends > starts) & (every[np.maximum(ends - 1, 0)] == _RETURN))
    kept = ends > starts
    starts, ends = starts[kept], ends[kept]
    delimiters = np.flatnonzero(every[:used] == ord(dialect.delimiter))
    delimiters = delimiters[_outside(delimiters, quotes)]
    return _records(data, width, starts, ends, delimiters, quotes, used)


def _outside(positions: _Positions, quotes: _Positions) -> NDArray[np.bool_]:
    """Which positions have an even number of quotes before them."""
    outside: NDArray[np.bool_] = np.searchsorted(quotes, positions) % 2 == 0
    return outside


def _quotes_fit(every: NDArray[np.uint8], quotes: _Positions, dialect: Dialect) -> bool:
    """Whether quotes open only where a field starts, and close only where one ends or before another quote."""
    opening, closing = quotes[0::2], quotes[1::2]
    delimiter = ord(dialect.delimiter)
    before = every[np.maximum(opening - 1, 0)]
    if not ((opening == 0) | (before == delimiter) | (before == _NEWLINE) | (before == _QUOTE)).all():
        return False
    closing = closing[closing + 1 < len(every)]
    after = every[closing + 1]
    line_end = (after == _RETURN) & (every[np.minimum(closing + 2, len(every) - 1)] == _NEWLINE)
    if len(closing) and int(closing[-1]) + 2 == len(every):
        line_end[-1] |= after[-1] == _RETURN  # what follows is not read yet
    return bool(((after == delimiter) | (after == _NEWLINE) | (after == _QUOTE) | line_end).all())


def _records(
    data: bytes, width: int, starts: _Positions, ends: _Positions, delimiters: _Positions, quotes: _Positions, used: int
) -> Records:
    first = np.searchsorted(delimiters, starts)
    counts = np.searchsorted(delimiters, ends) - first + 1
    bad = {i: _ragged(int(counts[i]), width) for i in np.flatnonzero(counts != width).tolist()}
    if invalid_utf8(data[:used]) is not None:
        for i, (lo, hi) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if (reason := invalid_utf8(data[lo:hi])) is not None:
                bad[i] = reason
    good = np.delete(np.arange(len(starts)), list(bad)) if bad else np.arange(len(starts))
    inner = delimiters[first[good][:, None] + np.arange(width - 1)]
    lows = np.hstack([starts[good][:, None], inner + 1])
    highs = np.hstack([inner, ends[good][:, None]])
    every = np.frombuffer(data, np.uint8)
    doubled = bool((np.diff(quotes)[1::2] == 1).any())
    columns = [
        _column(data, every, lows[:, j], highs[:, j], quotes=len(quotes) > 0, doubled=doubled) for j in range(width)
    ]
    return Records(starts, ends, columns, bad, used)


def _column(
    data: bytes, every: NDArray[np.uint8], starts: _Positions, ends: _Positions, *, quotes: bool, doubled: bool
) -> "pa.Array[Any]":
    empty = starts == ends
    nulls = empty if empty.any() else None
    if not quotes or not len(starts):
        return string_column(data, starts, ends, nulls)
    quoted = (every[np.minimum(starts, len(every) - 1)] == _QUOTE) & ~empty
    column = string_column(data, starts + quoted, ends - quoted, nulls)
    # an unquoted field of a regular buffer has no quotes at all
    return pc.replace_substring(column, '""', '"') if doubled else column


def _ragged(count: int, width: int) -> str:
    return f"{count} field{'s' * (count != 1)} instead of {width}"


# ---- exactly, one field after the other ------------------------------------------------------------------------------


def _exact(data: bytes, width: int, dialect: Dialect, *, final: bool) -> Records:
    starts: list[int] = []
    ends: list[int] = []
    bad: dict[int, str] = {}
    rows: list[list[str | None]] = []
    used = 0
    for record in walk(data, dialect, final=final):
        used = record.next
        if record.start == record.end:
            continue
        reason = record.reason or invalid_utf8(data[record.start : record.end]) or ""
        if not reason and len(record.fields) != width:
            reason = _ragged(len(record.fields), width)
        if reason:
            bad[len(starts)] = reason
        else:
            rows.append([None if f is None else f.decode() for f in record.fields])
        starts.append(record.start)
        ends.append(record.end)
    columns: list[pa.Array[Any]] = [pa.array([row[j] for row in rows], pa.string()) for j in range(width)]
    return Records(np.array(starts, np.int64), np.array(ends, np.int64), columns, bad, used)


def walk(data: bytes, dialect: Dialect, *, final: bool) -> Iterator[Record]:
    """Every complete record, empty lines included, one field at a time."""
    position, stop = 0, dialect.stop
    while position < len(data):
        record = _record(data, position, dialect, stop, final=final)
        if record is None:
            return
        yield record
        position = record.next


def _record(data: bytes, start: int, dialect: Dialect, stop: re.Pattern[bytes], *, final: bool) -> Record | None:
    """The record at `start`; None when it is not complete."""
    record = Record(start, start, start)
    position = start
    while True:
        closing = position
        if dialect.quotes and data.startswith(b'"', position):
            closing = _closing_quote(data, position + 1)
            if closing < 0:
                return None
        found = stop.search(data, closing + (closing > position))
        if found is None and not final:
            return None
        end = found.start() if found else len(data)
        last = found is None or data[end] == _NEWLINE
        trimmed = _without_returns(data, closing, end) if last else end
        _add_field(record, data, position, closing, trimmed)
        if last:
            record.end, record.next = trimmed, end + (found is not None)
            return record
        position = end + 1


def _add_field(record: Record, data: bytes, start: int, closing: int, end: int) -> None:
    """The field in [start, end); `closing` is its closing quote, or `start` when it is not quoted."""
    number = len(record.fields) + 1
    if closing > start:
        if end > closing + 1:
            record.reason = record.reason or f"field {number}: text after the closing quote"
        record.fields.append(data[start + 1 : closing].replace(b'""', b'"'))
        return
    if data.find(b"\r", start, end) >= 0:
        record.reason = record.reason or f"field {number}: a carriage return outside quotes"
    record.fields.append(data[start:end] or None)


def _closing_quote(data: bytes, position: int) -> int:
    """Position of the quote that closes a field whose content starts at `position`, -1 when there is none."""
    while True:
        position = data.find(b'"', position)
        if position < 0 or data[position + 1 : position + 2] != b'"':
            return position
        position += 2


def _without_returns(data: bytes, start: int, end: int) -> int:
    while end > start and data[end - 1] == _RETURN:
        end -= 1
    return end
