"""The ledger: what is done, and nothing else decides it.

Per partition an append-only log of records `<dest>/_bridge/<run>/ledger/p00012/000000.json`, each written
with put-if-absent. Appending is the commit. Whoever finds another's record where its own should go is fenced.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import msgspec

from data_bridge.errors import Fenced, IntegrityError, RetryableError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition
from data_bridge.model.shards import ChangeRecord, Claim, Done, Failed, Record, ShardRecord
from data_bridge.model.source import Document
from data_bridge.model.store import ObjectStore
from data_bridge.utils import claims, segments

READERS = 16
"""Parallel GETs when a ledger is read from a remote store."""
PAGE = 1000
"""Records that have the first digits in common; also what a remote store lists in one answer."""
FEW_PARTITIONS = 64
"""Of so many each is asked for by itself: a listing of all records would take longer."""

_KINDS: Mapping[str, type[Claim] | type[ShardRecord] | type[ChangeRecord] | type[Done] | type[Failed]] = {
    "claim": Claim,
    "shard": ShardRecord,
    "change": ChangeRecord,
    "done": Done,
    "failed": Failed,
}
_RECORDS: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_SEGMENT: msgspec.json.Decoder[list[Record]] = msgspec.json.Decoder(list[Record])

Each: TypeAlias = Callable[..., Iterable[Any]]
"""`map`, or that of a pool."""


def dump(document: Document) -> bytes:
    """A document as JSON bytes, stable in key order."""
    return msgspec.json.encode(document)


class _AnyRecord(Document, frozen=True):
    kind: str


D = TypeVar("D", bound=Document)


def parsed(kind: type[D], data: bytes, what: str, hint: str = "") -> D:
    """A stored document. Raises IntegrityError naming it when it is damaged."""
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        raise IntegrityError(
            f"{what} is damaged: {error}",
            hint=hint or "restore it from a copy, or start over with --fresh",
        ) from None


class Ledger:
    """The logs of all partitions of one run."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self.store = store
        self.run = run
        self.prefix = f"_bridge/{run}/ledger/"
        self.segments = segments.Segments(store, run)

    def load(self, partition: Partition) -> PartitionLog:
        """The log of one partition."""
        return self.follow(partition)[0]

    def follow(self, partition: Partition) -> tuple[PartitionLog, list[bytes]]:
        """The log of one partition, and its records that no segment repeats yet, as they are stored."""
        name = partition.name
        if self.store.local_root is not None:
            count = self._counts(name + "/").get(name, 0)
            return self._read(partition, count, self._spans(count, name), map)
        count, spans = self._extent(name)
        with ThreadPoolExecutor(READERS) as pool:
            return self._read(partition, count, spans, pool.map)

    def load_all(self, partitions: Iterable[Partition]) -> dict[int, PartitionLog]:
        """The logs of many partitions; a finished one costs one read."""
        wanted = list(partitions)
        if self.store.local_root is None and len(wanted) <= FEW_PARTITIONS:
            with ThreadPoolExecutor(READERS) as pool:
                logs = pool.map(self.load, wanted)
                return dict(zip([p.index for p in wanted], logs, strict=True))
        counts = self._counts()
        repeated = self._spans(max(counts.values(), default=0))

        def log(partition: Partition, each: Each = map) -> PartitionLog:
            name = partition.name
            return self._read(partition, counts.get(name, 0), {name: repeated.get(name, [])}, each)[0]

        if self.store.local_root is not None:
            return {p.index: log(p) for p in wanted}
        with ThreadPoolExecutor(READERS) as outer, ThreadPoolExecutor(READERS) as inner:
            logs = outer.map(lambda partition: log(partition, inner.map), wanted)
            return dict(zip([p.index for p in wanted], logs, strict=True))

    def _counts(self, below: str = "") -> dict[str, int]:
        """Number of records of each partition, from a listing of all their names."""
        # sorted, and longer names are of larger numbers: the last of a folder has the largest
        keys = sorted(self.store.list_keys(self.prefix + below), key=len)
        last = {key.rpartition("/")[0]: key for key in keys}
        return {folder.removeprefix(self.prefix): _number(key) + 1 for folder, key in last.items()}

    def _spans(self, count: int, name: str = "") -> Mapping[str, list[range]]:
        """What is repeated in segments, where there are records enough for one."""
        return self.segments.spans(name) if count >= segments.RECORDS else {}

    def _extent(self, name: str) -> tuple[int, Mapping[str, list[range]]]:
        """Number of records of a partition and its segments, in a few listings of a page however many there are."""
        spans: Mapping[str, list[range]] = {}
        page = 0
        while len(found := self._page(name, page)) == PAGE:
            if page == 0:
                spans = self.segments.spans(name)
                repeated = spans.get(name, [])
                page = max(1, repeated[-1].stop // PAGE) if repeated else 1
            else:
                page += 1
        count, next_page = max(found, default=page * PAGE - 1) + 1, (page + 1) * PAGE
        if len(found) > PAGE // 2 and self.store.head(self.key(name, next_page)) is not None:
            count = next_page + 1  # the page has lost its last records: who reads them says which
        return count, spans

    def _page(self, name: str, page: int) -> set[int]:
        """Numbers of the records there are in one thousand."""
        found = self.store.list_keys(f"{self.prefix}{name}/{page:03d}")
        numbers = {_number(key) for key in found}
        return numbers.intersection(range(page * PAGE, (page + 1) * PAGE))

    def _read(
        self, partition: Partition, count: int, spans: Mapping[str, list[range]], each: Each
    ) -> tuple[PartitionLog, list[bytes]]:
        name, log = partition.name, PartitionLog(retried_by=partition.retried_by)
        if count == 0:
            return log, []
        newest = self._record(name, count - 1)
        last = parse(newest, self.key(name, count - 1))
        if isinstance(last, Done):
            log.next_seq = count - 1
            log.take(last)
            return log, []
        repeated = [span for span in spans.get(name, []) if span.stop <= count]
        for records in each(lambda span: self._repeated(name, span), repeated):
            log.take_all(records)
        at = repeated[-1].stop if repeated else 0
        tail = [*each(lambda seq: self._record(name, seq), range(at, count - 1)), newest] if at < count else []
        log.take_all(parse(record, self.key(name, seq)) for seq, record in enumerate(tail, at))
        return log, tail

    def _repeated(self, name: str, span: range) -> list[Record | None]:
        key = self.segments.key(name, span)
        with suppress(ValueError):
            records = _SEGMENT.decode(self.store.get(key) or b"")
            if len(records) == len(span):
                return list(records)
        return [parse(record, key, segments.HINT) for record in self.segments.read(name, span)]

    def key(self, name: str, seq: int) -> str:
        """Where a record of a partition's log is."""
        return f"{self.prefix}{name}/{seq:06d}.json"

    def _record(self, name: str, seq: int) -> bytes:
        data = self.store.get(self.key(name, seq))
        if data is None:
            raise IntegrityError(
                f"ledger record {name}/{seq:06d} is missing at {self.store.uri}",
                hint="records are never deleted while a dataset lives; restore it, or start again with --fresh",
            )
        return data


def _number(key: str) -> int:
    """The number of a record in its partition's log."""
    return int(key.rpartition("/")[2].removesuffix(".json"))


def parse(data: bytes, what: str, hint: str = "") -> Record | None:
    """A record from its bytes; None for a kind made by a later version. Errors are those of `parsed`."""
    try:
        return _RECORDS.decode(data)
    except ValueError:
        raw = parsed(_AnyRecord, data, what, hint)
        kind = _KINDS.get(raw.kind)
        return parsed(kind, data, what, hint) if kind else None


class ProgressTracker:
    """The face of one partition's ledger for the attempt that works on it.

    Nothing is done until `append` returned. Once it raised, nothing more is appended: whether the record is there is not
    known, and it would decide where the next one belongs. The commit thread and the one that reads may append at the
    same time.
    """

    def __init__(self, ledger: Ledger, partition: Partition, *, driver: str = "", token: str | None = None) -> None:
        self.partition = partition
        self.token = token or claims.new_token()
        self._ledger = ledger
        self._driver = driver
        self._pending: dict[str, ShardRecord] = {}
        self._appending = threading.Lock()
        self._broken: BaseException | None = None
        self.log, self._unrepeated = ledger.follow(partition)

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

    def report_key(self, sha256: str) -> str:
        """Where the file belongs with what stages measured that the next record will name. An attempt that dies before that
        leaves one of another name, as a rule: the seconds in it are others."""
        return f"_bridge/{self._ledger.run}/reports/{self.partition.name}-{self.log.next_seq:06d}-{sha256}.jsonl.gz"

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
            claims.refuse_if_held(self._ledger.store, self._ledger.run, self.partition.index, holder, dead_drivers)
        self.append(Claim(token=self.token, host=claims.this_host(), driver=self._driver))
        claims.opened(self.token)

    def release(self) -> None:
        """The attempt is over in this process; its claim no longer looks alive here."""
        claims.closed(self.token)

    def append(self, record: Record) -> None:
        """Commit one record. Raises Fenced when another attempt has written at this place, and once anything was raised
        the same again."""
        with self._appending:
            if self._broken is not None:
                raise self._broken
            try:
                self._append(record)
            except BaseException as error:
                self._broken = error
                raise
        if isinstance(record, ShardRecord) and record.key is not None:
            self._pending.pop(record.key, None)

    def _append(self, record: Record) -> None:
        key = self._ledger.key(self.partition.name, self.log.next_seq)
        data = dump(record)
        if not self._ledger.store.put_if_absent(key, data):
            stored = self._ledger.store.get(key) or b""
            there = parse(stored, key) if stored else None
            if there is None or there.token != record.token:
                raise Fenced(f"partition {self.partition.index} was taken over by another attempt")
            if stored != data:
                raise RetryableError(
                    f"partition {self.partition.index}: an earlier record of this attempt was stored after all",
                    hint="run the same command again: it goes on behind that record",
                )
        self.log.take(record)
        self._unrepeated.append(data)
        self._repeat()

    def _repeat(self) -> None:
        """Write the segments that are due; those an earlier attempt died before are written by the next append."""
        while len(self._unrepeated) >= segments.RECORDS:
            due, self._unrepeated = self._unrepeated[: segments.RECORDS], self._unrepeated[segments.RECORDS :]
            first = self.log.next_seq - len(self._unrepeated) - len(due)
            self._ledger.segments.write(self.partition.name, first, due)
