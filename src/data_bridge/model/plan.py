"""The plan: what a run will do, fixed before the first byte is written."""

from functools import cached_property
from typing import Any, Literal

from data_bridge.model.source import Document, Piece, SourceFile

LAYOUT_VERSION = 1
"""Raised only when the bytes we write for the same source and config change."""


class Partition(Document, frozen=True, kw_only=True):
    """The unit of work: pieces of files read in order by one slot at a time."""

    index: int
    pieces: tuple[Piece, ...]
    samples: int | None = None
    """Exact count where the format knows it; estimates never enter the plan."""
    bytes: int | None = None
    first_index: int = 0
    """Index of the first sample in the key space: global when counts are known."""
    key_prefix: str = ""
    shard_prefix: str = ""
    first_shard: int = 0
    limit: int | None = None
    """Stop after this many source samples; only where the count is not known beforehand."""

    retries: int | None = None
    """The partition whose failed samples it tries again."""
    only: str | None = None
    """Key of the list of samples that it takes of those it reads; None = all."""
    retried_by: dict[str, int] = {}
    """How many samples those are, by the stage at which they failed."""
    changes: int = 0
    """Live changes made before: those that `retries` had are in force here where they were there, the others are not."""

    @property
    def name(self) -> str:
        return f"p{self.index:05d}"


class Generation(Document, frozen=True, kw_only=True):
    """One append-only entry of the plan log: `plan/000000.json`, `000001.json`, …"""

    v: int = 1
    number: int
    kind: Literal["initial", "grown", "retry"] = "initial"
    config_hash: str
    config: dict[str, Any]
    """The byte-affecting settings, secrets removed: shown as a diff when they change."""
    libraries: dict[str, str] = {}
    """Versions of the libraries whose output is part of our bytes."""
    format: str
    """Source format that reads the pieces."""
    counted: bool
    key_digits: int
    shard_digits: int
    files: tuple[SourceFile, ...]
    """Files this generation adds; `Piece.file` counts through all generations in order."""
    partitions: tuple[Partition, ...]
    fields: tuple[dict[str, Any], ...] = ()
    """The source's fields as probed or declared."""
    writer: dict[str, Any] = {}
    """The frozen schema, in the writer's own terms; of the only writer."""
    writers: dict[str, dict[str, Any]] = {}
    """The same of several, by name."""

    def frozen(self, writer: str) -> dict[str, Any]:
        """The frozen schema of a writer; "" = the only one."""
        return self.writers[writer] if writer else self.writer


class Part(Document, frozen=True, kw_only=True):
    """One partition with the files it reads: all of a plan that the work on it needs."""

    partition: Partition
    files: dict[int, SourceFile]
    """By number in the plan's table, each as it was last planned: a grown file is read as it is now."""


class Plan(Document, frozen=True, kw_only=True, dict=True, gc=True):
    """All generations of one run, merged."""

    run: str
    generations: tuple[Generation, ...]

    @property
    def first(self) -> Generation:
        return self.generations[0]

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        return tuple(f for g in self.generations for f in g.files)

    @cached_property
    def latest(self) -> dict[str, SourceFile]:
        """By URI, each file with the identity it had when it was last planned."""
        return {f.uri: f for f in self.files}

    @cached_property
    def from_source(self) -> tuple[Partition, ...]:
        """Partitions that read what no other does: together they are the source, once."""
        return tuple(p for p in self.partitions if p.retries is None)

    @cached_property
    def retried(self) -> frozenset[int]:
        """Partitions whose failed samples were all tried again: what failed of them is told by a later partition."""
        return frozenset(p.retries for p in self.partitions if p.retries is not None)

    def part(self, index: int) -> Part:
        """One partition with its files."""
        partition = self.partitions[index]
        files = {p.file: self.latest[self.files[p.file].uri] for p in partition.pieces}
        return Part(partition=partition, files=files)

    @property
    def outline(self) -> "Plan":
        """The plan without files and partitions: what all partitions have in common."""
        return Plan(run=self.run, generations=(self.first.model_copy(update={"files": (), "partitions": ()}),))

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(p for g in self.generations for p in g.partitions)
