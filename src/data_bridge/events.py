"""What happened, as frozen values, and who wants to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from data_bridge.model.metrics import MetricRecord


@dataclass(frozen=True, slots=True)
class RunPlanned:
    """The plan is fixed. Totals are None where nobody can know them."""

    run: str
    destination: str
    partitions: int
    done: int
    samples: int | None
    bytes: int | None
    samples_done: int
    bytes_done: int


@dataclass(frozen=True, slots=True)
class PartitionClaimed:
    partition: int
    index: int
    """Samples already committed: where the slot resumes."""


@dataclass(frozen=True, slots=True)
class SamplesPacked:
    """Progress of the open shard, once a batch."""

    partition: int
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardFinished:
    """Closed on local disk, not uploaded yet."""

    partition: int
    key: str
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardUploaded:
    """At the store and verified, not recorded yet."""

    partition: int
    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardCommitted:
    """Recorded in the ledger. `key` is None when every sample of the range failed."""

    partition: int
    key: str | None
    samples: int
    failed: int
    bytes: int
    failed_by: Mapping[str, int] = field(default_factory=dict)
    """The failed ones by stage."""


@dataclass(frozen=True, slots=True)
class ItemFailed:
    partition: int
    index: int
    stage: str
    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionDone:
    partition: int
    samples: int
    """In its shards, by this run and earlier ones."""
    failed: int
    """Behind its last shard; the others were told with their shards."""
    failed_by: Mapping[str, int] = field(default_factory=dict)
    """Those by stage."""


@dataclass(frozen=True, slots=True)
class ChangeApplied:
    """A live change is recorded, and in force in a partition from a source index on."""

    partition: int
    index: int
    stage: str
    key: str
    value: Any
    command: str = "set"


@dataclass(frozen=True, slots=True)
class BudgetUsed:
    """What one activity of a slot (`name`) took of its memory budget while it worked on a partition."""

    partition: int
    name: str
    peak_bytes: int
    waits: int
    """How often something had to wait for room in `pipeline.memory_bytes`."""
    waited_s: float
    """Together, over threads that may have waited at the same time."""


@dataclass(frozen=True, slots=True)
class Flushed:
    """What the parts of a slot counted since the last one, while it works on a partition; every 0.2 s at most."""

    partition: int
    records: tuple[MetricRecord, ...]


@dataclass(frozen=True, slots=True)
class PartitionFailed:
    partition: int
    error: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SlotLost:
    """A worker process died or hung and is replaced."""

    slot: int
    partition: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is not an error."""

    message: str


@dataclass(frozen=True, slots=True)
class RunFinalized:
    manifest: str
    samples: int
    failed: int
    shards: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
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
    | RunFinalized
    | Measured
)


class Observer(Protocol):
    """Anything that can be called with an event; called in the driver process, one event at a time."""

    def __call__(self, event: Event, /) -> None: ...


def ignore(event: Event, /) -> None:
    """The observer that does nothing."""
