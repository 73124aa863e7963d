"""What a run tells when it is over."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from data_bridge.model.answers import Paid

COMPLETED_WITH_FAILURES = 3
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended. `exit_code` is 0 only when every source sample is in exactly one shard."""

    run: str
    status: Literal["complete", "completed_with_failures", "interrupted"]
    destination: str
    manifest: str | None
    """URI of the manifest, when it was written."""
    format: str
    samples: int
    failed: int
    shards: int
    bytes: int
    seconds: float
    resumed: bool = False
    """Whether an earlier run had done part of it."""
    peak_bytes: int = 0
    memory_waited_s: float = 0.0
    """How long its threads together waited for room in `pipeline.memory_bytes`."""
    writers: dict[str, str] = field(default_factory=dict)
    """The format of each of several writers by its name, which is that of its folder."""
    slice: str | None = None
    """`2/3` where this was one slice of the run: the other figures are those of its partitions, and there is no manifest."""
    paid: dict[str, dict[str, float]] = field(default_factory=dict)
    """By stage whose answers are paid for: `answers`, `cost_usd`, `tokens_in` and `tokens_out`, over all runs and crashes."""

    @property
    def exit_code(self) -> int:
        return {"complete": 0, "completed_with_failures": COMPLETED_WITH_FAILURES, "interrupted": INTERRUPTED}[
            self.status
        ]


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a run would do. Counts are None where only reading the source can tell; estimates are marked so."""

    run: str | None
    source: str
    source_format: str
    destination: str
    format: str
    files: int
    source_bytes: int | None
    partitions: int
    partitions_done: int
    samples: int | None
    samples_estimated: int | None
    samples_done: int
    shards: int | None
    shards_estimated: int | None
    shards_done: int
    shard_bytes_estimated: int | None
    fields: tuple[tuple[str, str], ...]
    writer: dict[str, object]
    warnings: tuple[str, ...]
    complete: bool
    writers: dict[str, str] = field(default_factory=dict)
    """As in `RunReport`."""


StageState: TypeAlias = Literal[
    "not_started", "processing", "paused", "generating_report", "completed", "completed_with_failures", "failed"
]
"""`paused`: begun, not finished, and at rest: told to pause, stopped or killed, as far as this machine can tell.
`generating_report`: the dataset is complete, and its report is being written. `failed`: a partition was given up; a rerun tries
it again."""


@dataclass(frozen=True, slots=True)
class StageCommitted:
    """A stage, and what the ledger has of it."""

    name: str
    kind: str
    failed: int
    paid: Paid | None = None
    """What its answers cost; None for one that is not paid."""
    total_cost_usd: float = 0.0
    """What it paid for samples that are committed, and for those that were tried again."""
    report_rows: int | None = None
    """Samples its report has; None where nobody wanted one."""


@dataclass(frozen=True, slots=True)
class StageStatus:
    """How a stage stands. `failed`, `total_cost_usd` and `report_rows` are what the ledger has, and `paid` what the journal of
    answers has. The others are totals of the last run on this machine, without those before it, and None where there was none."""

    name: str
    kind: str
    status: StageState
    failed: int
    processed: int | None
    """Rows that came to it; what a lost worker did in vain counts too."""
    skipped: int | None
    """Rows it left out on purpose."""
    seconds: float | None
    """At work, over all its workers."""
    total_cost_usd: float = 0.0
    """What the ledger has that it paid: over all runs and crashes, once."""
    total: int | None = None
    """Samples of the source, where the plan knows."""
    remaining: int | None = None
    """Those of them that are not committed."""
    report_rows: int | None = None
    """Samples its report has until now; None where nobody wanted one."""
    report: str | None = None
    """Where the whole report is on this machine."""
    bypassed: int | None = None
    """Rows that passed it unchanged, switched off."""
    row_seconds: dict[str, float] = field(default_factory=dict)
    """What a row took it: `p50` and `p95`, the rows of a packet having equal shares."""
    statistics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Its own metrics of that kind: `count`, `mean`, `min`, `max`, `p50` and `p95`, by name."""
    paid: dict[str, float] | None = None
    """`answers`, `cost_usd`, `tokens_in` and `tokens_out`, over all runs and crashes; None for a stage that is not paid."""


@dataclass(frozen=True, slots=True)
class SliceStatus:
    """How one slice of a run (`2/3`) stands, by the ledger."""

    slice: str
    partitions: int
    partitions_done: int
    partitions_held: int
    """Begun and not finished: at work, or left by a process that died."""
    samples: int
    shards: int


@dataclass(frozen=True, slots=True)
class StatusReport:
    """What the ledger of a destination says."""

    run: str
    destination: str
    complete: bool
    partitions: int
    partitions_done: int
    partitions_failed: int
    partitions_held: int
    samples: int
    failed: int
    shards: int
    bytes: int
    samples_expected: int | None
    errors: tuple[str, ...]
    samples_done: int = 0
    """Samples of the source that are behind it: in shards, left out or failed."""
    stages: tuple[StageCommitted, ...] = ()
    slices: tuple[SliceStatus, ...] = ()
    """Where the run was divided, in the newest division (that with most slices)."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked and what was wrong with it; sound when `problems` is empty."""

    destination: str
    shards: int
    samples: int
    bytes: int
    deep: bool
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 1 if self.problems else 0
