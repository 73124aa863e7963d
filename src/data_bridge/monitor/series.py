"""A snapshot as Prometheus series. A metric of a stage's own needs nothing here: its name is the name of its series."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from data_bridge.model.metrics import Count, Gauge, Load, Metric, MetricRecord, QueueUse, Statistics
from data_bridge.monitor.snapshot import RUN, Snapshot

PREFIX = "data_bridge_"
CATALOGUE: Mapping[str, str] = MappingProxyType(
    {
        "samples_packed_total": "Source samples packed by this run; what a lost worker packed in vain counts too",
        "samples_committed_total": "Samples in shards that this run recorded in the ledger",
        "samples_failed_total": "Samples left out because of an error",
        "shards_committed_total": "Shards uploaded, verified and recorded",
        "bytes_committed_total": "Bytes of those shards",
        "workers_lost_total": "Worker processes that died or hung and were replaced",
        "run_seconds": "Seconds since the start of the run",
        "partitions": "Partitions of the plan",
        "partitions_done": "Partitions at their end",
        "partitions_working": "Partitions in work",
        "samples_expected": "Samples of the source, where the plan knows",
        "samples_before": "Samples committed by earlier runs",
        "slot_samples": "How far a partition in work is, in samples from its start",
        "rows_in_total": "Rows that entered a part",
        "rows_out_total": "Rows that left it",
        "failed_total": "Rows it could not use",
        "dropped_total": "Rows it left out on purpose",
        "bypassed_total": "Rows that passed a stage unchanged while it was switched off",
        "bytes_total": "Bytes that passed it",
        "shards_total": "Shards that passed it",
        "busy_seconds_total": "Seconds at work, over all workers of a part",
        "waiting_seconds_total": "Seconds spent waiting, over all workers of a part",
        "queue_put_total": "Items handed to a queue, dropped ones among them",
        "queue_got_total": "Items taken out of it",
        "queue_dropped_total": "Items lost in it",
        "queue_fill": "How full it was in the last second: lowest, average, highest",
        "queue_capacity": "Items it holds at most",
        "memory_bytes": "Bytes in flight, of the memory budget of all workers",
        "memory_bytes_capacity": "That budget",
        "pool_bytes": "Bytes that packets have of a named pool",
        "pool_bytes_capacity": "What it holds",
        "pool_waits_total": "Times a packet found no memory in a pool",
        "pool_leaked": "Leases that ended because nobody had them any more: an error of the program",
        "staged_bytes": "Bytes of shards that wait for their upload or commit",
        "staged_bytes_capacity": "What may wait there",
        "answers_total": "Answers that this run paid for",
        "tokens_in_total": "Tokens that were sent for them",
        "tokens_out_total": "Tokens that came back",
        "cost_usd": "What each of them cost; `…_sum` is what this run has paid",
        "cost_usd_min": "The cheapest of them",
        "cost_usd_max": "The dearest of them",
        "upload_seconds": "How long uploads of shards took",
        "upload_seconds_min": "The shortest of them",
        "upload_seconds_max": "The longest of them",
    }
)
"""Every series of the product itself, without its prefix. `docs/metrics.md` tells the same."""


class Sample(msgspec.Struct, frozen=True):
    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(msgspec.Struct):
    """All series of one name. A `counter`'s name is without its `_total`."""

    name: str
    kind: Literal["counter", "gauge", "summary"]
    help: str
    samples: list[Sample] = msgspec.field(default_factory=list)


def families(snapshot: Snapshot) -> list[Family]:
    """The whole run as series, each with the label `run`."""
    found: dict[str, Family] = {}
    for name, kind, labels, value, suffix in _series(snapshot):
        bare = name.removesuffix("_total")
        text = CATALOGUE.get(name, f"`{name}`, as its stage counts it")
        # the first use of a name decides its kind: one name must not be two kinds of series
        family = found.setdefault(bare, Family(PREFIX + bare, kind, text))
        if family.kind == kind:
            family.samples.append(Sample({"run": snapshot.run, **labels}, value, suffix))
    return list(found.values())


_Series = tuple[str, Literal["counter", "gauge", "summary"], Mapping[str, str], float, str]


def _series(snapshot: Snapshot) -> Iterator[_Series]:
    yield "run_seconds", "gauge", {}, snapshot.seconds, ""
    yield "partitions", "gauge", {}, snapshot.partitions, ""
    yield "partitions_done", "gauge", {}, snapshot.partitions_done, ""
    yield "partitions_working", "gauge", {}, len(snapshot.slots), ""
    yield "samples_before", "gauge", {}, snapshot.samples_before, ""
    if snapshot.samples_expected is not None:
        yield "samples_expected", "gauge", {}, snapshot.samples_expected, ""
    for slot in snapshot.slots:
        yield "slot_samples", "gauge", {"partition": str(slot.partition)}, slot.samples, ""
    now = {record.part: record for record in snapshot.last}
    for record in snapshot.total:
        labels = {} if record.stage == RUN else {"stage": record.stage, "type": record.stage_type}
        for metric in record.metrics:
            yield from _of(metric, labels, now.get(record.part))


def _of(metric: Metric, labels: Mapping[str, str], last: MetricRecord | None) -> Iterator[_Series]:
    name = re.sub(r"[^a-zA-Z0-9_]", "_", metric.name)
    match metric:
        case Count():
            yield f"{name}_total", "counter", labels, metric.value, ""
        case Load():
            named = labels if name == "load" else {**labels, "load": metric.name}
            yield "busy_seconds_total", "counter", named, metric.busy_s, ""
            yield "waiting_seconds_total", "counter", named, metric.waiting_s, ""
        case Gauge():
            yield name, "gauge", labels, metric.value, ""
            if metric.capacity is not None:
                yield f"{name}_capacity", "gauge", labels, metric.capacity, ""
        case Statistics():
            yield name, "summary", labels, metric.count, "_count"
            yield name, "summary", labels, metric.sum, "_sum"
            yield f"{name}_min", "gauge", labels, metric.min, ""
            yield f"{name}_max", "gauge", labels, metric.max, ""
        case QueueUse():
            yield from _queue(metric, {**labels, "queue": metric.name}, last)


def _queue(total: QueueUse, labels: Mapping[str, str], last: MetricRecord | None) -> Iterator[_Series]:
    yield "queue_put_total", "counter", labels, total.put, ""
    yield "queue_got_total", "counter", labels, total.got, ""
    yield "queue_dropped_total", "counter", labels, total.dropped, ""
    yield "queue_capacity", "gauge", labels, total.capacity, ""
    use = (last.get(QueueUse, total.name) if last else None) or QueueUse(total.name)
    for level, value in (("min", use.fill_min), ("avg", use.fill_avg), ("max", use.fill_max)):
        yield "queue_fill", "gauge", {**labels, "level": level}, value, ""
