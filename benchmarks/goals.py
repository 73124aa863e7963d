"""The goals, as data: what is divided by what, and the bound. Nothing here measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Results = Mapping[str, Any]
"""The `works` of a results file: name → {title, ways: {name: {costs, size, …}}}."""
Measure = Literal["cpu_s", "wall_s", "memory_mb", "answer_ms", "metrics_percent"]
Pick = Literal["least", "most", "sum"]


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of one figure of a way; of several ways, the least, the most or all together."""

    work: str
    ways: str | tuple[str, ...]
    of: Measure
    pick: Pick = "least"
    less: str | tuple[str, ...] = ""
    """A way whose median is taken off: what SHA-256 alone costs, or starting up; one for each of several ways."""
    each: bool = False
    """Divided by the way's size: per sample, per shard."""

    def value(self, results: Results) -> float | None:
        """None where it was not measured."""
        names = (self.ways,) if isinstance(self.ways, str) else self.ways
        less = (self.less,) * len(names) if isinstance(self.less, str) else self.less
        found = [v for v in (self._of(results, *pair) for pair in zip(names, less, strict=True)) if v is not None]
        if not found or (self.pick == "sum" and len(found) < len(names)):
            return None
        match self.pick:
            case "least":
                return min(found)
            case "most":
                return max(found)
            case "sum":
                return sum(found)

    def _of(self, results: Results, name: str, less: str) -> float | None:
        ways = results.get(self.work, {}).get("ways", {})
        row = ways.get(name, {})
        if not row.get("costs"):
            return None
        value = float(median(cost[self.of] for cost in row["costs"]))
        if less:
            off = ways.get(less, {}).get("costs")
            if not off:
                return None
            value -= float(median(cost[self.of] for cost in off))
        return value / row["size"] if self.each else value


@dataclass(frozen=True, slots=True)
class Goal:
    """`top` over `bottom` (or `top` alone) against a bound."""

    work: str
    says: str
    at: Literal["≥", "≤"]
    bound: float
    top: Figure | None = None
    bottom: Figure | None = None
    over: float = 1
    """What `top` alone is divided by: slots, or a unit."""
    unit: str = "×"

    def measured(self, results: Results) -> float | None:
        """None where a part of it was not measured."""
        top = self.top.value(results) if self.top else None
        if top is None:
            return None
        if self.bottom is None:
            return top / self.over
        bottom = self.bottom.value(results)
        return top / bottom if bottom is not None and bottom > 0 else None

    def holds(self, measured: float) -> bool:
        return measured >= self.bound if self.at == "≥" else measured <= self.bound


def _less_cpu(work: str, bound: float, peer: str, title: str, *, ours: str = "ours-0", less: str = "") -> Goal:
    return Goal(
        work, f"less CPU than {title}", "≥", bound, Figure(work, peer, "cpu_s"), Figure(work, ours, "cpu_s", less=less)
    )


def _faster_with_two(work: str, bound: float) -> Goal:
    two = Figure(work, "ours-2", "wall_s")
    return Goal(work, "the throughput with 2 slots of that with 1", "≥", bound, Figure(work, "ours-0", "wall_s"), two)


def _between_buckets(work: str, bound: float) -> tuple[Goal, Goal]:
    parts = Figure(work, ("read", "pack", "send"), "wall_s", pick="most")
    return (
        _less_cpu(work, bound, "smart_open", "smart-open + ShardWriter + boto3"),
        Goal(work, "wall of the slowest part alone, 2 slots", "≤", 1.2, Figure(work, "ours-2", "wall_s"), parts),
    )


def _first_sample(kind: str, title: str) -> Goal:
    resumed, fresh = (Figure("W6", f"{kind}-{way}", "wall_s") for way in ("resumed", "fresh"))
    return Goal("W6", f"first new sample at 90 % in the time of a fresh start, {title}", "≤", 1.2, resumed, fresh)


def _per_shard(what: str, *done: str) -> Goal:
    def figure(size: str) -> Figure:
        ways, started = (tuple(f"{each}-{of}" for each in done) for of in (size, "one"))
        return Figure("ledger", ways, "cpu_s", pick="sum", less=started, each=True)

    says = f"{what}: cost per shard of that with a tenth of the shards"
    return Goal("ledger", says, "≤", 1.1, figure("many"), figure("few"))


ON_A_LEDGER = ("resume", "finalize", "status", "verify")
UPLOADERS = ("boto3_put", "boto3_upload", "obstore", "rclone", "s5cmd")

GOALS: Sequence[Goal] = (
    _less_cpu("W2", 18, "datasets", "`datasets` streaming + ShardWriter"),
    _less_cpu("W2", 11, "loop", "a json loop + ShardWriter"),
    _less_cpu("W2", 5, "tuned", "the tuned loop"),
    Goal("W2", "the CPU of the floor", "≤", 5, Figure("W2", "ours-0", "cpu_s"), Figure("W2", "floor", "cpu_s")),
    _faster_with_two("W2", 1.7),
    _less_cpu("W2g", 18, "datasets", "`datasets` streaming + ShardWriter"),
    _less_cpu("W2g", 12, "loop", "a json loop + ShardWriter"),
    _faster_with_two("W2g", 1.6),
    _less_cpu("W1", 2.5, "datasets", "`datasets` streaming + ShardWriter, our SHA-256 counted"),
    _less_cpu("W1", 5, "datasets", "`datasets` streaming + ShardWriter, SHA-256 taken off ours", less="sha256"),
    Goal("W1", "the memory of `datasets`", "≤", 0.2,
         Figure("W1", "ours-0", "memory_mb"), Figure("W1", "datasets", "memory_mb")),
    Goal("W1", "wall of reading the Parquet and writing the same bytes, 2 slots", "≤", 1.5,
         Figure("W1", "ours-2", "wall_s"), Figure("W1", "same_bytes", "wall_s")),
    _less_cpu("W3", 6, "litdata-1", "`litdata.optimize`, columns, 1 worker"),
    _less_cpu("W3", 6, "litdata-2", "`litdata.optimize`, columns, 2 workers; ours with 2 slots", ours="ours-2"),
    _less_cpu("W3", 9, "litdata-pylist", "`litdata.optimize`, to_pylist, 1 worker"),
    _less_cpu("W3", 5, "mds", "`MDSWriter`, columns"),
    Goal("W4", "the CPU of boto3 `put_object`", "≤", 1.05,
         Figure("W4", "ours", "cpu_s"), Figure("W4", "boto3_put", "cpu_s")),
    Goal("W4", "wall of the fastest of boto3, obstore, rclone, s5cmd", "≤", 1.1,
         Figure("W4", "ours", "wall_s"), Figure("W4", UPLOADERS, "wall_s")),
    _less_cpu("W1u", 2, "img2dataset", "img2dataset"),
    *_between_buckets("W5a", 2.5),
    *_between_buckets("W5b", 15),
    _first_sample("parquet", "Parquet"),
    _first_sample("jsonl", "JSON lines"),
    _first_sample("csv", "CSV"),
    _first_sample("tar", "tar"),
    _first_sample("hub", "Hub Parquet"),
    Goal("start", "CPU of `--help`", "≤", 0.2, Figure("start", "help", "cpu_s"), unit=" s"),
    Goal("start", "CPU of `run` on 1,000 lines, workers not set", "≤", 1, Figure("start", "run", "cpu_s"), unit=" s"),
    Goal("memory", "peak PSS of W2, in one process", "≤", 150, Figure("memory", "one-0", "memory_mb"), unit=" MB"),
    Goal("memory", "peak PSS of W2 per slot, 2 slots", "≤", 150,
         Figure("memory", "one-2", "memory_mb"), over=2, unit=" MB"),
    Goal("memory", "peak PSS at ten times the source, in one process", "≤", 1.1,
         Figure("memory", "ten-0", "memory_mb"), Figure("memory", "one-0", "memory_mb")),
    Goal("memory", "peak PSS at ten times the source, 2 slots", "≤", 1.1,
         Figure("memory", "ten-2", "memory_mb"), Figure("memory", "one-2", "memory_mb")),
    Goal("memory", "CPU per sample at ten times the source, start-up taken off", "≤", 1.1,
         Figure("memory", "ten-0", "cpu_s", less="start", each=True),
         Figure("memory", "one-0", "cpu_s", less="start", each=True)),
    _per_shard("all of it", *ON_A_LEDGER),
    *(_per_shard(what, what) for what in ON_A_LEDGER),
    Goal("chain", "the CPU of one `map` that does nothing, with five", "≤", 1.25,
         Figure("chain", "maps-5", "cpu_s"), Figure("chain", "maps-1", "cpu_s")),
    Goal("chain", "the CPU of no stage, with one `map` that does nothing", "≤", 2,
         Figure("chain", "maps-1", "cpu_s"), Figure("chain", "maps-0", "cpu_s")),
    Goal("hop", "CPU of a sample's way through a queue to a branch", "≤", 2,
         Figure("hop", "branch", "cpu_s", less="none", each=True), over=1e-6, unit=" µs"),
    Goal("answers", "until the slowest answer to a command", "≤", 100, Figure("answers", "asked", "answer_ms"), unit=" ms"),
    Goal("metrics", "of the CPU for metrics", "≤", 1, Figure("metrics", "counted", "metrics_percent"), unit=" %"),
)  # fmt: skip


def judged(results: Results) -> list[dict[str, Any]]:
    """The goals of the work in the results, with what was measured and whether they hold; `holds` is None where that
    could not be judged."""
    rows = list[dict[str, Any]]()
    for goal in GOALS:
        if goal.work not in results:
            continue
        measured = goal.measured(results)
        rows.append(
            {
                "work": goal.work,
                "goal": f"{goal.at} {goal.bound:g}{goal.unit} {goal.says}",
                "measured": None if measured is None else f"{measured:.{_digits(measured)}f}{goal.unit}",
                "holds": None if measured is None else goal.holds(measured),
                "why": _why(goal, results) if measured is None else "",
            }
        )
    return rows


def _digits(value: float) -> int:
    return 2 if value < 10 else 1 if value < 100 else 0


def _why(goal: Goal, results: Results) -> str:
    ways = results[goal.work]["ways"]
    for figure in (goal.top, goal.bottom):
        for name in () if figure is None else (figure.ways,) if isinstance(figure.ways, str) else figure.ways:
            if not ways.get(name, {}).get("costs"):
                return f"{name}: {ways.get(name, {}).get('skipped') or 'not run'}"
    return "too small to be measured"
