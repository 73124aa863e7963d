"""Packing real samples into real shards that go nowhere: a run's own work on a store that forgets."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from data_bridge.config import Settings
from data_bridge.engine.drive import drive
from data_bridge.engine.signals import STOPPING
from data_bridge.errors import Interrupted
from data_bridge.events import (
    Event,
    ItemFailed,
    Notice,
    Observer,
    PartitionClaimed,
    PartitionDone,
    SamplesPacked,
    ShardFinished,
)
from data_bridge.measure.forecast import Rate
from data_bridge.measure.window import Window
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition, Plan
from data_bridge.model.store import ObjectInfo
from data_bridge.pipelines.base import Takeover
from data_bridge.pipelines.factory import PipelineFactory
from data_bridge.utils import claims

KEPT_FILES = 4
KEPT_BYTES = 256_000_000
FEW = 10
"""With fewer batches than this the first one counts too: there is no time to start up in peace."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A packed shard to be uploaded."""

    path: Path
    size: int
    sha256: str


Files: TypeAlias = list[Kept]


@dataclass
class Forgetting:
    """An ObjectStore for runs whose output nobody wants: shards are dropped, the ledger lives as long as its slot.

    A few shards are moved to `keep`, where it is given. Picklable.
    """

    folder: Path
    keep: Path | None = None
    kept: Files = field(default_factory=list)
    _records: dict[str, bytes] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.folder.as_uri()

    @property
    def local_root(self) -> Path:
        return self.folder

    @property
    def conditional(self) -> bool:
        return True

    def probe(self, scratch: str) -> None:
        """What is forgotten needs no test."""

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:  # noqa: ARG002 - the interface has it
        size = path.stat().st_size
        room = len(self.kept) < KEPT_FILES and sum(k.size for k in self.kept) + size <= KEPT_BYTES
        if self.keep is None or not room:
            path.unlink()
            return
        self.kept.append(Kept(path.rename(self.keep / f"{len(self.kept)}-{path.name}"), size, sha256))

    def put_bytes(self, key: str, data: bytes) -> None:
        self._records[key] = data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._records.setdefault(key, data) == data

    def get(self, key: str) -> bytes | None:
        return self._records.get(key)

    def read(self, key: str) -> Iterator[bytes]:
        yield self._records[key]

    def head(self, key: str) -> ObjectInfo | None:
        return ObjectInfo(key, len(self._records[key])) if key in self._records else None

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        sizes = sorted((key, len(data)) for key, data in list(self._records.items()) if key.startswith(prefix))
        return (ObjectInfo(key, size) for key, size in sizes if not without or not key.startswith(without))

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return (found.key for found in self.list(prefix))

    def delete(self, key: str) -> None:
        self._records.pop(key, None)

    def presign(self, key: str, expires_s: int) -> str:  # noqa: ARG002 - the interface has it
        return f"{self.uri}/{key}"


@dataclass(frozen=True, slots=True)
class Packing:
    """How fast samples become shards."""

    rate: Rate
    sample_bytes: float
    """Bytes of shard per sample."""
    start_s: float
    """From the order to the first samples of the last slot."""
    kept: Sequence[Kept]
    failed: bool
    """Whether bad samples were met."""


def pack(
    settings: Settings,
    plan: Plan,
    partitions: Sequence[Partition],
    store: Forgetting,
    *,
    slots: int,
    seconds: float,
    observer: Observer,
) -> Packing | None:
    """Do what a run does with the partitions until the time is up or the rate is known; None when no sample came.

    `slots` is how many the run has: 1 works in this process. Raises as a run would.
    """
    pipeline = PipelineFactory.create(settings, store, plan=Plan(run=claims.new_token(), generations=plan.generations))
    watching = Watching(slots, len(partitions), seconds, observer)
    logs = {p.index: PartitionLog() for p in partitions}
    begun = watching.window.clock()
    with suppress(Enough):
        report = drive(
            pipeline,
            logs,
            watching,
            workers=0 if slots == 1 else slots,
            takeover=Takeover(),
            mine={p.index for p in plan.partitions},
            name=pipeline.plan.run,
        )
        if report.interrupted:
            raise Interrupted("stopped")
        if report.error is not None:
            raise report.error
    rate = watching.rate()
    if rate is None:
        return None
    return Packing(rate, watching.sample_bytes, watching.window.opened_at - begun, tuple(store.kept), watching.failed)


def slots_cpu_s() -> float:
    """CPU seconds of the worker processes that live now; 0 where the system does not tell."""
    ticks = 0
    for process in multiprocessing.active_children():
        stat = Path(f"/proc/{process.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


class Enough(Exception):
    """The rate is known, or the time is up."""


class Watching:
    """An observer that measures, and raises `Enough` when it has seen enough."""

    def __init__(self, slots: int, partitions: int, seconds: float, observer: Observer) -> None:
        self.window = Window(cpu_clock=time.process_time if slots == 1 else slots_cpu_s)
        self.failed = False
        self._shard_samples = self._shard_bytes = 0
        self._width = min(slots, partitions)
        self._partitions = partitions
        self._working: set[int] = set()
        self._all_work = False
        self._done = 0
        self._seconds = seconds
        self._observer = observer

    def __call__(self, event: Event, /) -> None:
        match event:
            case PartitionClaimed():
                if not self.window.marks:
                    self.window.add(0, 0)
            case SamplesPacked():
                self.window.add(event.samples, event.bytes)
                self._working.add(event.partition)
                if not self._all_work and len(self._working) == self._width:
                    self._all_work = True
                    self.window.open()
                if self._all_work and (self.window.seconds >= self._seconds or self.window.steady()):
                    raise Enough
            case ShardFinished():
                self._shard_samples += event.samples
                self._shard_bytes += event.bytes
            case PartitionDone():
                self._done += 1
                self._working.discard(event.partition)
                if self._partitions - self._done < self._width:
                    self.window.close()
            case ItemFailed():
                self.failed = True
            case Notice(message=message) if message == STOPPING:
                pass  # a run would finish what is in hand, a measurement throws it away
            case _:
                self._observer(event)

    @property
    def sample_bytes(self) -> float:
        """Of finished shards, which may be compressed; as long as there is none, of what was packed."""
        if self._shard_samples:
            return self._shard_bytes / self._shard_samples
        last = self.window.marks[-1]
        return last.bytes / last.samples

    def rate(self) -> Rate | None:
        """What the slots did while all of them were at work."""
        whole = Window(marks=self.window.marks).rate(slots=self._width)
        if len(self.window.marks) < FEW:
            return whole
        return self.window.rate(slots=self._width) or whole
