"""Progress for people: a live display on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from data_bridge.cli.words import redacted, size, tell
from data_bridge.events import (
    Event,
    ItemFailed,
    Notice,
    Observer,
    PartitionClaimed,
    PartitionDone,
    PartitionFailed,
    ReportWritten,
    RunPlanned,
    SamplesPacked,
    ShardCommitted,
    SlotLost,
    ignore,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_EVERY_S = 10.0
SHOWN_FAILURES = 5
SHOWN_PARTITIONS = 16


@contextmanager
def observer_for(stream: IO[str], *, quiet: bool) -> Generator[Observer]:
    """The observer that suits where standard error goes."""
    if quiet:
        yield ignore
    elif stream.isatty():
        from rich.console import Console
        from rich.live import Live

        tally = Tally()
        console = Console(file=stream)
        live = Live(console=console, get_renderable=lambda: _display(tally), refresh_per_second=5)
        speaking = _Speaking(tally, lambda line: live.console.print(line, markup=False, highlight=False))

        def show(event: Event) -> None:
            speaking(event)
            if isinstance(event, PartitionClaimed):
                live.start()  # not before: it is a thread, and workers are cheap to start where there is none

        try:
            yield show
        finally:
            live.stop()
    else:
        tally = Tally()
        yield _Plain(tally, _Speaking(tally, tell))


class Tally:
    """Running totals of a run, from its events."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.planned: RunPlanned | None = None
        self.committed = 0
        self.failed = 0
        self.shards = 0
        self.bytes = 0
        self.done = 0
        self.working: set[int] = set()
        self._from: dict[int, int] = {}
        self._at: dict[int, int] = {}

    @property
    def samples(self) -> int:
        """Source samples that this run has packed; what a lost worker packed in vain does not count twice."""
        return sum(self._at.values()) - sum(self._from.values())

    def packed(self, partition: int) -> int:
        """How far a partition is, in samples from its start."""
        return self._at.get(partition, 0)

    def __call__(self, event: Event, /) -> None:
        match event:
            case RunPlanned():
                self.planned, self.done = event, event.done
            case PartitionClaimed(partition=partition, index=index):
                self._from.setdefault(partition, index)
                self._at[partition] = index
                self.working.add(partition)
            case SamplesPacked(partition=partition, samples=samples):
                self._at[partition] = self._at.get(partition, 0) + samples
            case ShardCommitted():
                self.committed += event.samples
                self.failed += event.failed
                self.bytes += event.bytes
                self.shards += event.key is not None
            case PartitionDone(partition=partition):
                self.done += 1
                self.failed += event.failed
                self.working.discard(partition)
            case PartitionFailed(partition=partition) | SlotLost(partition=int() as partition):
                self.working.discard(partition)
            case _:
                pass

    @property
    def rate(self) -> float:
        """Samples a second since the start."""
        return self.samples / max(time.monotonic() - self.started, 1e-9)

    def eta(self) -> str:
        """Time left, where the total is known."""
        total = self.planned.samples if self.planned else None
        if total is None or self.planned is None or not self.rate:
            return ""
        left = max(total - self.planned.samples_done - self.samples, 0) / self.rate
        return f"{int(left // 3600):02d}:{int(left % 3600 // 60):02d}:{int(left % 60):02d} left"

    def line(self) -> str:
        """Everything in one line."""
        shards = f"{self.shards:,} {'shard' if self.shards == 1 else 'shards'} committed"
        parts = [f"{self.samples:,} samples packed ({self.rate:,.0f}/s)", f"{shards} ({size(self.bytes)})"]
        if self.planned:
            parts.append(f"{self.done} of {self.planned.partitions} partitions done")
        if self.failed:
            parts.append(f"{self.failed:,} samples failed")
        return ", ".join(parts)


class _Speaking:
    """Counts, and says what a person should know at once."""

    def __init__(self, tally: Tally, speak: Callable[[str], None]) -> None:
        self._tally = tally
        self._speak = speak
        self._failures = 0

    def __call__(self, event: Event, /) -> None:
        self._tally(event)
        line = self._line(event)
        if line:
            self._speak(redacted(line))

    def _line(self, event: Event) -> str:
        match event:
            case RunPlanned():
                known = f"{event.samples:,} samples in " if event.samples is not None else ""
                before = f", {event.done} done before" if event.done else ""
                many = "" if event.partitions == 1 else "s"
                return f"run {event.run}: {known}{event.partitions} partition{many}{before} -> {event.destination}"
            case Notice(message=message):
                return message
            case ReportWritten():
                many = "" if event.rows == 1 else "s"
                return f"report of {event.stage}: {event.rows:,} row{many}{'' if event.complete else ' until now'} in {event.path}"
            case SlotLost():
                return f"worker {event.slot} {event.why}; its partition is handed out again"
            case PartitionFailed():
                return f"partition {event.partition} failed: {event.error}"
            case ItemFailed() if self._failures < SHOWN_FAILURES:
                self._failures += 1
                more = " (further ones are only counted)" if self._failures == SHOWN_FAILURES else ""
                return f"bad sample at {event.where}: {event.reason}{more}"
            case _:
                return ""


class _Plain:
    """A line of totals every few seconds."""

    def __init__(self, tally: Tally, inner: Observer) -> None:
        self._tally = tally
        self._inner = inner
        self._next = tally.started + PLAIN_EVERY_S

    def __call__(self, event: Event, /) -> None:
        self._inner(event)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_EVERY_S
            left = self._tally.eta()
            tell(self._tally.line() + (f", {left}" if left else ""))


def _display(tally: Tally) -> "RenderableType":
    """The live display: a bar where the total is known, totals, what each slot does."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    planned = tally.planned
    parts: list[RenderableType] = []
    if planned is not None and planned.samples:
        done = min(planned.samples, planned.samples_done + tally.samples)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=planned.samples, completed=done, width=40),
            f"{100 * done / planned.samples:.0f} %",
            tally.eta(),
        )
        parts.append(bar)
    parts.append(Text(tally.line()))
    if tally.working:
        table = Table.grid(padding=(0, 2))
        for partition in sorted(tally.working)[:SHOWN_PARTITIONS]:
            table.add_row(f"  partition {partition}", f"{tally.packed(partition):,} samples")
        if len(tally.working) > SHOWN_PARTITIONS:
            table.add_row(f"  and {len(tally.working) - SHOWN_PARTITIONS} more")
        parts.append(table)
    return Group(*parts)
