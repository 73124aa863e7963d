"""What `watch` shows of a moment of a run, before anything is drawn. Rows come from whatever reports."""

from collections.abc import Sequence

import msgspec

from data_bridge.cli.words import STANDSTILL_S, size
from data_bridge.model.metrics import Count, Gauge, Load, MetricRecord, QueueUse, Statistics
from data_bridge.model.outline import Box, tree
from data_bridge.monitor.folder import is_running
from data_bridge.monitor.snapshot import RUN, SlotView, Snapshot

BAR = 10
ROWS = ("rows_in", "rows_out", "failed", "dropped")
"""Counts with columns of their own; all others are told by name."""
STEPS = ("ShardFinished", "ShardUploaded")


class PartRow(msgspec.Struct, frozen=True):
    """One part of the run."""

    key: str
    name: str
    kind: str
    rate: float
    """Rows out a second, or bytes for a part that has none."""
    rate_text: str
    total: str
    failed: int
    dropped: int
    busy: float
    """Cores at work."""
    waiting: float
    more: str
    busiest: bool
    moves: bool
    """Whether it ever does anything that has a rate."""


class QueueRow(msgspec.Struct, frozen=True):
    """One queue, or one level with a capacity."""

    key: str
    name: str
    rate: float
    total: int
    dropped: int
    fill: str
    full: float


def head(snapshot: Snapshot, control_state: str, now: float) -> tuple[str, str]:
    """Where the run stands, in two lines."""
    state: str = snapshot.state if is_running(snapshot, now) else "ended"
    if snapshot.state != "ended" and state == "ended":
        state = f"silent for {now - snapshot.at:.0f} s: it was killed, or its machine sleeps"
    elif state == "running" and control_state:
        state = control_state
    done = snapshot.samples_before + snapshot.amount(RUN, "samples_packed")
    expected = snapshot.samples_expected
    amount = f"{done:,} of {expected:,} samples ({100 * done / expected:.0f} %)" if expected else f"{done:,} samples"
    rate = snapshot.rate(RUN, "samples_packed")
    parts = [f"{amount}, {rate:,.0f}/s"]
    if expected and rate and state == "running":
        left = max(expected - done, 0) / rate
        parts.append(f"{int(left // 3600):02d}:{int(left % 3600 // 60):02d}:{int(left % 60):02d} left")
    shards, bytes_ = snapshot.amount(RUN, "shards_committed"), snapshot.amount(RUN, "bytes_committed")
    parts.append(f"{shards:,} shards committed ({size(bytes_)}, {size(snapshot.rate(RUN, 'bytes_committed'))}/s)")
    parts.append(f"{snapshot.partitions_done} of {snapshot.partitions} partitions done")
    for count, words in (("samples_failed", "samples failed"), ("workers_lost", "workers lost")):
        if number := snapshot.amount(RUN, count):
            parts.append(f"{number:,} {words}")
    return f"run {snapshot.run}  {state}  →  {snapshot.destination}", "  ·  ".join(parts)


def part_rows(snapshot: Snapshot, boxes: Sequence[Box]) -> list[PartRow]:
    """The parts in the order of the graph, then those that are not in it."""
    total = {record.part: record for record in snapshot.total if record.stage != RUN}
    last = {record.part: record for record in snapshot.last}
    names: dict[tuple[str, str], str] = {}
    for branch, box in tree(boxes):
        own = next((part for part in total if part[0] == box.name), (box.name, box.kind))
        names[own] = branch + box.name
    kinds = {box.name: box.kind for box in boxes}
    names |= {part: part[0] for part in total if part not in names}
    most = max((_busy(record) for record in last.values()), default=0.0)
    return [
        _row(part, name, kinds.get(part[0], part[1]), total.get(part), last.get(part), snapshot.window_s, most)
        for part, name in names.items()
    ]


def _row(
    part: tuple[str, str],
    name: str,
    kind: str,
    total: MetricRecord | None,
    last: MetricRecord | None,
    window_s: float,
    most: float,
) -> PartRow:
    total, last = total or MetricRecord(*part), last or MetricRecord(*part)
    seconds = window_s or 1.0
    has_rows = total.get(Count, "rows_out") is not None
    count = "rows_out" if has_rows else "bytes"
    rate, amount = last.count(count) / seconds, total.count(count)
    busy = _busy(last)
    return PartRow(
        " ".join(part),
        name,
        kind,
        rate,
        f"{rate:,.0f}" if has_rows else f"{size(rate)}",
        f"{amount:,}" if has_rows else size(amount),
        total.count("failed"),
        total.count("dropped"),
        busy / seconds,
        sum(m.waiting_s for m in last.metrics if isinstance(m, Load)) / seconds,
        _more(total, has_rows=has_rows),
        busiest=busy > 0 and busy == most,
        moves=has_rows or total.get(Count, "bytes") is not None,
    )


def _busy(record: MetricRecord) -> float:
    return sum(m.busy_s for m in record.metrics if isinstance(m, Load))


def _more(total: MetricRecord, *, has_rows: bool) -> str:
    """Every metric that has no column."""
    told = []
    for metric in total.metrics:
        match metric:
            case Count() if metric.name not in ROWS and (has_rows or metric.name != "bytes"):
                told.append(f"{metric.name} {metric.value:,}")
            case Gauge(capacity=None):
                told.append(f"{metric.name} {metric.value:g}")
            case Statistics(name="cost_usd"):
                told.append(f"${metric.sum:,.4f} paid")
            case Statistics() if metric.count:
                told.append(
                    f"{metric.name} {metric.min:.3g}…{metric.sum / metric.count:.3g}…{metric.max:.3g}{_quantiles(metric)}"
                )
            case _:
                pass
    return ", ".join(told)


def _quantiles(seen: Statistics) -> str:
    half, most = seen.quantile(0.5), seen.quantile(0.95)
    return "" if half is None or most is None else f" (p50 {half:.3g}, p95 {most:.3g})"


def queue_rows(snapshot: Snapshot) -> list[QueueRow]:
    """Queues and levels with a capacity."""
    last = {record.part: record for record in snapshot.last}
    found: list[QueueRow] = []
    for record in snapshot.total:
        now = last.get(record.part) or MetricRecord(*record.part)
        for metric in record.metrics:
            key = f"{' '.join(record.part)} {metric.name}"
            name = f"{record.stage}.{metric.name}"
            if isinstance(metric, QueueUse):
                use = now.get(QueueUse, metric.name) or QueueUse(metric.name)
                full = use.fill_avg / metric.capacity if metric.capacity else 0.0
                fill = f"{bar(full)} {use.fill_avg:.1f} of {metric.capacity}"
                rate = use.got / (snapshot.window_s or 1.0)
                found.append(QueueRow(key, name, rate, metric.got, metric.dropped, fill, full))
            elif isinstance(metric, Gauge) and metric.capacity:
                full = metric.value / metric.capacity
                fill = f"{bar(full)} {size(metric.value)} of {size(metric.capacity)}"
                found.append(QueueRow(key, name.removesuffix("_bytes"), -1.0, -1, 0, fill, full))
    return found


def bar(full: float) -> str:
    """A bar as full as the queue."""
    filled = min(BAR, round(BAR * max(full, 0.0)))
    return "█" * filled + "░" * (BAR - filled)


def standstill(slot: SlotView) -> str:
    """Why a slot does not move, as far as it can be seen; "" for one that does."""
    if slot.still_s < STANDSTILL_S:
        return ""
    full = f", {slot.full} is full" if slot.full else ""
    return f"has not moved for {slot.still_s:.0f} s{full}"


def event_line(told: dict[str, object]) -> str:
    """An event for the log: what it is and what it says; "" for a step on the way to another event."""
    if told["event"] in STEPS:
        return ""
    values = {k: v for k, v in told.items() if k not in ("at", "event") and v not in (None, "", {})}
    if told["event"] == "Notice":
        return str(values.get("message", ""))
    return f"{told['event']}  " + ", ".join(f"{key} {value}" for key, value in values.items())
