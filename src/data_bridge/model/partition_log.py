"""What the ledger says of a partition, and of several together."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from data_bridge.model.manifest import Totals
from data_bridge.model.shards import ChangeRecord, Claim, Cursor, Done, Failed, Record, ShardRecord


class PartitionLog(msgspec.Struct):
    """All that the ledger says of one partition."""

    next_seq: int = 0
    shards: list[ShardRecord] = msgspec.field(default_factory=list)
    changes: list[ChangeRecord] = msgspec.field(default_factory=list)
    """In the order in which they were made, which is that of the samples from which they are in force."""
    done: Done | None = None
    failed: Failed | None = None
    retried_by: Mapping[str, int] = msgspec.field(default_factory=dict)
    """By stage, the samples that failed in an earlier partition and are tried again in this one."""
    claim: Claim | None = None
    """The newest claim, if nothing ended it."""

    @property
    def cursor(self) -> Cursor:
        """Where the next attempt starts."""
        if self.done:
            return self.done.cursor
        return self.shards[-1].cursor if self.shards else Cursor()

    def shards_of(self, sink: str) -> list[ShardRecord]:
        """What one writer has committed."""
        return [s for s in self.shards if s.sink == sink]

    def cursor_of(self, sink: str) -> Cursor:
        """Where one writer goes on."""
        if self.done:
            return self.done.cursor
        return next((s.cursor for s in reversed(self.shards) if s.sink == sink), Cursor())

    def changed_before(self, cursor: Cursor) -> tuple[str, ...]:
        """The live changes that decide what is before a cursor."""
        return tuple(c.id for c in self.changes if c.start < cursor.index + (cursor.out > 0))

    @property
    def samples(self) -> int:
        return sum(s.samples for s in self.shards)

    @property
    def failed_samples(self) -> int:
        return self.done.failed if self.done else sum(s.failed for s in self.shards)

    @property
    def failed_by(self) -> Counter[str]:
        """Failed samples by stage."""
        found = Counter(self.done.trailing_failed_by if self.done else {})
        for shard in self.shards:
            if shard.failed_by:  # of a hundred thousand shards hardly one
                found.update(shard.failed_by)
        return found

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
            case ChangeRecord():
                self.changes.append(record)
            case Done():
                self.done, self.claim = record, None
                self.shards, self.changes = list(record.shards), list(record.changes)
            case Failed():
                self.failed, self.claim = record, None

    def take_all(self, records: Iterable[Record | None]) -> None:
        """Add the next records; None is one of a kind that this version does not know."""
        for record in records:
            if record is None:
                self.next_seq += 1
            else:
                self.take(record)


def failures_by_stage(logs: Iterable[PartitionLog]) -> Counter[str]:
    """Failed samples of all logs by stage, less those that were tried again."""
    found: Counter[str] = Counter()
    for log in logs:
        found.update(log.failed_by)
        found.subtract(log.retried_by)
    return found


def totals(logs: Iterable[PartitionLog]) -> Totals:
    """What the logs have committed together; of samples that were tried again, how that ended."""
    logs = list(logs)
    return Totals(
        samples=sum(log.samples for log in logs),
        failed=sum(log.failed_samples - sum(log.retried_by.values()) for log in logs),
        bytes=sum(log.bytes for log in logs),
        shards=sum(s.key is not None for log in logs for s in log.shards),
    )
