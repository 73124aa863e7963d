"""What `bench` tells."""

from dataclasses import dataclass
from typing import Literal

PartName = Literal["read", "pack", "upload", "record", "staging"]


@dataclass(frozen=True, slots=True)
class BenchPart:
    """One part of a run, measured alone. `bytes` are stored ones of the source for `read`, those of shards elsewhere."""

    name: PartName
    parallel: int
    """Slots that read or pack, uploads at a time."""
    samples_s: float
    bytes_s: float | None
    """None where the bytes of the source cannot be told."""
    cores: float | None
    """Cores kept busy; None for what only waits."""
    busy: float | None
    """Share of the time of the run in which this part is at work; None for what was tried beside the settings."""


@dataclass(frozen=True, slots=True)
class BenchAdvice:
    """A change that the figures speak for. Each one is meant on top of those before it."""

    change: str
    """`pipeline.upload_concurrency: 2 -> 4`"""
    why: str
    speedup: float | None
    """Predicted rate of the run with it, and with those before it, over the rate now; None for a risk to avert."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What each part of a run reaches on this machine, what the whole run would, and what limits it."""

    source: str
    source_format: str
    destination: str
    format: str
    cores: int
    slots: int
    """Worker processes of the run that have something to do; 1 where it works in its own process."""
    partitions: int
    parts: tuple[BenchPart, ...]
    samples: int | None
    """In the whole source; None where nobody can know …"""
    samples_estimated: int | None
    """… and what it may be then, from the bytes of those that were read."""
    samples_s: float
    shard_bytes_s: float
    seconds: float | None
    """How long a run over the whole source would take, the start of its slots included."""
    bottleneck: str
    """The part that limits the run: packing, cores, upload, records or staging."""
    why: str
    advice: tuple[BenchAdvice, ...]
    first_samples_s: float
    """From asking for a partition to its first samples."""
    record_s: float | None
    """Median time of a small put-if-absent at the destination."""
    slot_memory_bytes: int
    memory_available_bytes: int | None
    staging: str
    staging_free_bytes: int
    sent_file_bytes: int | None
    """Size of the largest file that was uploaded; None where none was."""
    shard_bytes: int
    """About what a shard of the run has."""
    measured_s: float
    notes: tuple[str, ...] = ()
