"""Rows of any form as keyed samples made of members: one exact general path, and faster ones that equal it."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Row, RowFailure, Rows
from data_bridge.model.keys import IndexKeys
from data_bridge.pipelines.members import Layout, split
from data_bridge.pipelines.tarfmt import MAX_MEMBER_BYTES, NAME_BYTES, MemberColumn, column
from data_bridge.rows.decoding import STAGE, BadRow, decode
from data_bridge.rows.values import count_nonfinite, dump, dump_each

if TYPE_CHECKING:
    import pyarrow as pa

NONFINITE = "NaN or infinite numbers written as null"
NEW_FIELDS = "fields not seen when the dataset was planned"
_NULL = b"null"
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_KEY_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


class Samples(msgspec.Struct, frozen=True):
    """Good samples of some rows. `rows[i]` is the row of sample i; `columns` hold their members in tar order."""

    keys: Sequence[str]
    rows: NDArray[np.int64]
    columns: list[MemberColumn]
    failures: tuple[RowFailure, ...] = ()
    warnings: dict[str, NDArray[np.int64]] = msgspec.field(default_factory=dict)
    """As those of `Encoded`."""


def encode_samples(layout: Layout, key_field: str | None, rows: Rows, keys: Sequence[str]) -> Samples:
    """Samples of the rows with the given keys, or with those in `key_field`."""
    if key_field is None and not _key_problems(keys, layout):
        if isinstance(rows, LineRows) and layout.whole and layout.rest is not None:
            return _copied_lines(layout.rest, rows, keys)
        if isinstance(rows, DictRows) and layout.whole and (found := _dumped(layout, rows.rows, keys)):
            return found
        if isinstance(rows, ArrowRows) and (found := _from_columns(layout, rows.batch, keys)):
            return found
    return from_rows(layout, key_field, rows, keys)


def _copied_lines(extension: str, rows: LineRows, keys: Sequence[str]) -> Samples:
    """Each line as it stands is its sample's one member."""
    member = MemberColumn(extension, rows.lines(), rows.ends - rows.starts)
    return Samples(keys, np.arange(len(rows), dtype=np.int64), [member])


def _dumped(layout: Layout, rows: Sequence[Row], keys: Sequence[str]) -> Samples | None:
    """Each row as JSON is its sample's one member; None where any row has no JSON form: the general path says why."""
    assert layout.rest is not None, "a layout that is whole has no other member"
    try:
        contents = dump_each(rows)
    except BadRow:
        return None
    known = layout.known
    new: dict[int, int] = {}
    if known is not None and not known.issuperset(chain.from_iterable(rows)):
        new = {at: len(row.keys() - known) for at, row in enumerate(rows) if not row.keys() <= known}
    # a number that is not finite was written as null
    found = enumerate(contents) if _has_null(b"".join(contents)) else ()
    nulls = {at: count_nonfinite(rows[at]) for at, content in found if b"null" in content}
    if any(len(content) > MAX_MEMBER_BYTES for content in contents):
        return None
    everyone = np.arange(len(rows), dtype=np.int64)
    warnings = _summed({NEW_FIELDS: new, NONFINITE: nulls}, len(rows))
    return Samples(keys, everyone, [column(layout.rest, contents)], (), warnings)


def _has_null(text: bytes) -> bool:
    """Whether `null` is in a text; a search for it byte by byte takes five times as long where letters are frequent."""
    every = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(every[: max(0, len(text) - 3)] == _NULL[0])
    for offset in range(1, len(_NULL)):
        at = at[every[at + offset] == _NULL[offset]]
    return len(at) > 0


def from_rows(layout: Layout, key_field: str | None, rows: Rows, keys: Sequence[str]) -> Samples:
    """The general path, which says what is right: row by row."""
    decoded, positions, undecoded = decode(rows)
    failures = {f.offset: f for f in undecoded}
    members: dict[str, list[bytes]] = {extension: [] for extension in layout.order}
    good: list[int] = []
    own_keys: list[str] = []
    warnings: dict[str, dict[int, int]] = {NEW_FIELDS: {}, NONFINITE: {}}
    for position, row in zip(positions.tolist(), decoded, strict=True):
        try:
            key = keys[position] if key_field is None else _key_of(row, key_field)
            _check_key(key, layout)
            contents, told = _members_of(layout, row, _line(rows, position) if layout.whole else None)
        except BadRow as error:
            failures[position] = RowFailure(position, str(error), raw=_line(rows, position), stage=STAGE)
            continue
        for what, count in told:
            warnings[what][len(good)] = count
        good.append(position)
        own_keys.append(key)
        for extension, content in contents.items():
            members[extension].append(content)
    columns = [column(extension, contents) for extension, contents in members.items()]
    ordered = tuple(failures[offset] for offset in sorted(failures))
    return Samples(own_keys, np.array(good, dtype=np.int64), columns, ordered, _summed(warnings, len(good)))


def _summed(counts: Mapping[str, Mapping[int, int]], samples: int) -> dict[str, NDArray[np.int64]]:
    """Counts by sample as those of all samples up to each."""
    found = {}
    for name, by_sample in counts.items():
        if any(by_sample.values()):
            each = np.zeros(samples, dtype=np.int64)
            each[list(by_sample)] = list(by_sample.values())
            found[name] = np.cumsum(each)
    return found


def _members_of(layout: Layout, row: Row, line: bytes | None) -> tuple[Mapping[str, bytes], Sequence[tuple[str, int]]]:
    """The members of a row, and how often what is written differently than it stands there."""
    contents, others, new = split(layout, row)
    if layout.rest is not None:
        contents[layout.rest] = dump(others) if line is None else line
    for content in contents.values():
        if len(content) > MAX_MEMBER_BYTES:
            raise BadRow(f"a member of {len(content)} bytes is more than the 8 GiB a tar member may have")
    nonfinite = 0 if layout.rest is None or line is not None else count_nonfinite(others)
    return contents, ((NEW_FIELDS, new), (NONFINITE, nonfinite))


def _line(rows: Rows, position: int) -> bytes | None:
    if not isinstance(rows, LineRows):
        return None
    return rows.data[int(rows.starts[position]) : int(rows.ends[position])]


def _key_of(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    found = "missing" if name not in row else "null" if value is None else f"a value of type {type(value).__name__}"
    raise BadRow(f"the key field {name!r} is {found}, not text or a whole number")


def _check_key(key: str, layout: Layout) -> None:
    if not _KEY.fullmatch(key):
        raise BadRow(
            f"the key {key[:80]!r} is empty or has other characters than A-Z, a-z, 0-9, _ and -, "
            "which tar readers take for something else"
        )
    if key.startswith("__"):
        raise BadRow(f"the key {key[:80]!r} starts with two underscores: readers pass such samples over")
    if len(key) + 1 + max(map(len, layout.order)) > NAME_BYTES:
        raise BadRow(f"the key {key[:80]!r} is too long: a member's name has at most {NAME_BYTES} bytes")


def _key_problems(keys: Sequence[str], layout: Layout) -> bool:
    """Whether any of the keys would fail `_check_key`."""
    longest = max(map(len, layout.order))
    if isinstance(keys, IndexKeys) and len(keys) and keys.width + 1 + longest <= NAME_BYTES:
        return not _KEY.fullmatch(keys[0]) or keys[0].startswith("__")  # all are alike but for their digits
    if (keys and max(map(len, keys)) + 1 + longest > NAME_BYTES) or "" in keys:
        return True
    text = "\n".join(keys)
    if not text.isascii() or text.startswith("__") or "\n__" in text:
        return True
    return len(text.encode().translate(None, _KEY_BYTES)) != max(len(keys) - 1, 0) or text.count("\n") != len(keys) - 1


def _from_columns(layout: Layout, batch: "pa.RecordBatch", keys: Sequence[str]) -> Samples | None:
    """Members straight from Arrow columns, or None where any row may fail: the general path says which and why."""
    from data_bridge.pipelines.columns import member_column, rest_column

    names = batch.schema.names
    known = layout.known
    others = [name for name in names if name not in layout.members and name not in layout.drop]
    if len(set(names)) != len(names) or any(name not in names for name in layout.members):
        return None
    if layout.rest is None and others:
        return None
    columns: dict[str, MemberColumn] = {}
    nonfinite: Mapping[int, int] = {}
    for name, extension in layout.members.items():
        found = member_column(batch.column(names.index(name)), extension)
        if found is None:
            return None
        columns[extension] = found
    if layout.rest is not None:
        rest = rest_column(batch.select(others), layout.rest)
        if rest is None:
            return None
        columns[layout.rest], nonfinite = rest
    if any(c.sizes.max(initial=0) > MAX_MEMBER_BYTES for c in columns.values()):
        return None
    everyone = np.arange(batch.num_rows, dtype=np.int64)
    new = {} if known is None else dict.fromkeys(range(batch.num_rows), len(set(others) - known))
    warnings = _summed({NEW_FIELDS: new, NONFINITE: nonfinite}, batch.num_rows)
    return Samples(keys, everyone, [columns[extension] for extension in layout.order], (), warnings)
