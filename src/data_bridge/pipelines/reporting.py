"""The reports of a run in files on this machine: whole at its end, partial while it works and where it stops."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from data_bridge.errors import BridgeError, FatalError, StoreError
from data_bridge.events import Event, Notice, Observer, PartitionClaimed, ReportWritten
from data_bridge.model.partition_log import PartitionLog
from data_bridge.pipelines.base import Pipeline
from data_bridge.pipelines.beside import looking_folder
from data_bridge.pipelines.notes import columns_of
from data_bridge.stages.build import build

PACE_S = 10.0
"""Partial reports are written anew this often at most."""
SHARE = 20
"""And no more often than that writing them takes one part in so many of the time."""


def write_reports(
    pipeline: Pipeline,
    logs: Mapping[int, PartitionLog],
    observer: Observer,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Write what stages have measured of what is committed, each into the folder `stages/<name>` of the run, but those that
    are there already. `tick` is called with every row, and may raise. Raises BridgeError."""
    columns = columns_of(build(pipeline.settings.pipeline))
    folder = looking_folder(pipeline.plan.run) if columns else None
    if folder is None:
        return
    from data_bridge.pipelines.reports import is_written, report_of, write_report  # most runs need none of it

    folder.mkdir(mode=0o700, exist_ok=True)  # samples are nobody else's business
    for stage, names in columns.items():
        report = report_of(pipeline.store, pipeline.plan, logs, stage)
        if not is_written(report, folder / stage):
            path = write_report(report, folder / stage, names, tick)
            observer(ReportWritten(stage, str(path), report.count, report.complete))


class _Over(Exception):
    """The work ends: nobody wants the rest of a report that will be written anew."""


class Reporting:
    """An observer in front of another one, while the block lasts: keeps `report.partial.csv` up to date, and writes it at the
    end unless the run is `finished`. What goes wrong with it never stops a run: it is told once, as a notice."""

    def __init__(self, pipeline: Pipeline, observer: Observer, *, pace_s: float = PACE_S) -> None:
        self.finished = False
        self._pipeline = pipeline
        self._observer = observer
        self._pace_s = pace_s
        self._wanted = any(stage.report for stage in pipeline.settings.pipeline.stages)
        self._notices: deque[str] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._now_and_then, name="reports", daemon=True)
        self._started = self._told = False

    def __enter__(self) -> "Reporting":
        return self

    def __call__(self, event: Event, /) -> None:
        # not before a worker works: they begin as copies of this process, which must have no other thread then
        if isinstance(event, PartitionClaimed) and self._wanted and not self._started:
            self._started = True
            self._thread.start()
        self._observer(event)
        self._tell()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if self._started:
            self._thread.join()
        at_rest = kind is None or (issubclass(kind, FatalError) and not issubclass(kind, StoreError))
        if self._wanted and at_rest and not self.finished:
            self._write(self._observer)
        self._tell()

    def _now_and_then(self) -> None:
        wait_s = self._pace_s
        while not self._over.wait(wait_s):
            began_s = time.monotonic()
            with suppress(_Over):
                self._write(lambda _: None, self._tick)
            wait_s = max(self._pace_s, SHARE * (time.monotonic() - began_s))

    def _write(self, observer: Observer, tick: Callable[[], None] = lambda: None) -> None:
        try:
            write_reports(self._pipeline, self._pipeline.logs(), observer, tick)
        except (BridgeError, OSError) as error:
            words = error.message if isinstance(error, BridgeError) else str(error)
            if not self._told:
                self._told = True
                self._notices.append(f"the partial reports could not be written: {words}")

    def _tick(self) -> None:
        if self._over.is_set():
            raise _Over

    def _tell(self) -> None:
        """The observer is called by one thread at a time: that of the events."""
        while self._notices:
            self._observer(Notice(self._notices.popleft()))
