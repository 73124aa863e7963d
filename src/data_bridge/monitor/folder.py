"""The folder in which a run keeps what it says on this machine, for whoever looks from another terminal."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from data_bridge.events import BudgetUsed, Event, Flushed, SamplesPacked
from data_bridge.model.outline import Box
from data_bridge.monitor.snapshot import Snapshot

STATUS = "status.json"
GRAPH = "graph.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
MOST_BYTES = 16 << 20
"""Of a file that grows; when it is reached, the file becomes `<name>.1` in place of the one before."""
MOST_RUNS = 100
"""Whose folders are kept, the newest ones."""
STALE_S = 15.0
"""A run whose status is older than this is not running: it was killed."""
_MEASURED = (SamplesPacked, Flushed, BudgetUsed)
"""Not told one by one: the metrics have them."""


class RunFolder:
    """Writes them. `redact` sees every text before it is written."""

    def __init__(
        self,
        folder: Path,
        redact: Callable[[str], str],
        *,
        most_bytes: int = MOST_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # one that an earlier version made
        _forget_old_ones(folder.parent)
        self._folder = folder
        self._redact = redact
        self._most_bytes = most_bytes
        self._now = now
        self._pending: deque[bytes] = deque()

    def event(self, event: Event) -> None:
        """Remember an event for the next `write`."""
        if not isinstance(event, _MEASURED):
            told = {"at": round(self._now(), 3), "event": type(event).__name__, **msgspec.to_builtins(event)}
            self._pending.append(self._line(told))

    def told(self, event: Mapping[str, Any]) -> None:
        """The same for one that another folder has."""
        self._pending.append(self._line(event))

    def graph(self, boxes: Sequence[Box]) -> None:
        """Keep the pipeline's shape. Raises OSError."""
        (self._folder / GRAPH).write_bytes(self._line(list(boxes)))

    def write(self, snapshot: Snapshot) -> None:
        """Add a line to the metrics, the events since the last time, and replace the status. Raises OSError."""
        events = [self._pending.popleft() for _ in range(len(self._pending))]
        if events:
            self._append(EVENTS, b"".join(events))
        if snapshot.last:
            self._append(METRICS, self._line({"at": snapshot.at, "window_s": snapshot.window_s, "last": snapshot.last}))
        partial = self._folder / f".{STATUS}.{snapshot.pid}.partial"
        partial.write_bytes(self._line(snapshot))
        partial.replace(self._folder / STATUS)

    def _line(self, value: Any) -> bytes:
        line = msgspec.json.encode(value)
        text = line.decode()
        # without an escape every text stands there as it is: mostly one look at all of them is enough
        if "\\" in text or self._redact(text) != text:
            line = msgspec.json.encode(self._clean(msgspec.to_builtins(value)))
        return line + b"\n"

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {key: self._clean(inner) for key, inner in value.items()}
        return [self._clean(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    def _append(self, name: str, lines: bytes) -> None:
        path = self._folder / name
        with path.open("ab") as file:
            file.write(lines)
            full = file.tell() >= self._most_bytes
        if full:
            path.replace(path.with_name(f"{name}.1"))


def _forget_old_ones(runs: Path) -> None:
    """A run that works touches its folder every second, so the oldest ones are over."""
    folders = [Path(entry) for entry in os.scandir(runs) if entry.is_dir()]
    if len(folders) > MOST_RUNS:
        folders.sort(key=_touched)
        for folder in folders[:-MOST_RUNS]:
            shutil.rmtree(folder, ignore_errors=True)


def _touched(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another run was faster
        return 0.0


def latest(folder: Path) -> Snapshot | None:
    """What the run in this folder said last; None when none ever ran here."""
    try:
        return msgspec.json.decode((folder / STATUS).read_bytes(), type=Snapshot)
    except (FileNotFoundError, msgspec.DecodeError):  # none, or one that another version wrote
        return None


def shape_of(folder: Path) -> tuple[Box, ...]:
    """The pipeline's shape; () when none is kept."""
    try:
        return msgspec.json.decode((folder / GRAPH).read_bytes(), type=tuple[Box, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        return ()


def is_running(snapshot: Snapshot, now: float | None = None) -> bool:
    """Whether the run that said this still does."""
    return snapshot.state != "ended" and (time.time() if now is None else now) - snapshot.at < STALE_S


class Tail:
    """The lines of a growing file, those of its last `most` bytes first, each once. One that is damaged, as after a
    power cut, is left out."""

    def __init__(self, path: Path, most: int = 64 << 10) -> None:
        self._path = path
        self._most = most
        self._place: tuple[int, int] | None = None

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last look."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            stat = self._path.stat()
            if self._place is None:
                start = max(0, stat.st_size - self._most)
            else:
                start = self._place[1] if self._place[0] == stat.st_ino and self._place[1] <= stat.st_size else 0
            file.seek(start)
            if self._place is None and start:
                start += len(file.readline())
            whole, _, _ = file.read().rpartition(b"\n")
            self._place = (stat.st_ino, start + len(whole) + bool(whole))
        for line in whole.split(b"\n"):
            if line and (told := _told(line)) is not None:
                yield told


def _told(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
