"""`watch` shows whatever a run reports, gives it commands, and leaves it alone when it leaves."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from data_bridge.cli.watch import LOG_LINES, WatchApp
from data_bridge.cli.watch_rows import bar, event_line, head, part_rows, queue_rows, standstill
from data_bridge.cli.words import STANDSTILL_S
from data_bridge.errors import ConfigError
from data_bridge.events import Notice, ShardUploaded
from data_bridge.model.metrics import Count, Gauge, Load, MetricRecord, QueueUse, Statistics
from data_bridge.model.outline import Box
from data_bridge.monitor.folder import STALE_S, RunFolder
from data_bridge.monitor.snapshot import RUN, SlotView, Snapshot

AT = 1_700_000_000.0
BOXES = (
    Box("source", "jsonl", (), ("source",)),
    Box("parts", "split", ("source",), ("parts.train", "parts.test")),
    Box("writer train", "webdataset", ("parts.train",)),
    Box("writer test", "litdata", ("parts.test",)),
)


def record(stage: str, kind: str, *metrics: Any) -> MetricRecord:
    return MetricRecord(stage, kind, metrics)


LAST = (
    record(RUN, RUN, Count("samples_packed", 500), Count("bytes_committed", 2_000_000)),
    record("source", "source", Count("rows_out", 500), Load(busy_s=0.2)),
    record("parts", "split", Count("rows_out", 400), Load(busy_s=0.9, waiting_s=0.1)),
    record("upload", "upload", Count("bytes", 2_000_000), QueueUse("uploads", 2, 2, 0, 0, 1.5, 3, 4, 3)),
)
TOTAL = (
    record(RUN, RUN, Count("samples_packed", 2500), Count("shards_committed", 7), Count("bytes_committed", 9_000_000)),
    record("source", "source", Count("rows_out", 2500)),
    record("parts", "split", Count("rows_out", 2000), Count("failed", 3), Count("dropped", 497), Count("odd ones", 12)),
    record("upload", "upload", Count("bytes", 9_000_000), QueueUse("uploads", 9, 8, 1, 0, 1.0, 3, 20, 3)),
    record("memory", "memory", Gauge("memory_bytes", 95, 100)),
    record(
        "mine",
        "my_kind",
        Gauge("level", 4),
        Statistics("pixels", 1, 9, 10, 2, 9),
        Statistics("cost_usd", 0.1, 0.3, 12.5, 60, 0.2),
    ),
)
NOW = Snapshot(
    "0123456789abcdef",
    "file:///out",
    "running",
    os.getpid(),
    AT,
    5.0,
    1.0,
    LAST,
    TOTAL,
    (SlotView(3, 1250, 250.0, "parts"), SlotView(4, 1250, 0.0, "")),
    partitions=8,
    partitions_done=2,
    samples_expected=10_000,
    samples_before=2500,
)


def changed(**values: Any) -> Snapshot:
    return Snapshot(**{f: getattr(NOW, f) for f in NOW.__struct_fields__} | values)


class Run:
    """A run as `watch` can talk to it."""

    def __init__(self, refuses: str = "") -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.heard = threading.Semaphore(0)
        self.state = "running"
        self.workers = 4
        self._refuses = refuses

    def ask(
        self, command: str, stage: str | None = None, key: str | None = None, value: Any = None
    ) -> Mapping[str, Any]:
        if command == "describe":
            return {"engine": {"state": self.state, "options": {"workers": {"value": self.workers}}}}
        self.asked.append((command, stage, key, value))
        if command == self._refuses:
            raise ConfigError("it is draining already")
        self.state = {"pause": "paused", "resume": "running"}.get(command, self.state)
        if key == "workers":
            self.workers = value
        return {"engine": None}


def watching(
    folder: Path, check: Callable[[WatchApp, "Pilot[None]"], Awaitable[None]], run: Run | None = None, at: float = AT
) -> None:
    async def main() -> None:
        app = WatchApp(folder, run or Run(), every_s=0.1, now=lambda: at)
        async with app.run_test(size=(150, 50)) as pilot:
            await check(app, pilot)

    asyncio.run(main())


async def until(pilot: "Pilot[None]", ready: Callable[[], bool]) -> None:
    for _ in range(500):
        if ready():
            return
        await pilot.pause(0.02)
    raise AssertionError("did not come about")


def cells(app: WatchApp, table: str) -> list[list[str]]:
    shown: DataTable[Any] = app.query_one(f"#{table}", DataTable)
    return [[str(cell) for cell in shown.get_row(key)] for key in shown.rows]


def log(app: WatchApp) -> str:
    return "\n".join(line.text for line in app.query_one("#log", RichLog).lines)


def top(app: WatchApp) -> str:
    return str(app.query_one("#head", Static).visual)


def folder_of(tmp_path: Path, snapshot: Snapshot = NOW, *events: Any) -> RunFolder:
    folder = RunFolder(tmp_path / "run", str, now=lambda: AT)
    folder.graph(BOXES)
    for event in events:
        folder.event(event)
    folder.write(snapshot)
    return folder


def test_parts_come_in_the_order_of_the_graph_and_others_after_them() -> None:
    rows = part_rows(NOW, BOXES)

    assert [row.name for row in rows] == [
        "source",
        "parts",
        "├ writer train",
        "└ writer test",
        "upload",
        "memory",
        "mine",
    ]
    parts = rows[1]
    assert (parts.kind, parts.rate_text, parts.total, parts.failed, parts.dropped) == ("split", "400", "2,000", 3, 497)
    assert (parts.busy, parts.waiting, parts.more, parts.busiest) == (0.9, 0.1, "odd ones 12", True)
    assert [row.name for row in rows if row.busiest] == ["parts"]
    assert rows[2].moves is False
    assert (rows[4].rate_text, rows[4].total) == ("2.0 MB", "9.0 MB")
    assert rows[6].more == "level 4, pixels 1…5…9, $12.5000 paid"


def test_queues_and_levels_tell_how_full_they_are() -> None:
    uploads, memory = queue_rows(NOW)

    assert (uploads.name, uploads.rate, uploads.total, uploads.dropped) == ("upload.uploads", 2.0, 8, 1)
    assert uploads.fill == "█████░░░░░ 1.5 of 3"
    assert (memory.name, memory.fill) == ("memory.memory", "██████████ 95 B of 100 B")
    assert (bar(0), bar(1.5), bar(-1)) == ("░" * 10, "█" * 10, "░" * 10)


def test_the_head_says_where_the_run_stands() -> None:
    first, second = head(NOW, "", AT)
    assert first == "run 0123456789abcdef  running  →  file:///out"
    assert "5,000 of 10,000 samples (50 %), 500/s  ·  00:00:10 left" in second
    assert "7 shards committed (9.0 MB, 2.0 MB/s)" in second

    assert "paused" in head(NOW, "paused", AT)[0]
    assert "silent for 20 s" in head(NOW, "paused", AT + STALE_S + 5)[0]
    assert "  ended  " in head(changed(state="ended"), "paused", AT + 99)[0]


def test_a_slot_that_stands_still_says_why() -> None:
    assert standstill(SlotView(3, 5, 0.0, "upload", STANDSTILL_S - 1, "upload.uploads")) == ""
    assert standstill(SlotView(3, 5, 0.0, "", 42.0)) == "has not moved for 42 s"
    assert standstill(SlotView(3, 5, 0.0, "", 42.0, "upload.uploads")) == (
        "has not moved for 42 s, upload.uploads is full"
    )


def test_the_log_leaves_out_steps_on_the_way() -> None:
    assert event_line({"at": AT, "event": "Notice", "message": "hello"}) == "hello"
    assert event_line({"at": AT, "event": "SlotLost", "slot": 1, "partition": None, "why": "died"}) == (
        "SlotLost  slot 1, why died"
    )
    assert event_line(msgspec.to_builtins(ShardUploaded(0, "a", 1)) | {"event": "ShardUploaded"}) == ""


def test_the_log_leaves_out_what_is_empty() -> None:
    told = {"at": AT, "event": "ShardCommitted", "partition": 0, "key": None, "failed": 4}

    assert event_line(told | {"failed_by": {}}) == "ShardCommitted  partition 0, failed 4"
    assert (
        event_line(told | {"failed_by": {"fetch": 4}})
        == "ShardCommitted  partition 0, failed 4, failed_by {'fetch': 4}"
    )


def test_the_screen_shows_parts_queues_slots_and_events(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, NOW, Notice("a [bracket] in a notice"))

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        assert [row[0] for row in cells(app, "parts")][:3] == ["source", "parts", "├ writer train"]
        assert cells(app, "queues")[0][0] == "upload.uploads"
        assert cells(app, "slots") == [["3", "1,250", "250", "parts", ""], ["4", "1,250", "0", "", ""]]
        await until(pilot, lambda: "a [bracket] in a notice" in log(app))
        folder.event(Notice("and another one"))
        folder.write(changed(slots=(SlotView(3, 1300, 50.0, "parts"),)))
        await until(pilot, lambda: cells(app, "slots") == [["3", "1,300", "50", "parts", ""]])
        await until(pilot, lambda: "and another one" in log(app))

    watching(tmp_path / "run", check)


def test_a_drop_and_a_rate_of_nothing_stand_out(tmp_path: Path) -> None:
    folder_of(tmp_path)

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        queues: DataTable[Any] = app.query_one("#queues", DataTable)
        slots: DataTable[Any] = app.query_one("#slots", DataTable)
        assert "yellow" in str(queues.get_row_at(0)[3].style)
        assert "yellow" in str(queues.get_row_at(1)[4].style)
        assert slots.get_row_at(1)[2].style == "red"

    watching(tmp_path / "run", check)


def test_the_log_is_bounded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    for number in range(LOG_LINES + 300):
        folder.event(Notice(f"n{number}"))
    folder.write(NOW)

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await until(pilot, lambda: f"n{LOG_LINES + 299}" in log(app))
        assert len(app.query_one("#log", RichLog).lines) <= LOG_LINES

    watching(tmp_path / "run", check)


def test_watching_may_begin_before_the_run_does(tmp_path: Path) -> None:
    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        assert "has not begun" in top(app)
        folder_of(tmp_path)
        await until(pilot, lambda: "running" in top(app))
        assert len(cells(app, "parts")) == 7

    watching(tmp_path / "run", check)


def test_keys_pause_resume_and_change_the_number_of_workers(tmp_path: Path) -> None:
    folder_of(tmp_path)
    run = Run()

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await pilot.press("p")
        await until(pilot, lambda: "paused" in top(app))
        await pilot.press("r")
        await until(pilot, lambda: "running" in top(app))
        await pilot.press("plus")
        await until(pilot, lambda: "workers: 5 from now on" in log(app))
        await pilot.press("minus")
        await until(pilot, lambda: "workers: 4 from now on" in log(app))

    watching(tmp_path / "run", check, run)

    assert run.asked == [
        ("pause", None, None, None),
        ("resume", None, None, None),
        ("set", "engine", "workers", 5),
        ("set", "engine", "workers", 4),
    ]


def test_what_is_refused_is_told(tmp_path: Path) -> None:
    folder_of(tmp_path)

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await pilot.press("d")
        await until(pilot, lambda: "drain: it is draining already" in log(app))

    watching(tmp_path / "run", check, Run(refuses="drain"))


class Silent(Run):
    """A run that ends while it is asked: there is no part in its answers."""

    def ask(
        self, command: str, stage: str | None = None, key: str | None = None, value: Any = None
    ) -> Mapping[str, Any]:
        self.heard.release()
        return {}


def test_watching_outlives_a_run_that_answers_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    run = Silent()

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await until(pilot, lambda: run.heard.acquire(blocking=False))
        await pilot.press("plus")
        await until(pilot, lambda: "workers: the run does not say how many it has" in log(app))
        folder.write(changed(state="ended"))
        await until(pilot, lambda: "  ended  " in top(app))

    watching(tmp_path / "run", check, run)


class Slow(Run):
    """A run that does not answer until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.may_answer = threading.Event()

    def ask(
        self, command: str, stage: str | None = None, key: str | None = None, value: Any = None
    ) -> Mapping[str, Any]:
        self.times += 1
        self.heard.release()
        assert self.may_answer.wait(30)
        return super().ask(command, stage, key, value)


def test_a_run_that_is_slow_to_answer_is_not_asked_again_meanwhile(tmp_path: Path) -> None:
    folder_of(tmp_path)
    run = Slow()

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await until(pilot, lambda: run.heard.acquire(blocking=False))
        for _ in range(3):
            app.look()
        await pilot.pause()
        asked = run.times
        run.may_answer.set()
        await until(pilot, lambda: run.heard.acquire(blocking=False))
        assert asked == 1

    watching(tmp_path / "run", check, run)


def test_leaving_asks_nothing_of_the_run(tmp_path: Path) -> None:
    folder_of(tmp_path)
    run = Run()

    async def check(app: WatchApp, pilot: "Pilot[None]") -> None:
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    watching(tmp_path / "run", check, run)

    assert run.asked == []
