"""What the parts of a running slot count, as values that add up: over time with `then`, over slots with `beside`.

A metric of one's own is a new name, no new kind.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from data_bridge.model import spread


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Seconds at work, and seconds spent waiting for something to do or for room, over all workers of a part."""

    name: str = "load"
    busy_s: float = 0.0
    waiting_s: float = 0.0
    row_s: dict[int, int] = {}
    """How the seconds at work are spread over rows (`model/spread.py`), where there are rows: each of a packet has its share."""

    def then(self, later: "Load") -> "Load":
        rows = spread.both(self.row_s, later.row_s)
        return Load(self.name, self.busy_s + later.busy_s, self.waiting_s + later.waiting_s, rows)

    beside = then


class QueueUse(msgspec.Struct, frozen=True, tag="queue"):
    """What went through a queue and how full it was: `fill_avg` over `samples` looks at it, one after each change."""

    name: str
    put: int = 0
    """Items handed to it, dropped ones among them."""
    got: int = 0
    dropped: int = 0
    fill_min: int = 0
    fill_avg: float = 0.0
    fill_max: int = 0
    samples: int = 0
    capacity: int = 0

    def then(self, later: "QueueUse") -> "QueueUse":
        looks = self.samples + later.samples
        seen = [use for use in (self, later) if use.samples]
        return QueueUse(
            self.name,
            self.put + later.put,
            self.got + later.got,
            self.dropped + later.dropped,
            min((use.fill_min for use in seen), default=0),
            sum(use.fill_avg * use.samples for use in seen) / looks if looks else 0.0,
            max((use.fill_max for use in seen), default=0),
            looks,
            later.capacity or self.capacity,
        )

    beside = then


class Count(msgspec.Struct, frozen=True, tag="count"):
    """How often something happened, or how much of it."""

    name: str
    value: int = 0

    def then(self, later: "Count") -> "Count":
        return Count(self.name, self.value + later.value)

    beside = then


class Gauge(msgspec.Struct, frozen=True, tag="gauge"):
    """A level: the last one counts. Levels of several slots add up, as do their capacities."""

    name: str
    value: float = 0.0
    capacity: float | None = None

    def then(self, later: "Gauge") -> "Gauge":
        return later

    def beside(self, other: "Gauge") -> "Gauge":
        both = [c for c in (self.capacity, other.capacity) if c is not None]
        return Gauge(self.name, self.value + other.value, sum(both) if both else None)


class Statistics(msgspec.Struct, frozen=True, tag="statistics"):
    """Values seen one by one; `of` makes one of some. Made by hand it has no quantiles."""

    name: str
    min: float = 0.0
    max: float = 0.0
    sum: float = 0.0
    count: int = 0
    latest: float = 0.0
    buckets: dict[int, int] = {}
    """How they are spread (`model/spread.py`)."""

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> "Statistics":
        """Of these values, in the order in which they were seen."""
        if not values:
            return cls(name)
        buckets: dict[int, int] = {}
        for value in values:
            spread.add(buckets, value)
        return cls(name, min(values), max(values), sum(values), len(values), values[-1], buckets)

    def quantile(self, share: float) -> float | None:
        """The value that this share of them is not above, within 2 %; None where that is not known of all."""
        if not self.count or sum(self.buckets.values()) != self.count:
            return None
        found = spread.quantile(self.buckets, share)
        return None if found is None else min(max(found, self.min), self.max)

    def then(self, later: "Statistics") -> "Statistics":
        if not self.count or not later.count:
            return later if later.count else self
        return Statistics(
            self.name,
            min(self.min, later.min),
            max(self.max, later.max),
            self.sum + later.sum,
            self.count + later.count,
            later.latest,
            spread.both(self.buckets, later.buckets),
        )

    beside = then


Metric: TypeAlias = Load | QueueUse | Count | Gauge | Statistics
M = TypeVar("M", Load, QueueUse, Count, Gauge, Statistics)


class MetricRecord(msgspec.Struct, frozen=True):
    """What one part of a slot (the source, a stage, the uploads, …) counted since its record before."""

    stage: str
    stage_type: str
    """What kind of part it is: `source`, `map`, `writer`, `upload`, …"""
    metrics: tuple[Metric, ...] = ()

    @property
    def part(self) -> tuple[str, str]:
        """What tells it from others: a stage of the user's may have the name of something of ours."""
        return self.stage, self.stage_type

    def get(self, kind: type[M], name: str) -> M | None:
        """Its metric of this kind and name."""
        return next((m for m in self.metrics if isinstance(m, kind) and m.name == name), None)

    def count(self, name: str) -> int:
        """Its count of this name; 0 where it has none."""
        found = self.get(Count, name)
        return found.value if found else 0

    def then(self, later: "MetricRecord") -> "MetricRecord":
        """Both records of the same part, `later` being the newer one."""
        return self._merged(later, over_time=True)

    def beside(self, other: "MetricRecord") -> "MetricRecord":
        """Records of the same part in two slots."""
        return self._merged(other, over_time=False)

    def _merged(self, other: "MetricRecord", *, over_time: bool) -> "MetricRecord":
        merged: dict[tuple[type, str], Metric] = {(type(m), m.name): m for m in self.metrics}
        for metric in other.metrics:
            key = (type(metric), metric.name)
            before = merged.get(key)
            merged[key] = metric if before is None else _both(before, metric, over_time=over_time)
        return MetricRecord(self.stage, self.stage_type, tuple(merged.values()))


def _both(before: Metric, after: Metric, *, over_time: bool) -> Metric:
    join = before.then if over_time else before.beside
    return join(after)  # type: ignore[arg-type]  # both are of one kind


def merged(records: Iterable[MetricRecord], *, over_time: bool) -> tuple[MetricRecord, ...]:
    """One record for each part, in the order in which the parts first appear."""
    found: dict[tuple[str, str], MetricRecord] = {}
    for record in records:
        before = found.get(record.part)
        if before is None:
            found[record.part] = record
        else:
            found[record.part] = before.then(record) if over_time else before.beside(record)
    return tuple(found.values())
