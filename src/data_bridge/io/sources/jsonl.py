"""JSON lines: every line is checked to be one UTF-8 JSON object and handed on as the bytes it is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

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
    place,
    position,
    refuse_binary,
    refuse_html,
    wrong_format,
)
from data_bridge.model.batch import Batch, LineRows, RowFailure
from data_bridge.model.source import SourceFile

_LINES_TO_JUDGE = 10
_BRACE = ord("{")


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a buffer that are samples, and what is wrong with the bad ones (position among them -> reason)."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """Number of each line in the buffer, blank ones counted, from 0."""
    bad: dict[int, str]


class Jsonl(LineFormat):
    """Reads files with one JSON object per line; blank lines are no samples."""

    name = "jsonl"
    wanted = "JSON lines"

    def _refuse_wrong(self, head: bytes, file: SourceFile) -> None:
        refuse_binary(head, file, self.wanted)
        refuse_html(head, file, self.wanted)
        _refuse_other_json(head, file, self.wanted)

    def _batches(self, buffer: Buffer, file: SourceFile) -> Iterator[Batch]:
        lines = _check(buffer)
        _refuse_cut_line(buffer, file, lines)
        bad = np.array(sorted(lines.bad), dtype=np.int64)
        for lo, hi in cuts(lines.starts, lines.ends):
            inside = bad[np.searchsorted(bad, lo) : np.searchsorted(bad, hi)]
            failures = tuple(_failure(lines, i, lo, buffer, file) for i in inside.tolist())
            start = int(lines.starts[lo])
            starts, ends = lines.starts[lo:hi], lines.ends[lo:hi]
            if failures:
                starts, ends = np.delete(starts, inside - lo), np.delete(ends, inside - lo)
            yield Batch(position(buffer, start), LineRows(buffer.data, starts, ends), failures)


def _failure(lines: _Lines, index: int, first: int, buffer: Buffer, file: SourceFile) -> RowFailure:
    start, end = int(lines.starts[index]), int(lines.ends[index])
    return RowFailure(
        offset=index - first,
        reason=lines.bad[index],
        where=place(buffer, file, start, int(lines.numbers[index])),
        raw=buffer.data[start:end],
    )


def _check(buffer: Buffer) -> _Lines:
    """Find the samples of a buffer, and look at every one."""
    data = buffer.data
    starts, ends = line_spans(buffer)
    numbers = np.flatnonzero(ends > starts)
    starts, ends = starts[numbers], ends[numbers]
    first_bytes = np.frombuffer(data, np.uint8)[starts] if len(starts) else starts
    suspects = set(np.flatnonzero(first_bytes != _BRACE).tolist())
    suspects.update(_unparsable(data, starts.tolist(), ends.tolist()))
    blank: list[int] = []
    bad: dict[int, str] = {}
    for i in sorted(suspects):
        line = data[starts[i] : ends[i]]
        if line.isspace():
            blank.append(i)
        elif reason := why_not_an_object(line):
            bad[i - len(blank)] = reason
    if blank:
        starts, ends, numbers = (np.delete(each, blank) for each in (starts, ends, numbers))
    return _Lines(starts, ends, numbers, bad)


def _unparsable(data: bytes, starts: list[int], ends: list[int]) -> list[int]:
    """Lines that are not JSON."""
    loads = orjson.loads
    found = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        try:
            loads(data[start:end])
        except orjson.JSONDecodeError:
            found.append(i)
    return found


def why_not_an_object(line: bytes) -> str | None:
    """What keeps a line from being exactly one UTF-8 JSON object, or None."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if (reason := invalid_utf8(line)) is not None:
            return reason
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


def _refuse_cut_line(buffer: Buffer, file: SourceFile, lines: _Lines) -> None:
    """Raise SourceError when a file of unknown size ends within a line: nobody can say that it is whole."""
    last = len(lines.starts) - 1
    if file.size is None and not is_compressed(file.uri) and last in lines.bad and not buffer.data.endswith(b"\n"):
        raise SourceError(
            f"{shown(file.uri)} byte {buffer.offset + int(lines.starts[last])}: the file ends within a line, and the "
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
