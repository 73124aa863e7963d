"""From measured figures to the rate of a whole run: pure arithmetic.

The parts of a run overlap: slots pack while finished shards are uploaded and recorded. So the slowest part alone sets
the rate, and how busy another part is then is the run's rate over its own.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Limit = Literal["packing", "cores", "upload", "records", "staging"]


@dataclass(frozen=True, slots=True)
class Rate:
    """What one part did in a measured time. `bytes` are those it handles: stored ones of the source, or of shards."""

    samples: int
    bytes: int
    seconds: float
    cpu_s: float
    slots: int = 1
    queued_s: float = 0.0
    """Time in which it could have worked, but other programs had the cores."""

    @property
    def samples_s(self) -> float:
        return self.samples / self.seconds

    @property
    def bytes_s(self) -> float:
        return self.bytes / self.seconds

    @property
    def cores(self) -> float:
        """Cores kept busy on average."""
        return self.cpu_s / self.seconds

    @property
    def ready(self) -> float:
        """Cores kept busy, had there been no other programs: what is missing to 1 is waiting for a disk or network."""
        return (self.cpu_s + self.queued_s) / self.seconds


@dataclass(frozen=True, slots=True)
class Sent:
    """Upload with so many files on their way at the same time."""

    parallel: int
    bytes_s: float
    cpu_s_per_byte: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured, and the settings it would be run with."""

    cores: int
    slots: int
    """Worker processes of the run; 1 where it works in its own process."""
    work: tuple[float, ...]
    """Size of each partition, in any one unit."""
    upload_concurrency: int
    samples_per_shard: float
    """Samples a shard gets to hold; fewer than the setting where its size closes it earlier."""
    sample_bytes: float
    """Bytes of shard per sample."""
    read: Rate
    pack: Rate
    """Reading, checking, encoding, hashing and writing in one slot."""
    start_s: float = 0.0
    """From the beginning of the work to the first samples of the last slot."""
    pack_all: Rate | None = None
    """The same as the run does it, with all its processes; None where that is one. `slots` had a partition."""
    sent: tuple[Sent, ...] = ()
    record_s: float | None = None
    """Time to write one record of the ledger."""
    staging_bytes_s: float | None = None
    """What the staging disk takes; None where shards go to a folder, which is measured itself."""

    @property
    def width(self) -> int:
        """Slots that have something to do."""
        return max(1, min(self.slots, len(self.work)))

    @property
    def parallel(self) -> int:
        """Uploads at the same time in the run."""
        return self.width * self.upload_concurrency

    @property
    def packing_cores(self) -> int:
        """Cores that are at work in the run, besides uploads: more than slots where several share a partition."""
        used = round(self.pack_all.cores) if self.pack_all is not None and self.pack_all.slots == self.width else 0
        return max(self.width, min(used, self.slots))

    @property
    def reading_share(self) -> float:
        """Part of a slot's time that goes into reading."""
        return min(1.0, self.pack.samples_s / self.read.samples_s)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The rate of a run, and the rate each part alone would allow."""

    samples_s: float
    limits: dict[Limit, float]

    @property
    def bottleneck(self) -> Limit:
        return min(self.limits, key=lambda name: self.limits[name])

    def busy(self, name: Limit) -> float | None:
        """Share of the time of the run in which a part is at work; None where it was not measured."""
        return self.samples_s / self.limits[name] if name in self.limits else None


def forecast(figures: Figures) -> Forecast:
    """The rate of the whole run with these settings."""
    limits: dict[Limit, float] = {"packing": _packing(figures), "cores": figures.cores / _cpu_s(figures)}
    sent = sent_at(figures, figures.parallel)
    if sent is not None:
        limits["upload"] = sent.bytes_s / figures.sample_bytes
    if figures.record_s:
        # the records of a partition are written one after the other
        limits["records"] = figures.width * figures.samples_per_shard / figures.record_s
    if figures.staging_bytes_s is not None:
        limits["staging"] = figures.staging_bytes_s / figures.sample_bytes
    return Forecast(min(limits.values()), limits)


def balance(work: Sequence[float], slots: int) -> float:
    """Share of the slots' time that is used when partitions are handed out in order to whoever is free."""
    total = sum(work)
    if not total:
        return 1.0
    busy_until = [0.0] * slots
    for size in work:
        heapq.heapreplace(busy_until, busy_until[0] + size)
    return total / (slots * max(busy_until))


def sent_at(figures: Figures, parallel: int) -> Sent | None:
    """The upload measured nearest below so many at a time: more than was tried is not assumed to be faster."""
    tried = sorted(figures.sent, key=lambda sent: sent.parallel)
    below = [sent for sent in tried if sent.parallel <= parallel]
    return below[-1] if below else next(iter(tried), None)


def _packing(figures: Figures) -> float:
    together = figures.pack_all
    if together is not None and together.slots == figures.width:
        whole = together.samples_s
    else:
        whole = figures.pack.samples_s * figures.width * min(1.0, scaling(figures))
    return whole * balance(figures.work, figures.width)


def scaling(figures: Figures) -> float:
    """What one of several slots packs, over what a slot alone packs."""
    together = figures.pack_all
    return together.samples_s / (together.slots * figures.pack.samples_s) if together else 1.0


def _cpu_s(figures: Figures) -> float:
    """CPU seconds a sample costs from the source to the store."""
    sent = sent_at(figures, figures.parallel)
    sending = sent.cpu_s_per_byte * figures.sample_bytes if sent else 0.0
    return figures.pack.cpu_s / figures.pack.samples + sending
