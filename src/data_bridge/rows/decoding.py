"""Rows of any form as dictionaries of plain values: the general path of every writer and stage."""

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from data_bridge.model.batch import DictRows, LineRows, Row, RowFailure, Rows

STAGE = "write"
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_LINE_END, _SPACE, _QUOTE, _COLON, _OPEN, _ZERO = b'\n ":{0'
_LONG_INTEGER = re.compile(rb"(?<![0-9.])[0-9]{19}")
_INT64_LIMIT = float(2**63)


class BadRow(ValueError):
    """One row cannot be used; the message is the reason."""


def decode(rows: Rows) -> tuple[list[Row], NDArray[np.int64], tuple[RowFailure, ...]]:
    """Good rows, their positions in `rows` (int64, ascending) and the failures (ascending `offset`); together all rows.

    JSON lines: duplicate keys are failures, integers of any size keep their digits. Arrow columns: timestamps
    become RFC 3339 text with the digits of their unit, decimals `Decimal`, `{bytes, path}` structs `Media`,
    lists of numbers 1-D numpy arrays (plain lists where they hold nulls), dictionaries their values.
    """
    if isinstance(rows, DictRows):
        return list(rows.rows), np.arange(len(rows), dtype=np.int64), ()
    if isinstance(rows, LineRows):
        return _decode_lines(rows)
    from data_bridge.rows.arrow import decode_batch

    found, reasons = decode_batch(rows.batch)
    failures = tuple(RowFailure(i, reasons[i], stage=STAGE) for i in sorted(reasons))
    return (*keep(found, [f.offset for f in failures]), failures)


def keep(rows: list[Row], bad: Sequence[int]) -> tuple[list[Row], NDArray[np.int64]]:
    """Rows without those at `bad`, and the positions the rest had."""
    positions = np.arange(len(rows), dtype=np.int64)
    if not bad:
        return rows, positions
    positions = np.delete(positions, bad)
    return [rows[i] for i in positions.tolist()], positions


def _decode_lines(rows: LineRows) -> tuple[list[Row], NDArray[np.int64], tuple[RowFailure, ...]]:
    if (together := _parse_together(_between_commas(rows), len(rows))) is not None:
        return together, np.arange(len(rows), dtype=np.int64), ()
    good: list[Row] = []
    positions: list[int] = []
    failures: list[RowFailure] = []
    for i, line in enumerate(rows.lines()):
        try:
            good.append(parse_object(line))
            positions.append(i)
        except BadRow as error:
            failures.append(RowFailure(i, str(error), raw=line, stage=STAGE))
    return good, np.array(positions, dtype=np.int64), tuple(failures)


def parse_object(line: bytes) -> Row:
    """One JSON object, exactly: BadRow for a duplicate key, anything that is not JSON, or not an object."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_exactly(line)
    if type(value) is not dict:
        raise BadRow("the line is not a JSON object")
    return value if _lost_nothing([value], len(_KEY_END.findall(line))) else _parse_exactly(line)


def _between_commas(rows: LineRows) -> bytes:
    """The lines, a comma between any two."""
    if not len(rows):
        return b""
    every = np.frombuffer(rows.data, np.uint8)
    apart = rows.starts[1:] - rows.ends[:-1]
    if bool((apart == 1).all()) and bool((every[rows.ends[:-1]] == _LINE_END).all()):  # nothing else is between them
        return rows.data[int(rows.starts[0]) : int(rows.ends[-1])].replace(b"\n", b",")
    return b",".join(rows.lines())


def _parse_together(text: bytes, count: int) -> list[Row] | None:
    """As many lines, each of them one JSON object, in one call; None where any of them must be looked at by itself.

    Each must be whole, as those of `LineRows` are: `{"a":[1` and `2]},{}` would pass for two objects.
    """
    try:
        values = orjson.loads(b"[%b]" % text)
    except orjson.JSONDecodeError:
        return None
    if len(values) != count:
        return None
    every = np.frombuffer(text, np.uint8)
    if np.count_nonzero(every == _OPEN) > count or _may_be_rounded(text, every):
        whole = _lost_nothing(values, _key_ends(text))
    else:  # no object is within another: only the keys of all are left to be counted
        whole = set(map(type, values)) <= {dict} and _key_ends(text) == sum(map(len, values))
    return values if whole else None


def _may_be_rounded(text: bytes, every: NDArray[np.uint8]) -> bool:
    """Whether there are digits that may be an integer of more than 64 bits: 19 in a row or more, not behind a point.

    So many hold nine pairs in a row that begin at even places; only where those are is the text itself looked at.
    """
    digits = every - _ZERO < 10
    pairs = digits[: len(digits) & ~1].view(np.uint16) == 0x0101
    two = pairs[:-1] & pairs[1:]
    four = two[:-2] & two[2:]
    eight = four[:-4] & four[4:]
    nine = eight[:-1] & pairs[8 : 8 + len(eight) - 1]
    at = np.flatnonzero(nine)
    # of many in a row the first: what stands before it tells whether they are behind a point
    first = at[np.diff(at, prepend=-2) > 1]
    return any(_LONG_INTEGER.search(text[max(0, place - 2) : place + 20]) for place in (2 * first).tolist())


def _lost_nothing(values: list[Any], key_ends: int) -> bool:
    """Whether a fast parse is objects, and all that their text says.

    Every `"…":` of the text is a key in the result (else a key came twice, or a string looks like one: there are never
    fewer in the text, so that many objects may be counted together), and no number is so large that it may have been an
    integer. Values are looked at in calls for many of them.
    """
    if not set(map(type, values)) <= {dict}:
        return False
    objects: Sequence[Row] = values
    while objects:
        key_ends -= sum(map(len, objects))
        columns = _columns(objects)
        inner: list[Row] = []
        while columns:
            column = columns.pop()
            kinds = set(map(type, column))
            if float in kinds:
                floats = [item for item in column if type(item) is float]
                if max(floats) >= _INT64_LIMIT or min(floats) <= -_INT64_LIMIT:
                    return False
            if dict in kinds:
                inner += [item for item in column if type(item) is dict]
            if list in kinds:
                columns.append(list(chain.from_iterable(item for item in column if type(item) is list)))
        objects = inner
    return key_ends == 0


def _columns(objects: Sequence[Row]) -> list[Sequence[Any]]:
    """All values of some objects, those together that stand at one place where all objects have as many."""
    values = map(dict.values, objects)
    if len(set(map(len, objects))) == 1:
        return list(zip(*values, strict=True))
    return [list(chain.from_iterable(values))]


def _key_ends(text: bytes) -> int:
    """How many quotes of a text, which begins with none, are followed by a colon."""
    every = np.frombuffer(text, np.uint8)
    before = every[np.flatnonzero(every == _COLON) - 1]
    if (before <= _SPACE).any():
        return len(_KEY_END.findall(text))
    return int(np.count_nonzero(before == _QUOTE))


def _parse_exactly(line: bytes) -> Row:
    try:
        value = json.loads(
            line, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole, parse_float=_number
        )
    except BadRow:
        raise
    except RecursionError:
        raise BadRow("the line is nested too deeply") from None
    except ValueError as error:
        raise BadRow(f"the line is not JSON: {error}") from None
    if type(value) is not dict:
        raise BadRow("the line is not a JSON object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise BadRow("the line is nested too deeply") from None
    except UnicodeEncodeError:
        raise BadRow("a string holds half of a surrogate pair, which is not valid Unicode") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadRow(f"duplicate key {key!r}")
            seen.add(key)
    return value


def _whole(text: str) -> int:
    if len(text) > 4000:
        raise BadRow(f"an integer of {len(text)} digits is too long")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadRow(f"the number {text[:40]} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise BadRow(f"the line is not JSON: {name} is not a JSON value")
