"""What happened, as frozen values, and who wants to know."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from data_bridge.model.metrics import MetricRecord


class RunPlanned(msgspec.Struct, frozen=True):
    """The plan is fixed. Totals are None where nobody can know them."""

    run: str
    destination: str
    partitions: int
    done: int
    samples: int | None
    bytes: int | None
    samples_done: int
    bytes_done: int


class PartitionClaimed(msgspec.Struct, frozen=True):
    partition: int
    index: int
    """Samples already committed: where the slot resumes."""


class SamplesPacked(msgspec.Struct, frozen=True):
    """Progress of the open shard, once a batch."""

    partition: int
    samples: int
    bytes: int


class ShardFinished(msgspec.Struct, frozen=True):
    """Closed on local disk, not uploaded yet."""

    partition: int
    key: str
    samples: int
    bytes: int


class ShardUploaded(msgspec.Struct, frozen=True):
    """At the store and verified, not recorded yet."""

    partition: int
    key: str
    bytes: int


class ShardCommitted(msgspec.Struct, frozen=True):
    """Recorded in the ledger. `key` is None when every sample of the range failed."""

    partition: int
    key: str | None
    samples: int
    failed: int
    bytes: int
    failed_by: Mapping[str, int] = msgspec.field(default_factory=dict)
    """The failed ones by stage."""


class ItemFailed(msgspec.Struct, frozen=True):
    partition: int
    index: int
    stage: str
    where: str
    reason: str


class PartitionDone(msgspec.Struct, frozen=True):
    partition: int
    samples: int
    """In its shards, by this run and earlier ones."""
    failed: int
    """Behind its last shard; the others were told with their shards."""
    failed_by: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Those by stage."""


class ChangeApplied(msgspec.Struct, frozen=True):
    """A live change is recorded, and in force in a partition from a source index on."""

    partition: int
    index: int
    stage: str
    key: str
    value: Any
    command: str = "set"


class BudgetUsed(msgspec.Struct, frozen=True):
    """What one activity of a slot (`name`) took of its memory budget while it worked on a partition."""

    partition: int
    name: str
    peak_bytes: int
    waits: int
    """How often something had to wait for room in `pipeline.memory_bytes`."""
    waited_s: float
    """Together, over threads that may have waited at the same time."""


class Flushed(msgspec.Struct, frozen=True):
    """What the parts of a slot counted since the last one, while it works on a partition; every 0.2 s at most."""

    partition: int
    records: tuple[MetricRecord, ...]


class PartitionFailed(msgspec.Struct, frozen=True):
    partition: int
    error: str
    hint: str = ""


class SlotLost(msgspec.Struct, frozen=True):
    """A worker process died or hung and is replaced."""

    slot: int
    partition: int | None
    why: str


class Notice(msgspec.Struct, frozen=True):
    """Something the user should know that is not an error."""

    message: str


class ReportWritten(msgspec.Struct, frozen=True):
    """What a stage measured stands in a file on this machine."""

    stage: str
    path: str
    rows: int
    complete: bool


class RunFinalized(msgspec.Struct, frozen=True):
    manifest: str
    samples: int
    failed: int
    shards: int
    bytes: int


class Measured(msgspec.Struct, frozen=True):
    """What a slot of `bench` uploaded: bytes, bytes per second of its uploads together, and what that cost it."""

    slot: int
    bytes: int
    bytes_s: float
    cpu_s: float


Event: TypeAlias = (
    RunPlanned
    | PartitionClaimed
    | SamplesPacked
    | ShardFinished
    | ShardUploaded
    | ShardCommitted
    | ItemFailed
    | PartitionDone
    | ChangeApplied
    | BudgetUsed
    | Flushed
    | PartitionFailed
    | SlotLost
    | Notice
    | ReportWritten
    | RunFinalized
    | Measured
)


class Observer(Protocol):
    """Anything that can be called with an event; called in the driver process, one event at a time."""

    def __call__(self, event: Event, /) -> None: ...


def ignore(event: Event, /) -> None:
    """The observer that does nothing."""
