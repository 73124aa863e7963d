"""JSON lines: every line is checked to be one UTF-8 JSON object and handed on as the bytes it is."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from data_bridge.errors import SourceError
from data_bridge.io.codecs import is_compressed
from data_bridge.io.locations import shown
from data_bridge.io.sources.lines import (
    BOM,
    Buffer,
    LineFormat,
    cuts,
    invalid_utf8,
    line_spans,
    position,
    refuse_binary,
    refuse_html,
    wrong_format,
)
from data_bridge.io.sources.observed import PROBE_FILES, observe
from data_bridge.model.batch import Batch, LineRows, RowFailure, Token
from data_bridge.model.source import FilePiece, Probe, SourceFile

MOST_LEVELS = 1024
"""Values nested deeper are refused, as orjson refuses them: what msgspec takes differs with the stack of the process."""
_LINES_TO_JUDGE = 10
_PIECE_BYTES = 1 << 16
_OPEN, _CLOSE, _OPEN_ARRAY = ord("{"), ord("}"), ord("[")


class _AnyObject(msgspec.Struct):
    """Any JSON object: its members are skipped, which checks them without making anything of them."""


_OBJECTS = msgspec.json.Decoder(_AnyObject)


class FoundLines(LineRows, frozen=True):
    """Lines that nobody has looked at yet, with what it takes to say where each one stands."""

    uri: str
    offset: int
    """Position of `data[0]` in the file's content."""
    line: int | None
    """Number of the line at `data[0]`, from 1; None when it is not known."""
    numbers: NDArray[np.int64]
    """Lines between `data[0]` and each line, int64 of shape (n,)."""

    def slice(self, lo: int, hi: int) -> "FoundLines":
        spans = self.starts[lo:hi], self.ends[lo:hi]
        return FoundLines(self.data, *spans, self.uri, self.offset, self.line, self.numbers[lo:hi])

    def __reduce__(self) -> tuple[Any, ...]:
        first, data, starts, ends = self.cropped()
        line = None if self.line is None else self.line + int(self.numbers[0]) if len(self) else self.line
        numbers = self.numbers - self.numbers[:1]
        return FoundLines, (data, starts, ends, self.uri, self.offset + first, line, numbers)

    def place(self, i: int) -> str:
        """Position of line i for a person: its number where it is known, otherwise its byte."""
        if self.line is None:
            return f"{self.uri} byte {self.offset + int(self.starts[i])}"
        return f"{self.uri} line {self.line + int(self.numbers[i])}"


class Jsonl(LineFormat):
    """Reads files with one JSON object per line; blank lines are no samples."""

    name = "jsonl"
    wanted = "JSON lines"

    def frames(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """As `read`, but the rows are lines as they were found: `checked` says which are JSON objects."""
        return super().read(pieces, token)

    def checked(self, batch: Batch) -> Batch:
        """The batch of `frames` with its bad lines told from the good ones. Pure: any process may do it."""
        return checked(batch) if isinstance(batch.rows, FoundLines) else batch

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        return map(self.checked, self.frames(pieces, token))

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        first = files[:PROBE_FILES]
        return observe(first, (checked(batch) for file in first for batch in self._read_piece(FilePiece(file), None)))

    def _refuse_wrong(self, head: bytes, file: SourceFile) -> None:
        refuse_binary(head, file, self.wanted)
        refuse_html(head, file, self.wanted)
        _refuse_other_json(head, file, self.wanted)

    def _batches(self, buffer: Buffer, file: SourceFile) -> Iterator[Batch]:
        lines = _found(buffer, file)
        _refuse_cut_line(buffer, file, lines)
        for lo, hi in cuts(lines.starts, lines.ends):
            yield Batch(position(buffer, int(lines.starts[lo])), lines.slice(lo, hi))


def _found(buffer: Buffer, file: SourceFile) -> FoundLines:
    """The lines of a buffer that are not blank."""
    starts, ends = line_spans(buffer)
    numbers = np.flatnonzero(ends > starts)
    starts, ends = starts[numbers], ends[numbers]
    first_bytes = np.frombuffer(buffer.data, np.uint8)[starts] if len(starts) else starts
    others = np.flatnonzero(first_bytes != _OPEN).tolist()
    blank = [i for i in others if buffer.data[starts[i] : ends[i]].isspace()]
    if blank:
        starts, ends, numbers = (np.delete(each, blank) for each in (starts, ends, numbers))
    return FoundLines(buffer.data, starts, ends, shown(file.uri), buffer.offset, buffer.line, numbers)


def checked(batch: Batch) -> Batch:
    """A batch of found lines as one of good lines and failures."""
    lines = batch.rows
    assert isinstance(lines, FoundLines)
    failures = () if all_objects(lines) else tuple(_failures(lines))
    bad = [failure.offset for failure in failures]
    starts, ends = (np.delete(each, bad) if bad else each for each in (lines.starts, lines.ends))
    return Batch(batch.start, LineRows(lines.data, starts, ends), failures)


def all_objects(lines: LineRows) -> bool:
    """Whether each line is one UTF-8 JSON object, all looked at in one call; False where single ones must be asked.

    The parser takes objects one after another and does not care where lines end. But where every line begins with a
    brace and ends with one, no object goes on from a line to the next (behind a value must come a comma, and within
    text a line end is an error), so as many objects as lines are one a line.
    """
    if not len(lines):
        return True
    every = np.frombuffer(lines.data, np.uint8)
    if (every[lines.starts] != _OPEN).any() or (every[lines.ends - 1] != _CLOSE).any():
        return False
    text = lines.data[int(lines.starts[0]) : int(lines.ends[-1])]
    long = np.flatnonzero(lines.ends - lines.starts > 2 * MOST_LEVELS).tolist()
    if long and _openings(text) > MOST_LEVELS:
        found = (lines.data[lines.starts[i] : lines.ends[i]] for i in long)
        if any(_too_deep(line) for line in found):
            return False
    try:
        return (text.isascii() or bool(text.decode())) and len(_OBJECTS.decode_lines(text)) == len(lines)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False


def _failures(lines: FoundLines) -> Iterator[RowFailure]:
    for i, (start, end) in enumerate(zip(lines.starts.tolist(), lines.ends.tolist(), strict=True)):
        line = lines.data[start:end]
        if reason := why_not_an_object(line):
            yield RowFailure(offset=i, reason=reason, where=lines.place(i), raw=line)


def why_not_an_object(line: bytes) -> str | None:
    """What keeps a line from being exactly one UTF-8 JSON object, or None. Numbers may be of any size."""
    if (reason := invalid_utf8(line)) is not None:
        return reason
    try:
        _OBJECTS.decode(line)
    except RecursionError:
        return _why_not_parsable(line)
    except msgspec.DecodeError:
        return _why_not_parsable(line) or "not JSON"
    return _why_not_parsable(line) if _too_deep(line) else None


def _openings(text: bytes) -> int:
    """How many braces and brackets open in it: they differ in one bit."""
    every = np.frombuffer(text, np.uint8)
    # in pieces, because fresh memory for a whole batch costs more than the counting
    pieces = (every[at : at + _PIECE_BYTES] for at in range(0, len(every), _PIECE_BYTES))
    return sum(int(np.count_nonzero(piece & 0xDF == _OPEN_ARRAY)) for piece in pieces)


def _too_deep(line: bytes) -> bool:
    """Whether the values of a line, if it is JSON, are nested deeper than MOST_LEVELS."""
    if len(line) <= 2 * MOST_LEVELS or _openings(line) <= MOST_LEVELS:
        return False
    outside = _TEXT.sub(b"", line) if b"\\" in line else b"".join(line.split(b'"')[::2])
    brackets = np.frombuffer(outside.translate(None, _NO_BRACKETS), np.uint8)
    steps = np.where((brackets == _OPEN) | (brackets == _OPEN_ARRAY), np.int8(1), np.int8(-1))
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)) > MOST_LEVELS


_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


def _why_not_parsable(line: bytes) -> str | None:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        constant = _constant_in(line)
        return f"not JSON: {constant} is not a JSON value" if constant else f"not JSON: {error}"
    if type(value) is not dict:
        return f"not a JSON object but {_KINDS.get(type(value), 'a number')}"
    return None


_KINDS: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def _constant_in(line: bytes) -> str | None:
    """NaN, Infinity or -Infinity where that is all that is wrong with the line."""
    found: list[str] = []
    try:
        json.loads(line, parse_constant=found.append)
    except (ValueError, RecursionError):
        return None
    return found[0] if found else None


def _refuse_cut_line(buffer: Buffer, file: SourceFile, lines: FoundLines) -> None:
    """Raise SourceError when a file of unknown size ends within a line: nobody can say that it is whole."""
    if file.size is not None or is_compressed(file.uri) or not len(lines) or buffer.data.endswith(b"\n"):
        return
    start, end = int(lines.starts[-1]), int(lines.ends[-1])
    if why_not_an_object(buffer.data[start:end]):
        raise SourceError(
            f"{shown(file.uri)} byte {buffer.offset + start}: the file ends within a line, and the "
            "server did not say how long it is: it was cut",
            hint="run again; if it stays like this, download the file and name its path",
        )


def _refuse_other_json(head: bytes, file: SourceFile, wanted: str) -> None:
    """Raise SourceError for JSON that is not in lines, and for text that is not JSON."""
    text = head.removeprefix(BOM).lstrip()
    if text.startswith(b"["):
        _refuse_array(text, file, wanted)
    lines = [line for line in text.split(b"\n")[:-1] if line.strip()]
    if len(lines) >= _LINES_TO_JUDGE and not any(line.lstrip().startswith(b"{") for line in lines):
        raise wrong_format(file, wanted, "text without a JSON object in its first lines")
    if text.startswith(b"{") and _spans_lines(text):
        raise wrong_format(
            file,
            wanted,
            "JSON written over several lines",
            hint="put each object on one line: `jq -c . FILE > FILE.jsonl`",
        )


def _refuse_array(text: bytes, file: SourceFile, wanted: str) -> None:
    """A first line that is itself a whole array, with more lines after it, is only a bad line."""
    first, newline, rest = text.partition(b"\n")
    if newline and rest.strip() and why_not_an_object(first) == "not a JSON object but an array":
        return
    raise wrong_format(file, wanted, "a JSON array", hint="write its items as lines: `jq -c '.[]' FILE > FILE.jsonl`")


def _spans_lines(text: bytes) -> bool:
    """Whether the first object goes on after its line, as pretty-printed ones do."""
    first, newline, rest = text.partition(b"\n")
    if not newline or why_not_an_object(first) is None:
        return False
    if first.strip() == b"{" and rest.lstrip().startswith((b'"', b"}")):
        return True
    try:
        _, end = json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        return False
    return end > len(first.decode(errors="replace"))
