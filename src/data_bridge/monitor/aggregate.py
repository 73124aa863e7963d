"""Adds up what all slots say: over the last second, and over the whole run."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from data_bridge.events import (
    Event,
    Flushed,
    PartitionClaimed,
    PartitionDone,
    PartitionFailed,
    RunPlanned,
    SamplesPacked,
    ShardCommitted,
    SlotLost,
)
from data_bridge.model.metrics import Count, Gauge, Metric, MetricRecord, QueueUse, merged
from data_bridge.monitor.snapshot import RUN, SlotView, Snapshot, busiest

COUNTED = (
    "samples_packed",
    "samples_committed",
    "samples_failed",
    "shards_committed",
    "bytes_committed",
    "workers_lost",
)
"""Of the whole run; they begin with 0, so that whoever looks at rates sees the first one."""
MOST_WAITING = 5_000
"""Records that wait to be added up."""


class _Slot:
    """A partition in work."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.packed = 0
        self.records: list[MetricRecord] = []
        self.levels: dict[tuple[str, str], MetricRecord] = {}
        self.queues: dict[str, QueueUse] = {}
        self.rate, self.busiest, self.still_s = 0.0, "", 0.0

    def flushed(self, records: tuple[MetricRecord, ...]) -> None:
        self.records += records
        if len(self.records) > MOST_WAITING:  # nobody has ended a window for long
            self.records = list(merged(self.records, over_time=True))
        for record in records:
            self.queues |= {f"{record.stage}.{m.name}": m for m in record.metrics if isinstance(m, QueueUse)}
            levels = tuple(m for m in record.metrics if isinstance(m, Gauge))
            if levels:
                self.levels[record.part] = MetricRecord(record.stage, record.stage_type, levels)

    def view(self, partition: int) -> SlotView:
        """What is to be told of it."""
        fill, full = max(((q.fill_max / q.capacity, name) for name, q in self.queues.items()), default=(0.0, ""))
        return SlotView(
            partition, self.samples, self.rate, self.busiest, self.still_s, full if self.still_s and fill >= 1 else ""
        )

    def roll(self, window_s: float) -> None:
        """A window ended."""
        self.rate = self.packed / window_s
        # what kept it busy when it stopped is what it hangs at
        self.busiest = busiest(self.records) or (self.busiest if not self.packed else "")
        self.still_s = 0.0 if self.packed else self.still_s + window_s
        self.packed, self.records = 0, []


class Aggregate:
    """An observer that keeps totals. `roll` ends a window, `snapshot` may be asked by any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._started = self._window_from = clock()
        self._window: dict[tuple[str, str], MetricRecord] = {}
        self._total: dict[tuple[str, str], MetricRecord] = {}
        # adding up many flushes at a time, when somebody asks, costs less than each when it comes
        self._waiting: list[MetricRecord] = []
        self._counts, self._window_counts = dict.fromkeys(COUNTED, 0), dict.fromkeys(COUNTED, 0)
        self._last: tuple[MetricRecord, ...] = ()
        self._last_s = 0.0
        self._slots: dict[int, _Slot] = {}
        self._planned: RunPlanned | None = None
        self._done = 0
        self._state: Literal["starting", "running", "ended"] = "starting"

    def __call__(self, event: Event, /) -> None:
        with self._lock:
            if isinstance(event, SamplesPacked):  # most are
                self._counts["samples_packed"] += event.samples
                self._window_counts["samples_packed"] += event.samples
                if slot := self._slots.get(event.partition):
                    slot.samples += event.samples
                    slot.packed += event.samples
                return
            match event:
                case RunPlanned():
                    self._planned, self._done, self._state = event, event.done, "running"
                case PartitionClaimed(partition=partition, index=index):
                    self._slots[partition] = _Slot(index)
                case Flushed(partition=partition, records=records):
                    self._waiting += records
                    if len(self._waiting) > MOST_WAITING:
                        self._add_up()
                    if slot := self._slots.get(partition):
                        slot.flushed(records)
                case ShardCommitted():
                    self._count(
                        samples_committed=event.samples,
                        samples_failed=event.failed,
                        bytes_committed=event.bytes,
                        shards_committed=int(event.key is not None),
                    )
                case PartitionDone(partition=partition):
                    self._done += 1
                    self._count(samples_failed=event.failed)
                    self._slots.pop(partition, None)
                case PartitionFailed(partition=partition) | SlotLost(partition=partition):
                    self._count(workers_lost=int(isinstance(event, SlotLost)))
                    self._slots.pop(-1 if partition is None else partition, None)
                case _:
                    pass

    def end(self) -> None:
        """The run is over, whatever came of it."""
        with self._lock:
            self._state = "ended"
            self._slots.clear()

    def roll(self) -> None:
        """End the window: from now on it is the last one, and another begins."""
        with self._lock:
            self._add_up()
            clock = self._clock()
            self._last_s = max(clock - self._window_from, 1e-9)
            self._last = (_whole(self._window_counts), *self._window.values())
            self._window, self._window_counts, self._window_from = {}, dict.fromkeys(COUNTED, 0), clock
            for slot in self._slots.values():
                slot.roll(self._last_s)

    def snapshot(self) -> Snapshot:
        """The last window that ended, and the totals up to now."""
        with self._lock:
            self._add_up()
            planned = self._planned
            levels = merged((r for s in self._slots.values() for r in s.levels.values()), over_time=False)
            return Snapshot(
                run=planned.run if planned else "",
                destination=planned.destination if planned else "",
                state=self._state,
                pid=os.getpid(),
                at=self._now(),
                seconds=self._clock() - self._started,
                window_s=self._last_s,
                last=merged([*self._last, *levels], over_time=True),
                total=merged([_whole(self._counts), *self._total.values(), *levels], over_time=True),
                slots=tuple(s.view(n) for n, s in sorted(self._slots.items())),
                partitions=planned.partitions if planned else 0,
                partitions_done=self._done,
                samples_expected=planned.samples if planned else None,
                samples_before=planned.samples_done if planned else 0,
            )

    def _count(self, **counts: int) -> None:
        for name, value in counts.items():
            self._counts[name] += value
            self._window_counts[name] += value

    def _add_up(self) -> None:
        """Levels are kept by slot, everything else adds up."""
        waiting, self._waiting = self._waiting, []
        for record in merged(waiting, over_time=True):
            sums: tuple[Metric, ...] = tuple(m for m in record.metrics if not isinstance(m, Gauge))
            kept = MetricRecord(record.stage, record.stage_type, sums)
            for book in (self._window, self._total):
                before = book.get(record.part)
                book[record.part] = before.then(kept) if before else kept


def _whole(counts: Mapping[str, int]) -> MetricRecord:
    return MetricRecord(RUN, RUN, tuple(Count(name, value) for name, value in counts.items()))
