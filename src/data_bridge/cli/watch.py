"""`data-bridge watch`: a running run on the terminal, from another one. Leaving it leaves the run alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.widgets import DataTable, Footer, RichLog, Static

from data_bridge.cli.watch_rows import PartRow, QueueRow, event_line, head, part_rows, queue_rows, standstill
from data_bridge.cli.words import redacted
from data_bridge.errors import BridgeError
from data_bridge.model.outline import Box
from data_bridge.monitor.folder import EVENTS, Tail, is_running, latest, shape_of
from data_bridge.monitor.snapshot import SlotView

EVERY_S = 1.0
LOG_LINES = 1000
FULL = 0.9
"""A queue fuller than this holds up what is before it."""


class Commands(Protocol):
    """What tells a run what to do."""

    def ask(
        self, command: str, stage: str | None = None, key: str | None = None, value: Any = None
    ) -> Mapping[str, Any]:
        """What was said by name. Raises BridgeError when nobody is there or understands, or it is refused."""
        ...


class WatchApp(App[None]):
    """Shows what the run in a folder says, once a second."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; background: $panel; }
    #parts, #queues, #slots { height: auto; max-height: 40%; }
    .title { padding: 0 1; color: $text-muted; }
    #log { height: 1fr; min-height: 4; border-top: solid $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Leave (the run goes on)"),
        Binding("p", "command('pause')", "Pause"),
        Binding("r", "command('resume')", "Resume"),
        Binding("d", "command('drain')", "Drain"),
        Binding("plus,equals_sign", "workers(1)", "More workers", key_display="+"),
        Binding("minus", "workers(-1)", "Fewer workers", key_display="-"),
    ]

    def __init__(
        self, folder: Path, commands: Commands, *, every_s: float = EVERY_S, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._folder = folder
        self._commands = commands
        self._every_s = every_s
        self._now = now
        self._tail = Tail(folder / EVENTS)
        self._boxes: Sequence[Box] = ()
        self._control_state = ""
        self._listens = True
        self._asking = False

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        for name in ("parts", "queues", "slots"):
            yield DataTable(id=name, cursor_type="none", zebra_stripes=True)
        yield RichLog(id="log", max_lines=LOG_LINES, wrap=True, markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.title = "data-bridge"
        numbers = map(_right, ("rows/s", "rows", "failed", "dropped", "cores", "waiting"))
        self._columns("parts", "part", "kind", *numbers, "also")
        self._columns("queues", "queue", *map(_right, ("items/s", "items", "dropped")), "fill")
        self._columns("slots", *map(_right, ("slot: partition", "samples", "samples/s")), "busiest", "")
        self.look()
        self.set_interval(self._every_s, self.look)

    def look(self) -> None:
        """Show what the run says now."""
        with suppress(NoMatches):  # the screen is being taken down
            self._look()

    def _look(self) -> None:
        snapshot = latest(self._folder)
        for told in self._tail.new():
            if line := event_line(told):
                self._say(time.strftime("%H:%M:%S ", time.localtime(told["at"])) + line)
        if snapshot is None:
            self.query_one("#head", Static).update("nothing was said yet: the run has not begun on this machine")
            return
        self._boxes = self._boxes or shape_of(self._folder)
        first, second = head(snapshot, self._control_state, self._now())
        self.query_one("#head", Static).update(Text(redacted(f"{first}\n{second}")))
        self._fill("parts", [_part(row) for row in part_rows(snapshot, self._boxes)])
        self._fill("queues", [_queue(row) for row in queue_rows(snapshot)])
        self._fill("slots", [_slot(slot) for slot in snapshot.slots])
        if is_running(snapshot, self._now()) and self._listens and not self._asking:
            self._asking = True  # a run that is slow to answer is not asked by ever more threads
            self.run_worker(self._ask_state, thread=True)

    def action_command(self, command: str) -> None:
        """Give the run a command."""
        self.run_worker(lambda: self._tell(command), thread=True)

    def action_workers(self, more: int) -> None:
        """Let the run have more or fewer worker processes."""
        self.run_worker(lambda: self._tell_workers(more), thread=True)

    def _tell(self, command: str) -> None:
        try:
            self._commands.ask(command)
        except BridgeError as error:
            self.call_from_thread(self._say, f"{command}: {error.message}")
        else:
            self.call_from_thread(self._say, f"{command}: accepted")
            self._ask_state()

    def _tell_workers(self, more: int) -> None:
        try:
            engine = self._commands.ask("describe", "engine")["engine"]
            wanted = engine["options"]["workers"]["value"] + more
            self._commands.ask("set", "engine", "workers", wanted)
        except BridgeError as error:
            self.call_from_thread(self._say, f"workers: {error.message}")
        except (LookupError, TypeError):  # a run that has not begun, or of another version
            self.call_from_thread(self._say, "workers: the run does not say how many it has")
        else:
            self.call_from_thread(self._say, f"workers: {wanted} from now on")

    def _ask_state(self) -> None:
        try:
            self._control_state = str(self._commands.ask("describe", "engine")["engine"]["state"])
        except (BridgeError, LookupError, TypeError):  # a run that takes no commands says so itself, in its log
            self._control_state, self._listens = "", False
        finally:
            self._asking = False

    def _say(self, line: str) -> None:
        with suppress(NoMatches):
            self.query_one("#log", RichLog).write(redacted(line))

    def _columns(self, table: str, *names: str | Text) -> None:
        self.query_one(f"#{table}", DataTable).add_columns(*names)

    def _fill(self, table: str, rows: "Sequence[tuple[str, Sequence[Text]]]") -> None:
        """Rows that are there are updated, so that nothing flickers or scrolls away."""
        shown: DataTable[Text] = self.query_one(f"#{table}", DataTable)
        keys = [key for key, _ in rows]
        if [row.value for row in shown.rows] != keys:
            shown.clear()
            for key, cells in rows:
                shown.add_row(*cells, key=key)
            return
        columns = list(shown.columns)
        for key, cells in rows:
            for column, cell in zip(columns, cells, strict=True):
                shown.update_cell(key, column, cell, update_width=True)


def _part(row: PartRow) -> tuple[str, list[Text]]:
    name = Text(row.name, style="bold yellow" if row.busiest else "")
    return row.key, [
        name,
        Text(row.kind, style="dim"),
        _right(row.rate_text if row.moves else "", "red" if row.moves and not row.rate else ""),
        _right(row.total if row.moves else ""),
        _right(f"{row.failed:,}" if row.failed else "", "red"),
        _right(f"{row.dropped:,}" if row.dropped else ""),
        _right(f"{row.busy:.2f}", "bold yellow" if row.busiest else ""),
        _right(f"{row.waiting:.2f}"),
        Text(row.more, style="dim"),
    ]


def _queue(row: QueueRow) -> tuple[str, list[Text]]:
    counted = row.total >= 0
    return row.key, [
        Text(row.name),
        _right(f"{row.rate:,.1f}" if counted else "", "" if row.rate else "red"),
        _right(f"{row.total:,}" if counted else ""),
        _right(f"{row.dropped:,}" if counted else "", "bold yellow" if row.dropped else "dim"),
        Text(row.fill, style="yellow" if row.full >= FULL else "green"),
    ]


def _slot(slot: SlotView) -> tuple[str, list[Text]]:
    return str(slot.partition), [
        _right(str(slot.partition)),
        _right(f"{slot.samples:,}"),
        _right(f"{slot.rate:,.0f}", "" if slot.rate else "red"),
        Text(slot.busiest),
        Text(standstill(slot), style="bold red"),
    ]


def _right(text: str, style: str = "") -> Text:
    return Text(text, style=style, justify="right")
