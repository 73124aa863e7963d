"""Tar archives grouped into samples by WebDataset's rule."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.codecs import base_name, is_compressed
from data_bridge.io.locations import shown
from data_bridge.io.sources.base import PROBE_BYTES, PROBE_ROWS, TARGET_BATCH_BYTES, TARGET_BATCH_ROWS, read_each
from data_bridge.io.sources.tar_members import Member, read_members
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, DictRows, Row, RowFailure, Token
from data_bridge.model.source import Extent, Field, FilePiece, Probe, SourceFile

KEY = "__key__"
PROBE_FILES = 8
MAX_RAW_BYTES = 64_000_000
"""A bad sample larger than this is reported without its bytes."""

_META = re.compile(r"__[^/]*__($|/)")


class Tar:
    """Samples `{"__key__": key, extension: bytes, …}` of tar files, compressed or not.

    Consecutive members with one key (the path up to the first dot of its last part, without a leading `./`) make a
    sample; the rest of the name, in lower case, is the field. As in webdataset, directories, names that start with
    `__…__` are passed over; so are `__MACOSX` folders and hidden files. What webdataset drops in silence though it
    is data is a failure here: a member without extension, links, devices, sparse files. So are two members of one
    name in a sample. Damage of the archive is a SourceError.
    """

    name = "tar"
    counted = False
    max_sample_bytes = 2_000_000_000

    def __init__(self, options: SourceOptions, transport: Transport) -> None:  # noqa: ARG002 - it has none
        self._transport = transport

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """One indivisible extent; its unit is bytes of the decoded tar stream, whose length only reading tells."""
        return [Extent(start=0, end=None, bytes=file.size)]

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        rows: list[Row] = []
        samples = size = 0
        first = files[:PROBE_FILES]
        for unit in chain.from_iterable(self._units(FilePiece(file), None) for file in first):
            rows += [item for item in unit.items if isinstance(item, dict)]
            samples += len(unit.items)
            size += unit.size
            if samples >= PROBE_ROWS or size >= PROBE_BYTES:
                break
        mean = size / samples if samples and not any(is_compressed(file.uri) for file in first) else None
        names = dict.fromkeys(name for row in rows for name in row if name != KEY)
        fields = [Field(name=KEY, type="string", nullable=False)]
        fields += [Field(name=n, type="binary", nullable=not all(n in row for row in rows)) for n in names]
        return Probe(tuple(fields), declared=False, rows=rows, mean_sample_bytes=mean)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Tokens are the byte, in the decoded stream, of the first header of a sample's first member."""
        return read_each(self._read_file, pieces, token)

    def _read_file(self, piece: FilePiece, token: Token | None) -> Iterator[Batch]:
        rows: list[Row] = []
        failures: list[RowFailure] = []
        start = size = 0
        for unit in self._units(piece, token):
            if not rows and not failures:
                start = unit.start
            for item in unit.items:
                if isinstance(item, dict):
                    rows.append(item)
                else:
                    failures.append(RowFailure(len(rows) + len(failures), item.reason, item.where, item.raw))
            size += unit.size
            if size >= TARGET_BATCH_BYTES or len(rows) + len(failures) >= TARGET_BATCH_ROWS:
                yield Batch(start, DictRows(rows), tuple(failures))
                rows, failures, size = [], [], 0
        if rows or failures:
            yield Batch(start, DictRows(rows), tuple(failures))

    def _units(self, piece: FilePiece, token: Token | None) -> "Iterator[_Unit]":
        start = int(token) if token is not None else piece.start
        blocks = iter(self._transport.decoded(piece.file, start))
        members = read_members(blocks, start, shown(piece.file.uri), self.max_sample_bytes)
        return _group(members, base_name(piece.file.uri), self.max_sample_bytes)


class _Bad(msgspec.Struct, frozen=True):
    reason: str
    where: str
    raw: bytes | None


class _Unit(msgspec.Struct):
    """Samples that only reading from `start` gives: one, and the strays found among its members."""

    start: int
    size: int
    """Bytes of the tar stream."""
    items: list[Row | _Bad]


class _Open(msgspec.Struct):
    """The sample being collected."""

    key: str
    row: Row
    members: list[Member]
    size: int
    problem: str = ""
    strays: list[_Bad] = msgspec.field(default_factory=list)

    def close(self, label: str) -> _Unit:
        first = self.members[0]
        bad = self.problem or _unprintable(self.row)
        item = _Bad(bad, _where(label, first), _raw(self.members)) if bad else self.row
        return _Unit(first.start, self.size, [item, *self.strays])


def _group(members: Iterator[Member], label: str, max_bytes: int) -> Iterator[_Unit]:
    sample: _Open | None = None
    for member in members:
        name = member.name
        while name.startswith("./"):
            name = name[2:]
        base = name[name.rfind("/") + 1 :]
        if _passed_over(name, base):
            continue
        stem, _, extension = base.partition(".")
        size = len(member.header) + len(member.data) + -len(member.data) % 512
        if not extension:
            stray = _stray(member, label)
            if sample is None:
                yield _Unit(member.start, size, [stray])
            else:  # must not cut the sample it may stand in the middle of
                sample.strays.append(stray)
                sample.size += size
            continue
        key = name[: len(name) - len(base) + len(stem)]
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample.close(label)
            sample = _Open(key, {KEY: key}, [], 0)
        _add(sample, member, extension.lower(), size)
        if sample.size > max_bytes:
            raise _too_large(sample, label, max_bytes)
    if sample is not None:
        yield sample.close(label)


def _add(sample: _Open, member: Member, extension: str, size: int) -> None:
    sample.members.append(member)
    sample.size += size
    if member.problem:
        sample.problem = sample.problem or f"member {member.name!r} is {member.problem}"
    elif extension in sample.row:
        sample.problem = sample.problem or f"sample {sample.key!r} has the field {extension!r} twice"
    else:
        sample.row[extension] = member.data


def _passed_over(name: str, base: str) -> bool:
    return base.startswith(".") or _META.match(name) is not None or "/__MACOSX/" in "/" + name


def _stray(member: Member, label: str) -> _Bad:
    reason = (
        f"member {member.name!r} is {member.problem}" if member.problem else f"member {member.name!r} has no extension"
    )
    return _Bad(reason, _where(label, member), _raw([member]))


def _where(label: str, member: Member) -> str:
    return f"{label} member {member.name!r} at byte {member.start}"


def _raw(members: Sequence[Member]) -> bytes | None:
    """The members as a piece of a tar, when there is not too much of it."""
    if sum(len(member.data) for member in members) > MAX_RAW_BYTES:
        return None
    return b"".join(member.raw for member in members)


def _unprintable(row: Row) -> str:
    """What is wrong with the names of a sample, which have to be text."""
    for name in (row[KEY], *row):
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            return f"the name {name!r} is not UTF-8"
    return ""


def _too_large(sample: _Open, label: str, max_bytes: int) -> SourceError:
    return SourceError(
        f"{label}: sample {sample.key!r} at byte {sample.members[0].start} has more than {max_bytes} bytes",
        hint="samples are held in memory: store it as smaller pieces, or leave it out of the tar",
    )
