"""Answers that were paid for, as an attempt on a partition keeps and finds them: on this machine's disk before they are
used, at the destination (`journal.py`) soon after and before a shard with them is sent there."""

import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from data_bridge.errors import BridgeError, FatalError, IntegrityError
from data_bridge.model.answers import AnswerRecord, Paid, together
from data_bridge.model.plan import Partition
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.journal import Journal, record
from data_bridge.utils.files import fsync_folder, make_folder, writing
from data_bridge.utils.progress import dump

PART_BYTES = 1_000_000
"""What is on this machine alone is sent when it has so many bytes,"""
PART_S = 5.0
"""and at the latest after so long: that much is lost with the machine."""
MOST_PARTS = 4
"""Of `PART_BYTES`: with more on this machine alone, who has another answer waits until it was sent."""


class Answers:
    """The answers of one partition, for the attempt that works on it (`token`). `folder` is on this machine, the same for all
    attempts. Samples before `floor`, counted from its start, are in shards: their answers are not needed. `paid` is told of each answer that is new.

    Safe for threads. The first error breaks it: everything after it raises the same.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        partition: Partition,
        token: str,
        folder: Path,
        *,
        floor: int = 0,
        paid: Callable[[AnswerRecord], None] = lambda _record: None,
    ) -> None:
        self._journal = Journal(store, run, partition.name)
        self._folder = folder
        self._partition = partition.name
        self._token = token
        self._floor = partition.first_index + floor
        self._paid = paid
        self._known: _Known | None = None
        self._changing = threading.Lock()
        self._sending = threading.Lock()
        self._part: _Part | None = None
        self._parts = 0
        self._error: Exception | None = None
        self._due = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="answers", daemon=True)

    def __enter__(self) -> "Answers":
        with writing(self._folder):
            make_folder(self._folder)
            self._known = _Known(self._folder)
        with ExitStack() as failing:
            failing.callback(self._close)
            self._find()
            failing.pop_all()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        self._due.set()
        self._thread.join()
        try:
            if kind is None:
                self.send()
            elif issubclass(kind, BridgeError):
                with suppress(BridgeError):  # what cannot be sent stays on this machine
                    self.send()
        finally:
            self._close()

    @property
    def totals(self) -> Mapping[str, Paid]:
        """What was paid for in this partition, by stage, and is at the destination."""
        return self._journal.totals

    def recall(self, key: str) -> bytes | None:
        """The value of an answer that an earlier attempt got, as JSON; it is given once."""
        assert self._known is not None, "it was entered"
        return self._known.take(key)

    def keep(self, record: AnswerRecord) -> None:
        """Keep an answer. It is on this machine's disk, or at the destination, when this returns."""
        part, mark = self._write(record)
        with self._breaking(), writing(part.path):
            part.sync(mark)
        self._paid(record)
        if part.size >= MOST_PARTS * PART_BYTES:
            self.send()
        elif part.size >= PART_BYTES:
            self._due.set()

    def send(self) -> None:
        """Have all that was kept until now at the destination. Raises Fenced when another attempt was faster."""
        with self._sending:
            with self._changing:
                self._raise_broken()
                part, self._part = self._part, None
            if part is None:
                return
            try:
                with self._breaking():
                    self._journal.append(part.content(), part.paid, self._token)
                    part.path.unlink(missing_ok=True)
            finally:
                part.close()

    def _find(self) -> None:
        """Learn what earlier attempts kept, and send what only this machine has."""
        left = sorted(self._folder.glob(f"{self._partition}-*.jsonl"))
        there: set[str] = set()
        for each in self._journal.read():
            self._remember(each)
            if left:
                there.add(each.key)
        # what is at the destination counts, whatever else was paid for here
        for each in (each for path in left for each in _whole_lines(path)):
            if each.key not in there:
                there.add(each.key)
                self._remember(each)
                self._write(each)
        self.send()
        for path in left:
            path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._known is not None:
            self._known.close()
        if self._part is not None:
            self._part.close()

    def _remember(self, record: AnswerRecord) -> None:
        """Have it at hand, where it may still be asked for."""
        assert self._known is not None, "it is being entered"
        if record.index >= self._floor:
            with writing(self._folder):
                self._known.add(record.key, bytes(record.value))

    def _write(self, record: AnswerRecord) -> "tuple[_Part, int]":
        with self._changing:
            self._raise_broken()
            with self._breaking():
                if self._part is None:
                    self._parts += 1
                    self._part = _Part(self._folder / f"{self._partition}-{self._token}-{self._parts:06d}.jsonl")
                return self._part, self._part.write(record)

    def _loop(self) -> None:
        while not self._ended:
            self._due.wait(PART_S)
            self._due.clear()
            try:
                self.send()
            except Exception:  # noqa: BLE001 - kept: whoever keeps or sends something next raises it
                return

    @contextmanager
    def _breaking(self) -> Generator[None]:
        """After an error in the block it is not known what is kept where: it is the run's, whatever it is. As a sample's the
        next one would be asked for, paid, and lost as well."""
        try:
            yield
        except BridgeError as error:
            self._error = error
            raise
        except Exception as error:
            self._error = FatalError(f"answers cannot be kept: {type(error).__name__}: {error}")
            raise self._error from error

    def _raise_broken(self) -> None:
        if self._error is not None:
            raise self._error


class _Part:
    """A file of this machine with the answers that are not at the destination yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.paid: Mapping[str, Paid] = {}
        """By stage."""
        self._synced = 0
        self._syncing = threading.Lock()
        self._open = True
        with writing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fsync_folder(path.parent)

    def write(self, record: AnswerRecord) -> int:
        """Add one. Returns what to give to `sync`. By one thread at a time."""
        line = memoryview(dump(record) + b"\n")
        with writing(self.path):
            while line:
                line = line[os.write(self._file, line) :]
        self.size = os.lseek(self._file, 0, os.SEEK_CUR)
        self.paid = together([self.paid, {record.stage: record.paid}])
        return self.size

    def sync(self, mark: int) -> None:
        """Everything up to there is on disk when this returns. One call does it for all who wait at that moment."""
        with self._syncing:
            if self._open and self._synced < mark:
                size = self.size
                os.fsync(self._file)
                self._synced = size

    def content(self) -> bytes:
        with writing(self.path):
            return os.pread(self._file, self.size, 0)

    def close(self) -> None:
        """Nothing more is added; what was is on disk."""
        with self._syncing:
            if self._open:
                self._open = False
                with suppress(OSError):  # who has to know called `sync`
                    os.fsync(self._file)
                os.close(self._file)


class _Known:
    """Values by key: only where each is stands in memory."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._reading = threading.Lock()

    def add(self, key: str, value: bytes) -> None:
        if key not in self._places:
            self._file.write(value)
            self._places[key] = (self._end, len(value))
            self._end += len(value)

    def take(self, key: str) -> bytes | None:
        place = self._places.pop(key, None)
        if place is None:
            return None
        with self._reading:
            self._file.seek(place[0])
            return self._file.read(place[1])

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> Iterator[AnswerRecord]:
    """The answers that a file of an earlier attempt holds. A crash may have left anything behind what was synced last."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                yield record(line, str(path))
            except IntegrityError:
                return
