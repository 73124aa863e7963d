"""A run as it is at one moment: the last second and everything so far, over all slots."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from data_bridge.model.metrics import Load, MetricRecord

RUN = "run"
"""The part that stands for the whole run, beside `source`, the stages and so on. No stage may have this name."""


class SlotView(msgspec.Struct, frozen=True):
    """One partition in work."""

    partition: int
    samples: int
    """Packed or passed over so far, from its start."""
    rate: float
    """Samples a second."""
    busiest: str
    """The part that was at work most, "" when none was."""
    still_s: float = 0.0
    """How long it has not moved."""
    full: str = ""
    """The fullest of its queues if that is full, as it was last told."""


class Snapshot(msgspec.Struct, frozen=True):
    """What is known at one moment. Rates are those of `last`, which covers `window_s` seconds."""

    run: str
    destination: str
    state: Literal["starting", "running", "ended"]
    pid: int
    at: float
    """Seconds since 1970."""
    seconds: float
    """Since the start."""
    window_s: float
    last: tuple[MetricRecord, ...]
    total: tuple[MetricRecord, ...]
    slots: tuple[SlotView, ...]
    partitions: int = 0
    partitions_done: int = 0
    samples_expected: int | None = None
    samples_before: int = 0
    """Committed by earlier runs."""

    @property
    def busiest(self) -> str:
        """The part that was at work most in the last second, "" when none was."""
        return busiest(self.last)

    def rate(self, stage: str, count: str) -> float:
        """How much of a count came in a second."""
        found = next((r for r in self.last if r.stage == stage), None)
        return found.count(count) / self.window_s if found and self.window_s else 0.0

    def amount(self, stage: str, count: str) -> int:
        """How much of a count there was so far."""
        return next((r.count(count) for r in self.total if r.stage == stage), 0)


def busiest(records: Iterable[MetricRecord]) -> str:
    """The part with the most seconds at work."""
    at_work: dict[str, float] = {}
    for record in records:
        busy_s = sum(m.busy_s for m in record.metrics if isinstance(m, Load))
        at_work[record.stage] = at_work.get(record.stage, 0.0) + busy_s
    return max((s for s in at_work if at_work[s] > 0), key=at_work.__getitem__, default="")
