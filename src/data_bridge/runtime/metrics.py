"""Counting while a slot works: cheap to add to from any thread, flushed as values every moment."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Protocol

from data_bridge.model import spread
from data_bridge.model.metrics import Count, Gauge, Load, Metric, MetricRecord, QueueUse, Statistics

FLUSH_S = 0.2
"""Flushes are at least this far apart."""


class Work(Protocol):
    """What one stage did with one batch."""

    @property
    def name(self) -> str: ...
    @property
    def rows_in(self) -> int: ...
    @property
    def rows_out(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def bypassed(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def metrics(self) -> Sequence[Metric]: ...


class Flushable(Protocol):
    """What counts for itself, like a queue or a pool: a snapshot, and counting starts anew."""

    def flush(self) -> Metric: ...


class Part:
    """Counters of one part of a slot. Made by `SlotMetrics.part`."""

    def __init__(self, stage: str, stage_type: str, lock: threading.Lock, clock: Callable[[], float]) -> None:
        self._stage = stage
        self._type = stage_type
        self._lock = lock
        self._clock = clock
        self._busy: dict[str, list[float]] = {}
        self._row_s: dict[int, int] = {}
        self._counts: dict[str, int] = {}
        self._gauges: dict[str, Gauge] = {}
        self._statistics: dict[str, Statistics] = {}
        self._own: MetricRecord | None = None
        self._sources: list[Flushable] = []

    def count(self, **more: int) -> None:
        """Add to counts, by name."""
        with self._lock:
            for name, value in more.items():
                self._counts[name] = self._counts.get(name, 0) + value

    def load(self, busy_s: float = 0.0, waiting_s: float = 0.0, name: str = "load") -> None:
        """Add seconds at work and seconds of waiting."""
        with self._lock:
            total = self._busy.setdefault(name, [0.0, 0.0])
            total[0] += busy_s
            total[1] += waiting_s

    def work(self, works: Iterable[Work]) -> None:
        """Add what a stage did with some batches."""
        rows_in = rows_out = failed = dropped = bypassed = 0
        busy_s = 0.0
        with self._lock:
            for work in works:
                rows_in += work.rows_in
                rows_out += work.rows_out
                failed += work.failed
                dropped += work.dropped
                bypassed += work.bypassed
                busy_s += work.seconds
                if work.rows_in:
                    spread.add(self._row_s, work.seconds / work.rows_in, work.rows_in)
                if work.metrics:
                    own = MetricRecord(self._stage, self._type, tuple(work.metrics))
                    self._own = own if self._own is None else self._own.then(own)
            found = {"rows_in": rows_in, "rows_out": rows_out}
            if failed or dropped:
                found |= {"failed": failed, "dropped": dropped}
            if bypassed:
                found["bypassed"] = bypassed
            for name, value in found.items():
                self._counts[name] = self._counts.get(name, 0) + value
            self._busy.setdefault("load", [0.0, 0.0])[0] += busy_s

    @contextmanager
    def working(self, name: str = "load") -> Generator[None]:
        """The block's time was work."""
        began = self._clock()
        try:
            yield
        finally:
            self.load(busy_s=self._clock() - began, name=name)

    @contextmanager
    def waiting(self, name: str = "load") -> Generator[None]:
        """The block's time was waiting."""
        began = self._clock()
        try:
            yield
        finally:
            self.load(waiting_s=self._clock() - began, name=name)

    def gauge(self, name: str, value: float, capacity: float | None = None) -> None:
        """A level as it is now."""
        with self._lock:
            self._gauges[name] = Gauge(name, value, capacity)

    def statistics(self, name: str, value: float) -> None:
        """One value of many."""
        with self._lock:
            seen = self._statistics.get(name, Statistics(name))
            self._statistics[name] = seen.then(Statistics.of(name, (value,)))

    def also(self, source: Flushable) -> None:
        """Flush this with the part: a queue before or behind it, its pool."""
        with self._lock:
            self._sources.append(source)

    def flush(self) -> MetricRecord | None:
        """Everything since the last flush, or None where nothing happened; levels stay as they are."""
        with self._lock:
            busy, self._busy = self._busy, {}
            counts, self._counts = self._counts, {}
            seen, self._statistics = self._statistics, {}
            own, self._own = self._own, None
            rows, self._row_s = self._row_s, {}
            metrics: list[Metric] = [
                Load(name, busy_s, waiting_s, rows if name == "load" else {})
                for name, (busy_s, waiting_s) in busy.items()
            ]
            metrics += [Count(name, value) for name, value in counts.items() if value]
            metrics += [*self._gauges.values(), *seen.values()]
            sources = tuple(self._sources)
        metrics += [source.flush() for source in sources]
        record = MetricRecord(self._stage, self._type, tuple(metrics))
        record = record if own is None else record.then(own)
        return record if record.metrics else None


class SlotMetrics:
    """The parts of one slot while it works on a partition, in the order in which data passes them."""

    def __init__(self, *, every_s: float = FLUSH_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._parts: dict[str, Part] = {}
        self._due = clock() + every_s

    def part(self, stage: str, stage_type: str) -> Part:
        """The counters of a part; the same ones for the same name."""
        found = self._parts.get(stage)
        if found is None:
            with self._lock:
                found = self._parts.setdefault(stage, Part(stage, stage_type, threading.Lock(), self._clock))
        return found

    def add_work(self, works: Iterable[tuple[Work, str]]) -> None:
        """Add what stages, each of some type, did with batches."""
        found: dict[tuple[str, str], list[Work]] = {}
        for work, stage_type in works:
            found.setdefault((work.name, stage_type), []).append(work)
        for (name, stage_type), each in found.items():
            self.part(name, stage_type).work(each)

    @property
    def due(self) -> bool:
        """Whether it is time for the next flush."""
        return self._clock() >= self._due

    def flush(self, *, now: bool = False) -> tuple[MetricRecord, ...] | None:
        """What was counted since the last flush; None while it is too early (unless `now`) or there is nothing."""
        clock = self._clock()
        with self._lock:
            if clock < self._due and not now:
                return None
            self._due = clock + self._every_s
            parts = tuple(self._parts.values())
        records = tuple(record for part in parts if (record := part.flush()) is not None)
        return records or None


def use_of(name: str, levels: "Levels", capacity: int) -> QueueUse:
    """A queue's counters as a value."""
    average = levels.total / levels.looks if levels.looks else 0.0
    lowest, highest = (levels.lowest, levels.highest) if levels.looks else (0, 0)
    return QueueUse(name, levels.put, levels.got, levels.dropped, lowest, average, highest, levels.looks, capacity)


class Levels:
    """Counters of a queue; whoever uses it holds the queue's lock."""

    __slots__ = ("dropped", "got", "highest", "looks", "lowest", "put", "total")

    def __init__(self) -> None:
        self.put = self.got = self.dropped = 0
        self.lowest, self.highest, self.total, self.looks = 1 << 62, 0, 0, 0

    def look(self, fill: int) -> None:
        """The queue is this full now."""
        self.lowest = min(self.lowest, fill)
        self.highest = max(self.highest, fill)
        self.total += fill
        self.looks += 1
