"""Whether shards hold the source, independent of every writer measured."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import orjson

from benchmarks.sources import Source
from benchmarks.work import Wrong

BLOCK = 512


def check_tars(source: Source, per_shard: int, out: Path) -> None:
    """Raise Wrong unless the shards hold every sample once, in order."""
    keys: set[str] = set()
    for number, (row, found) in enumerate(zip_longest(source.rows(), _all_samples(per_shard, out))):
        if row is None or found is None:
            raise Wrong(f"{out}: ends at sample {number}")
        key, members = found
        image, fields = row
        if members.pop("jpg", None) != image or orjson.loads(members.pop("json")) != fields or members or key in keys:
            raise Wrong(f"{out}: sample {number} ({key}) is not the source's")
        keys.add(key)


def whole_tars(source: Source, per_shard: int, out: Path) -> None:
    """Raise Wrong unless there are at least as many shards as it takes, each with its end: what is cheap to see."""
    found = sorted(out.glob("*.tar"))
    if len(found) < -(-source.samples // per_shard):
        raise Wrong(f"{out}: {len(found)} shards")
    for shard in found:
        with shard.open("rb") as file:
            file.seek(-2 * BLOCK, 2)
            if any(file.read()):
                raise Wrong(f"{shard}: the archive has no end")


def _all_samples(per_shard: int, out: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    for shard in sorted(out.glob("*.tar")):
        found = 0
        for found, sample in enumerate(_samples(shard), 1):  # noqa: B007 - the last one is their count
            yield sample
        if not 0 < found <= per_shard:
            raise Wrong(f"{shard}: holds {found} samples")


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, members = "", dict[str, bytes]()
    for name, content in members_of(shard):
        stem, _, extension = name.partition(".")
        if stem != key and members:
            yield key, members
            members = {}
        key = stem
        members[extension] = content
    if members:
        yield key, members


def members_of(shard: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a tar."""
    return _members(shard.read_bytes(), shard)


def _members(data: bytes, shard: Path) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(data) and data[at]:
        name = data[at : at + 100].rstrip(b"\0").decode()
        size, kind = int(data[at + 124 : at + 135], 8), data[at + 156 : at + 157]
        start = at + BLOCK
        if kind in (b"0", b"\0"):
            yield name, data[start : start + size]
        elif kind not in (b"x", b"g"):
            raise Wrong(f"{shard}: member {name} is of kind {kind!r}")
        at = start + size + -size % BLOCK
    if len(data) - at < 2 * BLOCK or any(data[at:]):
        raise Wrong(f"{shard}: the archive has no end")
