"""What `bench` says."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from data_bridge.cli.words import redacted, size, tell
from data_bridge.events import Event, Notice, Observer, ignore

if TYPE_CHECKING:
    from data_bridge.model.bench import BenchPart, BenchReport

_PARTS = {
    "read": "reading, 1 slot",
    "pack": "packing, {0} slot{s}",
    "upload": "{1}, {0} at a time",
    "record": "recording shards, {0} at a time",
    "staging": "writing to the staging disk",
}


@contextmanager
def observer_for(stream: IO[str], *, quiet: bool) -> Generator[Observer]:
    """An observer that says what is being measured: in one line that changes, or line by line."""
    if quiet:
        yield ignore
    elif stream.isatty():
        from rich.console import Console

        with Console(file=stream).status("planning") as status:
            yield lambda event: status.update(redacted(event.message)) if isinstance(event, Notice) else None
    else:
        yield _told_line_by_line


def _told_line_by_line(event: Event, /) -> None:
    if isinstance(event, Notice):
        tell(event.message)


def told(report: "BenchReport") -> str:
    """The table of the parts, the run that they make, what limits it and what to change."""
    lines = [
        *_aligned(
            ("source", f"{report.source}  ({report.source_format}, {_count(report.partitions, 'partition')})"),
            ("destination", f"{report.destination}  ({report.format})"),
            ("measured", f"{report.measured_s:.0f} s on {_count(report.cores, 'core')}"),
        ),
        "",
        f"{'':<30}{'MB/s':>10}{'samples/s':>13}{'cores':>8}{'busy':>8}",
        *(_line(part, "writing" if report.destination.startswith("file:") else "uploading") for part in report.parts),
        "",
        *_aligned(
            *_run(report),
            ("bottleneck", f"{report.bottleneck}: {report.why}"),
            *_advice(report),
            ("latency", _latency(report)),
            ("memory", _memory(report)),
            ("staging", f"{report.staging}, {size(report.staging_free_bytes)} free"),
            *(("note", note) for note in _notes(report)),
        ),
    ]
    return "\n".join(lines)


def _aligned(*lines: tuple[str, str]) -> list[str]:
    return [f"{name:<12} {text}" for name, text in lines]


def _line(part: "BenchPart", upload: str) -> str:
    name = _PARTS[part.name].format(part.parallel, upload, s="" if part.parallel == 1 else "s")
    rate = f"{part.bytes_s / 1e6:,.1f}" if part.bytes_s is not None else "-"
    cores = f"{part.cores:.2f}" if part.cores is not None else "-"
    busy = f"{100 * part.busy:.0f} %" if part.busy is not None else ""
    return f"{name:<30}{rate:>10}{part.samples_s:>13,.0f}{cores:>8}{busy:>8}".rstrip()


def _run(report: "BenchReport") -> list[tuple[str, str]]:
    rate = (
        f"{report.samples_s:,.0f} samples/s, {size(report.shard_bytes_s)}/s of shards, {_count(report.slots, 'slot')}"
    )
    if report.seconds is None:
        return [("a run", rate)]
    samples = f"{report.samples:,}" if report.samples is not None else f"about {report.samples_estimated:,}"
    return [("a run", rate), ("", f"  {samples} samples in about {_duration(report.seconds)}")]


def _advice(report: "BenchReport") -> list[tuple[str, str]]:
    if not report.advice:
        return [("change", "nothing: no setting would make it much faster")]
    lines = []
    for number, advice in enumerate(report.advice):
        faster = f"  (about {advice.speedup:.1f}x as fast)" if advice.speedup is not None else ""
        lines += [("change" if number == 0 else "", advice.change + faster), ("", f"  {advice.why}")]
    return lines


def _latency(report: "BenchReport") -> str:
    first = f"first samples after {1000 * report.first_samples_s:,.0f} ms"
    return first + (f", a record at the destination {1000 * report.record_s:,.0f} ms" if report.record_s else "")


def _notes(report: "BenchReport") -> list[str]:
    sent = report.sent_file_bytes
    if sent is None or sent >= report.shard_bytes / 2:
        return [*report.notes]
    return [
        *report.notes,
        f"uploaded were files of {size(sent)}, shards of a run have about {size(report.shard_bytes)}",
    ]


def _memory(report: "BenchReport") -> str:
    free = f", {size(report.memory_available_bytes)} free" if report.memory_available_bytes is not None else ""
    return f"about {size(report.slot_memory_bytes)} a slot{free}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = int(seconds // 3600), round(seconds % 3600 / 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
