"""Fields of a source that declares none, as its first rows show them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from data_bridge.io.codecs import is_compressed
from data_bridge.io.sources.base import PROBE_BYTES, PROBE_ROWS
from data_bridge.model.batch import ArrowRows, Batch, LineRows, Row, Rows
from data_bridge.model.source import Field, Probe, SourceFile

PROBE_FILES = 16
"""Files a probe opens at most: many tiny ones would cost a request each."""

JSON = "json"
"""The type of anything that is not a plain value or a list of numbers or strings of one type."""

_INT64 = range(-(2**63), 2**63)


def observe(files: Sequence[SourceFile], batches: Iterable[Batch]) -> Probe:
    """Look at the first good rows of the batches, which come from the files; reads no further than a probe may."""
    rows: list[Row] = []
    used = passed = 0
    for batch in batches:
        taken = batch.rows.slice(0, PROBE_ROWS - len(rows))
        rows += _plain(taken)
        used += _weight(taken)
        passed += sum(len(failure.raw or b"") for failure in batch.failures)
        if len(rows) >= PROBE_ROWS or used + passed >= PROBE_BYTES:
            break
    sized = bool(rows) and not any(is_compressed(file.uri) for file in files)
    return Probe(
        observed_fields(rows), declared=False, rows=rows, mean_sample_bytes=used / len(rows) if sized else None
    )


def _plain(rows: Rows) -> list[Row]:
    if isinstance(rows, LineRows):
        spans = zip(rows.starts.tolist(), rows.ends.tolist(), strict=True)
        return [_parsed(rows.data[lo:hi]) for lo, hi in spans]
    return rows.batch.to_pylist() if isinstance(rows, ArrowRows) else list(rows.rows)


def _parsed(line: bytes) -> Row:
    try:
        value: Row = json.loads(line)  # unlike orjson, keeps the digits of large integers
    except RecursionError:
        value = orjson.loads(line)
    return value


def _weight(rows: Rows) -> int:
    """Bytes the rows take in the source, about."""
    if isinstance(rows, LineRows):
        return int((rows.ends - rows.starts).sum()) + len(rows)
    return int(rows.batch.nbytes) if isinstance(rows, ArrowRows) else 0


def observed_fields(rows: Sequence[Row]) -> tuple[Field, ...]:
    """Fields in the order they first appear. One is nullable when any row lacks it or holds null."""
    types: dict[str, str | None] = {}
    seen: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            kind = _type(value)
            types[name] = _common(types.get(name), kind)
            seen[name] = seen.get(name, 0) + (kind is not None)
    return tuple(Field(name=n, type=t or JSON, nullable=seen[n] < len(rows)) for n, t in types.items())


def _type(value: Any) -> str | None:
    """Arrow type as text; None for null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if value in _INT64 else JSON
    if isinstance(value, float):
        return "double"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return _list_type(value)
    return JSON


def _list_type(items: Iterable[Any]) -> str:
    kind: str | None = None
    for item in items:
        one = JSON if isinstance(item, list) else _type(item)  # how deep a list goes is the line's business
        if one not in ("int64", "double", "string", "bool"):
            return JSON
        kind = _common(kind, one)
    if kind is None:
        return "list<null>"
    return JSON if kind == JSON else f"list<{kind}>"


def _common(left: str | None, right: str | None) -> str | None:
    """The type that holds both without loss."""
    if left is None or right is None or left == right:
        return left or right
    pair = {left, right}
    if pair == {"int64", "double"}:
        return "double"
    lists = [kind for kind in pair if kind.startswith("list<")]
    if len(lists) == 2:
        if "list<null>" in pair:
            return (pair - {"list<null>"}).pop()
        return "list<double>" if pair == {"list<int64>", "list<double>"} else JSON
    return JSON
