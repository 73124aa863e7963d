"""The ledger: what is done, and nothing else decides it.

Per partition an append-only log of records `<dest>/_bridge/<run>/ledger/p00012/000000.json`, each written
with put-if-absent. Appending is the commit. Whoever finds another's record where its own should go is fenced.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from data_bridge.errors import BusyError, Fenced, IntegrityError
from data_bridge.model.manifest import Totals
from data_bridge.model.plan import Partition
from data_bridge.model.shards import Claim, Cursor, Done, Failed, Record, ShardRecord
from data_bridge.model.source import Document
from data_bridge.model.store import ObjectStore
from data_bridge.utils import claims

READERS = 16
"""Parallel GETs when a ledger is read from a remote store."""

_KINDS: Mapping[str, type[Claim] | type[ShardRecord] | type[Done] | type[Failed]] = {
    "claim": Claim,
    "shard": ShardRecord,
    "done": Done,
    "failed": Failed,
}


def dump(document: Document) -> bytes:
    """A document as JSON bytes, stable in key order."""
    return msgspec.json.encode(document)


class _AnyRecord(Document, frozen=True):
    kind: str = ""


D = TypeVar("D", bound=Document)


def parsed(kind: type[D], data: bytes, what: str) -> D:
    """A stored document. Raises IntegrityError naming it when it is damaged."""
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise IntegrityError(
            f"{what} is damaged: {error}",
            hint="restore it from a copy, or start over with --fresh",
        ) from None


@dataclass(slots=True)
class PartitionLog:
    """All that the ledger says of one partition."""

    next_seq: int = 0
    shards: list[ShardRecord] = field(default_factory=list)
    done: Done | None = None
    failed: Failed | None = None
    claim: Claim | None = None
    """The newest claim, if nothing ended it."""

    @property
    def cursor(self) -> Cursor:
        """Where the next attempt starts."""
        if self.done:
            return self.done.cursor
        return self.shards[-1].cursor if self.shards else Cursor()

    @property
    def samples(self) -> int:
        return sum(s.samples for s in self.shards)

    @property
    def failed_samples(self) -> int:
        return self.done.failed if self.done else sum(s.failed for s in self.shards)

    @property
    def bytes(self) -> int:
        return sum(s.bytes for s in self.shards)

    def take(self, record: Record) -> None:
        """Add the next record of the log."""
        self.next_seq += 1
        match record:
            case Claim():
                self.claim, self.failed = record, None
            case ShardRecord():
                self.shards.append(record)
            case Done():
                self.done, self.claim, self.shards = record, None, list(record.shards)
            case Failed():
                self.failed, self.claim = record, None


def totals(logs: Iterable[PartitionLog]) -> Totals:
    """What the logs have committed together."""
    logs = list(logs)
    return Totals(
        samples=sum(log.samples for log in logs),
        failed=sum(log.failed_samples for log in logs),
        bytes=sum(log.bytes for log in logs),
        shards=sum(s.key is not None for log in logs for s in log.shards),
    )


class Ledger:
    """The logs of all partitions of one run."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self.store = store
        self.run = run
        self.prefix = f"_bridge/{run}/ledger/"

    def load(self, partition: Partition) -> PartitionLog:
        """The log of one partition."""
        return self._read({partition.name: self._numbers(self.prefix + partition.name + "/").get(partition.name, 0)})[
            partition.name
        ]

    def load_all(self, partitions: Iterable[Partition]) -> dict[int, PartitionLog]:
        """The logs of many partitions with one listing; finished ones cost one read each."""
        counts = self._numbers(self.prefix)
        wanted = {p.name: counts.get(p.name, 0) for p in partitions}
        logs = self._read(wanted)
        return {p.index: logs[p.name] for p in partitions}

    def _numbers(self, prefix: str) -> dict[str, int]:
        """Number of records of each partition found under a prefix."""
        counts: dict[str, int] = {}
        for found in self.store.list(prefix):
            name, _, record = found.key.removeprefix(self.prefix).partition("/")
            counts[name] = max(counts.get(name, 0), int(record.removesuffix(".json")) + 1)
        return counts

    def _read(self, counts: Mapping[str, int]) -> dict[str, PartitionLog]:
        if self.store.local_root is not None:
            return {name: self._read_log(name, count, map) for name, count in counts.items()}
        with ThreadPoolExecutor(READERS) as outer, ThreadPoolExecutor(READERS) as inner:
            logs = outer.map(lambda item: self._read_log(item[0], item[1], inner.map), counts.items())
            return dict(zip(counts, logs, strict=True))

    def _read_log(self, name: str, count: int, each: Callable[..., Iterable[Record | None]]) -> PartitionLog:
        log = PartitionLog()
        if count == 0:
            return log
        last = self._record(name, count - 1)
        if isinstance(last, Done):
            log.next_seq = count - 1
            log.take(last)
            return log
        for record in [*each(lambda seq: self._record(name, seq), range(count - 1)), last]:
            if record is None:
                log.next_seq += 1  # a kind this version does not know
            else:
                log.take(record)
        return log

    def _record(self, name: str, seq: int) -> Record | None:
        data = self.store.get(f"{self.prefix}{name}/{seq:06d}.json")
        if data is None:
            raise IntegrityError(
                f"ledger record {name}/{seq:06d} is missing at {self.store.uri}",
                hint="records are never deleted while a dataset lives; restore it, or start again with --fresh",
            )
        return parse(data)


def parse(data: bytes) -> Record | None:
    """A record from its bytes; None for a kind made by a later version."""
    raw = parsed(_AnyRecord, data, "ledger record")
    kind = _KINDS.get(raw.kind)
    return parsed(kind, data, "ledger record") if kind else None


class ProgressTracker:
    """The face of one partition's ledger for the attempt that works on it.

    Nothing is done until `append` returned; after `Fenced` nothing more may be written.
    """

    def __init__(self, ledger: Ledger, partition: Partition, *, driver: str = "", token: str | None = None) -> None:
        self.partition = partition
        self.token = token or claims.new_token()
        self._ledger = ledger
        self._driver = driver
        self._pending: dict[str, ShardRecord] = {}
        self.log = ledger.load(partition)

    @property
    def next_index(self) -> int:
        """Index of the first sample that is not in a committed shard, in the partition's key space."""
        return self.partition.first_index + self.log.cursor.index

    @property
    def completed_outputs(self) -> list[str]:
        """Keys of the committed shards, in order."""
        return [s.key for s in self.log.shards if s.key is not None]

    @property
    def pending_outputs(self) -> list[str]:
        """Keys of shards that are finished on this machine but not committed yet, in order."""
        return list(self._pending)

    @property
    def failures_key(self) -> str:
        """Where the failures file belongs that the next record will name."""
        return f"_bridge/{self._ledger.run}/failures/{self.partition.name}-{self.log.next_seq:06d}.jsonl"

    def pending(self, record: ShardRecord) -> None:
        """A shard is finished locally."""
        if record.key is not None:
            self._pending[record.key] = record

    def claim(self, *, dead_drivers: frozenset[str] = frozenset(), steal: bool = False) -> None:
        """Take the partition over for this attempt.

        Raises BusyError naming the holder when its process lives (or may live) and `steal` is not given.
        """
        holder = self.log.claim
        if holder is not None and not steal:
            refuse_if_held(self._ledger, self.partition, holder, dead_drivers)
        self.append(Claim(token=self.token, host=claims.this_host(), driver=self._driver))
        claims.opened(self.token)

    def release(self) -> None:
        """The attempt is over in this process; its claim no longer looks alive here."""
        claims.closed(self.token)

    def append(self, record: Record) -> None:
        """Commit one record. Raises Fenced when another attempt has written at this place."""
        key = f"{self._ledger.prefix}{self.partition.name}/{self.log.next_seq:06d}.json"
        if not self._ledger.store.put_if_absent(key, dump(record)):
            there = parse(self._ledger.store.get(key) or b"{}")
            if there is None or there.token != record.token:
                raise Fenced(f"partition {self.partition.index} was taken over by another attempt")
        self.log.take(record)
        if isinstance(record, ShardRecord) and record.key is not None:
            self._pending.pop(record.key, None)


def _ended(ledger: Ledger, holder: Claim) -> bool:
    """Whether the run of a claim is over although its process lives on (a notebook): a run keeps a heartbeat."""
    return bool(holder.driver) and ledger.store.head(claims.heartbeat_key(ledger.run, holder.driver)) is None


def refuse_if_held(ledger: Ledger, partition: Partition, holder: Claim, dead_drivers: frozenset[str]) -> None:
    """Raise BusyError when a claim's process lives here, or may live on another machine."""
    match claims.liveness(holder):
        case "alive here" if not _ended(ledger, holder):
            raise BusyError(
                f"partition {partition.index} of {ledger.store.uri} is being worked on by process {holder.host.pid} on this machine",
                hint=f"wait for it, or stop it (kill {holder.host.pid}) and run again",
            )
        case "elsewhere" if holder.driver not in dead_drivers:
            raise BusyError(
                f"partition {partition.index} of {ledger.store.uri} is held by process {holder.host.pid} on {holder.host.name}",
                hint="run again when that run has ended, or take it over with --steal if you know that it is dead",
            )
        case _:
            return
