"""A run of another machine as if it were one of this: what it says of itself is kept where `status` and `watch` look."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from data_bridge.config import run_folder
from data_bridge.model.outline import Box
from data_bridge.monitor.folder import RunFolder, is_running, latest
from data_bridge.monitor.snapshot import Snapshot

_NAME = re.compile(r"[0-9a-f]{16}[0-9A-Za-z_-]{0,32}")
"""Of a run; what another machine says is not to name another folder."""


class Mirror:
    """Takes the lines that a run's folder there holds. `began` hears of the run's name, once. A line that is none, and a
    disk that takes nothing, are passed over: the run goes on."""

    def __init__(
        self,
        redact: Callable[[str], str],
        began: Callable[[str], None] = lambda _: None,
        *,
        place: Callable[[str], Path] = run_folder,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._redact, self._began, self._place, self._now = redact, began, place, now
        self._folder: RunFolder | None = None
        self._run = ""
        self._boxes: tuple[Box, ...] = ()
        self._events: list[dict[str, Any]] = []
        self.kept_already = False
        """Whether somebody else kept it when the first line came: two would tell events twice."""

    def __call__(self, line: bytes) -> None:
        with suppress(msgspec.DecodeError, OSError, RuntimeError):
            if line.startswith(b"["):
                self._boxes = msgspec.json.decode(line, type=tuple[Box, ...])
            elif b'"slots"' in line:
                self._stands(msgspec.json.decode(line, type=Snapshot))
            else:
                self._events.append(msgspec.json.decode(line, type=dict[str, Any]))

    def _stands(self, snapshot: Snapshot) -> None:
        if not _NAME.fullmatch(snapshot.run):
            return
        if self._folder is None or snapshot.run != self._run:
            before = latest(self._place(snapshot.run))
            self.kept_already = before is not None and is_running(before, self._now())
            self._run, self._folder = snapshot.run, RunFolder(self._place(snapshot.run), self._redact)
            self._folder.graph(self._boxes)
            self._began(snapshot.run)
        events, self._events = self._events, []
        for event in events:
            self._folder.told(event)
        # its clock is not ours, by which a look tells whether it still works
        self._folder.write(msgspec.structs.replace(snapshot, at=self._now()))
