"""Commit order: shard closed → uploaded → verified at the store → recorded → deleted here. Overlaps packing."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from data_bridge.errors import BridgeError
from data_bridge.events import Event, ShardCommitted, ShardUploaded
from data_bridge.model.batch import Batch
from data_bridge.model.changes import Change
from data_bridge.model.metrics import QueueUse
from data_bridge.model.shards import ReportPart
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.metering import Metering
from data_bridge.pipelines.staging import Closed, Staging
from data_bridge.runtime.metrics import Levels, use_of
from data_bridge.utils.progress import ProgressTracker

MOST_UPLOADS = 256
"""At a time, in each slot."""


class Control(Protocol):
    """How the work on a partition talks to whoever runs it."""

    def emit(self, event: Event) -> None:
        """To the run's observer, in order; also a sign of life. Safe from any thread of the slot."""
        ...

    def beat(self) -> None:
        """A sign of life without an event; cheap enough for every batch, at most one message a second."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the run is to end: finish what is in hand and stop."""
        ...

    @property
    def cores(self) -> int:
        """How many cores the partition may use now; it may grow while other slots run out of work."""
        ...

    @property
    def draining(self) -> bool:
        """Whether to read nothing more, and to finish what has been read."""
        ...

    @property
    def paused(self) -> bool:
        """Whether to read nothing more for now; not while stopping or draining."""
        ...

    @property
    def changes(self) -> tuple[Change, ...]:
        """Every live change of the run, in order. The same object until there is one more."""
        ...

    @property
    def uploads(self) -> int:
        """How many shards to upload at a time; 0 = as the config says."""
        ...

    def threads(self, stage: str) -> int:
        """How many rows a stage that waits has in work at a time; 0 = as the config says."""
        ...

    def rate(self, stage: str) -> float | None:
        """How many calls of a paid stage begin a second in the whole run; 0 = any number, None = as the config says."""
        ...

    def rest(self) -> None:
        """Wait a moment, or until the user wants something else; a sign of life."""
        ...


class Opening:
    """Gives signs of life while a source is being opened: seeking in a compressed file may take longer than any
    reader that hangs is granted, and reads have time limits of their own."""

    def __init__(self, control: Control, *, every_s: float = 1.0) -> None:
        self._control = control
        self._every_s = every_s
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="opening", daemon=True)

    def __enter__(self) -> "Opening":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.set()
        self._thread.join()

    def through(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the first one ends the opening."""
        for batch in batches:
            self._opened.set()
            yield batch

    def _loop(self) -> None:
        while not self._opened.wait(self._every_s):
            self._control.beat()


class Committer:
    """Uploads closed shards in the background and records them strictly in order.

    `submit` blocks while too much waits: more than `concurrency` + 1 shards, or more than `staging_bytes`.
    The first error stops everything after it and is raised from the next `submit` or `drain`. `answered` is called before
    each upload: it has the answers at the store on which the shard's bytes depend.
    """

    def __init__(
        self,
        store: ObjectStore,
        tracker: ProgressTracker,
        control: Control,
        metering: Metering,
        *,
        concurrency: int,
        staging_bytes: int,
        answered: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._tracker = tracker
        self._control = control
        self._metering = metering
        self._answered = answered
        self._levels = Levels()
        self._configured = concurrency
        self._active = 0
        self._staging_bytes = staging_bytes
        self._uploads = ThreadPoolExecutor(MOST_UPLOADS, thread_name_prefix="upload")
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[None], Closed]] = deque()
        self._waiting_bytes = 0
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="commit", daemon=True)
        metering.with_upload(self)

    def __enter__(self) -> "Committer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            if kind is not None and issubclass(kind, BridgeError):
                # a stop of any kind finishes what was closed before it
                while self._waiting and self._error is None:
                    self._changed.wait(1.0)
                    self._control.beat()
            self._ended = True
            self._changed.notify_all()
        self._uploads.shutdown(wait=True, cancel_futures=True)
        self._thread.join()

    @property
    def _concurrency(self) -> int:
        """Uploads at a time, as the user wants now."""
        return min(MOST_UPLOADS, self._control.uploads or self._configured)

    def adopt(self, staging: Staging) -> None:
        """Shards that an earlier attempt finished but did not commit go first: nothing is packed twice. Unless one on another
        machine, in between, has recorded a live change for samples that they hold."""
        log = self._tracker.log
        at: dict[str, tuple[int, int]] = {}
        for closed in staging.leftovers():
            sink, behind = closed.record.sink, closed.record.cursor
            cursor = log.cursor_of(sink)
            made_alike = closed.changes == log.changed_before(behind)
            if made_alike and at.get(sink, (cursor.index, cursor.out)) == (closed.start, closed.out):
                self.submit(closed)
                at[sink] = (behind.index, behind.out)
        self.drain()
        staging.sweep()

    def submit(self, closed: Closed) -> None:
        """Hand over a closed shard."""
        self._tracker.pending(closed.record)
        with self._changed:
            with self._metering.submitting():
                self._wait(lambda: len(self._waiting) <= self._concurrency and self._room_for(closed.record.bytes))
            self._waiting.append((self._uploads.submit(self._upload, closed), closed))
            self._levels.put += 1
            self._wait_with(closed.record.bytes)

    def drain(self) -> None:
        """Return when everything submitted is committed."""
        with self._changed:
            self._wait(lambda: not self._waiting)

    def _room_for(self, size: int) -> bool:
        return not self._waiting or self._waiting_bytes + size <= self._staging_bytes

    def _wait(self, ready: Callable[[], bool]) -> None:
        while self._error is None and not ready():
            self._changed.wait(1.0)
            self._control.beat()
            self._metering.tell()
        if self._error is not None:
            raise self._error

    def _upload(self, closed: Closed) -> None:
        record = closed.record
        if record.key is not None and closed.path is not None:
            with self._turn() as come:
                if not come:
                    return
                if self._answered is not None:
                    self._answered()
                with self._metering.uploading(record.bytes):
                    self._store.put_file(record.key, closed.path, sha256=record.sha256)
            self._control.emit(ShardUploaded(self._tracker.partition.index, record.key, record.bytes))

    @contextmanager
    def _turn(self) -> Generator[bool]:
        """One of the uploads at a time; False when nobody wants it any more."""
        with self._changed:
            while self._active >= self._concurrency and not self._ended:
                self._changed.wait(1.0)
            come = not self._ended
            self._active += 1
        try:
            yield come
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting or self._ended:
                    return
                upload, closed = self._waiting[0]
            try:
                upload.result()
                self._commit(closed)
            except BaseException as error:  # crosses to the packing thread, which raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._levels.got += 1
                self._wait_with(-closed.record.bytes)

    def flush(self) -> QueueUse:
        """What waited since the last look."""
        with self._changed:
            levels, self._levels = self._levels, Levels()
            levels.look(len(self._waiting))
        return use_of("uploads", levels, self._concurrency + 1)

    def _wait_with(self, more_bytes: int) -> None:
        """One more waits, or one fewer."""
        self._waiting_bytes += more_bytes
        self._levels.look(len(self._waiting))
        self._metering.staged(self._waiting_bytes, self._staging_bytes)
        self._changed.notify_all()

    def kept(self, part: ReportPart, path: Path) -> ReportPart:
        """What stages measured, at the store: the next record will name it."""
        key = self._tracker.report_key(part.sha256)
        self._store.put_file(key, path, sha256=part.sha256)
        return part.model_copy(update={"key": key})

    def _commit(self, closed: Closed) -> None:
        record = closed.record
        if closed.failures is not None:
            key = self._tracker.failures_key
            self._store.put_file(key, closed.failures, sha256=record.failures_sha256 or "")
            record = record.model_copy(update={"failures": key})
        if closed.report is not None and record.report is not None:
            record = record.model_copy(update={"report": self.kept(record.report, closed.report)})
        self._tracker.append(record.model_copy(update={"token": self._tracker.token}))
        closed.remove()
        self._control.emit(
            ShardCommitted(
                self._tracker.partition.index, record.key, record.samples, record.failed, record.bytes, record.failed_by
            )
        )
