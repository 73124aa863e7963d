"""Rows of any form as dictionaries of plain values: the general path of every writer and stage."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from data_bridge.model.batch import DictRows, LineRows, Row, RowFailure, Rows

STAGE = "write"
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
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
    good: list[Row] = []
    positions: list[int] = []
    failures: list[RowFailure] = []
    for i, (start, end) in enumerate(zip(rows.starts.tolist(), rows.ends.tolist(), strict=True)):
        line = rows.data[start:end]
        try:
            good.append(parse_object(line))
            positions.append(i)
        except BadRow as error:
            failures.append(RowFailure(i, str(error), raw=line, stage=STAGE))
    return good, np.array(positions, dtype=np.int64), tuple(failures)


def parse_object(line: bytes) -> Row:
    """One JSON object, exactly: BadRow for a duplicate key, anything that is not JSON, or not an object.

    A fast parse is trusted only when it lost nothing: every `"…":` of the text is a key in the result (else a
    key came twice, or a string looks like one), and no number is so large that it may have been an integer.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_exactly(line)
    if type(value) is not dict:
        raise BadRow("the line is not a JSON object")
    if _keys_unless_large(value) != len(_KEY_END.findall(line)):
        return _parse_exactly(line)
    return value


def _keys_unless_large(value: dict[str, Any]) -> int:
    """Keys of an object and of all objects in it; -1 when it holds a float of 2**63 or more."""
    total = 0
    todo: list[Iterable[Any]] = [value.values()]
    total += len(value)
    while todo:
        for item in todo.pop():
            kind = type(item)
            if kind is float:
                if abs(item) >= _INT64_LIMIT:
                    return -1
            elif kind is dict:
                total += len(item)
                todo.append(item.values())
            elif kind is list:
                todo.append(item)
    return total


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
