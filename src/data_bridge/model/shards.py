"""Shards and the records that commit them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_bridge.model.answers import Paid
from data_bridge.model.batch import RowFailure, Token, outside
from data_bridge.model.changes import SET, Change
from data_bridge.model.source import Document


class Encoded(msgspec.Struct, frozen=True):
    """A run of samples in a writer's own form, ready to be cut and written.

    `ends[i]` is the number of payload bytes of samples 0..i together (int64, shape (n,), ascending): the
    size limit cuts by it. `rows[i]` is the row the sample came from. `failures` are rows that could not be
    encoded, by `offset` in the rows given; together `rows` and the failures' offsets are all rows given.
    """

    payload: Any
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    failures: tuple[RowFailure, ...] = ()
    keys: Sequence[str] | None = None
    """Key of each sample where the writer took keys from the rows (`key_field`): the pipeline keeps a shard free of repeats."""
    warnings: Mapping[str, NDArray[np.int64]] = msgspec.field(default_factory=dict)
    """What was written differently than it stood in the source: how often in samples 0..i together."""

    def __len__(self) -> int:
        return len(self.ends)

    def warned(self, lo: int, hi: int) -> dict[str, int]:
        """The warnings of samples [lo, hi), with counts."""
        counts = {name: int(sums[hi - 1]) - (int(sums[lo - 1]) if lo else 0) for name, sums in self.warnings.items()}
        return {name: count for name, count in counts.items() if count}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """With the payload as a buffer of its own, and always as a pickle can hold it."""
        payload = self.payload
        if isinstance(payload, (bytes, bytearray, memoryview)):
            payload = outside(payload, protocol)
        return Encoded, (payload, self.ends, self.rows, self.failures, self.keys, self.warnings)


class Packed(msgspec.Struct, frozen=True):
    """A finished local shard file. The store that takes it makes it durable."""

    bytes: int
    sha256: str
    samples: int
    meta: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the format's index needs to know of this shard (LitData: `dim`, …); JSON-able."""


class Cursor(Document, frozen=True, kw_only=True):
    """The position just after the last source sample whose outputs are all in this or earlier shards."""

    pos: Token = None
    """Reader's token of the batch that holds the next sample; None = the partition's start."""
    skip: int = 0
    """Samples of that batch already used."""
    index: int = 0
    """Source samples consumed since the partition's start, failed ones included."""
    out: int = 0
    """Outputs of the next sample that are in shards already; where samples are shuffled, of the next block of them."""


class Host(Document, frozen=True, kw_only=True):
    """Which process holds a claim, precisely enough to tell whether it still lives."""

    boot: str
    pid: int
    started: float
    name: str = ""


class Claim(Document, frozen=True, kw_only=True, tag_field="kind", tag="claim"):
    v: int = 1
    token: str
    host: Host
    driver: str = ""
    """Names the heartbeat object of the run that owns the slot."""


class ReportPart(Document, frozen=True, kw_only=True):
    """What stages measured of the samples of a range; with the record of the first writer."""

    key: str | None = None
    """Key of the file that has the rows, written before the record; None where there are none."""
    sha256: str = ""
    rows: dict[str, int] = {}
    """How many, by each stage whose report was wanted."""
    cost_usd: dict[str, float] = {}
    """What was paid, by stage; for samples that failed as well."""


class ShardRecord(Document, frozen=True, kw_only=True, tag_field="kind", tag="shard"):
    """The commit of one shard. `key` is None when every sample of its range failed."""

    v: int = 1
    token: str
    sink: str = ""
    key: str | None
    bytes: int = 0
    sha256: str = ""
    samples: int = 0
    failed: int = 0
    failed_by: dict[str, int] = {}
    """The same by stage, `source` and `write` included; empty where an earlier version counted."""
    failures: str | None = None
    """Key of the failures file, written before this record."""
    failures_sha256: str | None = None
    first_index: int = 0
    """First source index in the range this shard covers (in the partition's key space), inclusive."""
    end_index: int = 0
    """One past the last source index of the range."""
    cursor: Cursor
    state: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    warnings: dict[str, int] = {}
    """What was written differently than it stood in the source, with counts."""
    report: ReportPart | None = None


class ChangeRecord(Document, frozen=True, kw_only=True, tag_field="kind", tag="change"):
    """A live change, and the source sample of the partition from which it is in force. Written before any sample
    behind it is used, and replayed by whoever makes them again."""

    v: int = 1
    token: str
    number: int
    id: str
    stage: str
    key: str
    value: Any
    command: str = SET
    start: int = msgspec.field(name="from")
    """Index counted from the partition's start, as in a cursor."""

    @property
    def change(self) -> Change:
        return Change(
            number=self.number, id=self.id, stage=self.stage, key=self.key, value=self.value, command=self.command
        )


class Done(Document, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """The end of a partition: repeats its shards and changes, so that readers need nothing else."""

    v: int = 1
    token: str
    cursor: Cursor
    samples: int
    failed: int
    bytes: int
    shards: tuple[ShardRecord, ...]
    changes: tuple[ChangeRecord, ...] = ()
    trailing_failed: int = 0
    trailing_failed_by: dict[str, int] = {}
    failures: str | None = None
    failures_sha256: str | None = None
    paid: dict[str, Paid] = {}
    """What was paid for, by stage."""
    report: ReportPart | None = None
    """Of the samples behind the last shards."""


class Failed(Document, frozen=True, kw_only=True, tag_field="kind", tag="failed"):
    """The partition could not be finished by this run; the next run claims it again."""

    v: int = 1
    token: str
    error: str
    hint: str = ""
    cursor: Cursor


Record: TypeAlias = Claim | ShardRecord | ChangeRecord | Done | Failed
