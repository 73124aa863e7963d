"""Writing to the destination: real shard bytes, under keys of their own that are deleted again."""

import secrets
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from data_bridge.engine.base import Engine, Outcome, SlotControl, Work
from data_bridge.errors import Interrupted
from data_bridge.events import Event, Measured
from data_bridge.measure.forecast import Sent
from data_bridge.measure.packing import Kept
from data_bridge.model.store import ObjectStore
from data_bridge.utils.files import sha256_of

BEAT_S = 1.0
RECORDS = 10
RECORD = b'{"kind":"shard"}'.ljust(600)
"""As long as most records of the ledger."""
FIRST_PIECE = 256_000
LEAST_PIECE = 64_000
PIECES = 6
"""So many uploads should fit into the time: a rate made of fewer is a guess."""


@dataclass(frozen=True, slots=True)
class SendingWork:
    """The work of one slot: upload the same files again and again until the time is up, several at a time.

    Every object is deleted as soon as it is there, and only the uploads count.
    """

    store: ObjectStore
    prefix: str
    files: tuple[Kept, ...]
    staging: Path
    concurrency: int
    seconds: float

    def __call__(self) -> Work:
        return self._run

    def _run(self, partition: int, control: SlotControl) -> Outcome:
        cpu_s = time.process_time()
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="bench") as pool:
            loops = [pool.submit(self._loop, number, control) for number in range(self.concurrency)]
            while wait(loops, timeout=BEAT_S).not_done:
                control.beat()  # an upload has time limits of its own
            sent = [loop.result() for loop in loops]
        control.emit(
            Measured(
                partition,
                sum(count for count, _ in sent),
                sum(count / seconds for count, seconds in sent),
                time.process_time() - cpu_s,
            )
        )
        return Outcome(partition, "done")

    def _loop(self, number: int, control: SlotControl) -> tuple[int, float]:
        """Bytes sent by one of the threads, and the time it took."""
        took: list[tuple[int, float]] = []
        ends = time.monotonic() + self.seconds
        while not took or (time.monotonic() < ends and not control.stopping):
            file = self.files[number % len(self.files)]
            took.append((file.size, send(self.store, f"{self.prefix}/{secrets.token_hex(8)}", file, self.staging)))
            number += self.concurrency
        # the first one made the connection
        counted = took[1:] or took
        return sum(size for size, _ in counted), sum(seconds for _, seconds in counted)


def send(store: ObjectStore, key: str, file: Kept, staging: Path) -> float:
    """Seconds to store a file, which is deleted again. A folder consumes what it is given, so there the file is
    written first: that is part of it."""
    begun = time.monotonic()
    path = file.path
    if store.local_root is not None:
        path = staging / key.rpartition("/")[2]
        shutil.copyfile(file.path, path)
    store.put_file(key, path, sha256=file.sha256)
    took = time.monotonic() - begun
    store.delete(key)
    return took


def sent(engine: Engine, slots: int, work: SendingWork) -> Sent:
    """Upload in so many slots at once. Raises what a run would raise when the store refuses or is down."""
    found: list[Measured] = []

    def observe(event: Event, /) -> None:
        if isinstance(event, Measured):
            found.append(event)

    report = engine.run(work, range(slots), observe)
    if report.interrupted:
        raise Interrupted("stopped")
    if report.error is not None:
        raise report.error
    total = sum(measured.bytes for measured in found)
    return Sent(
        slots * work.concurrency,
        sum(measured.bytes_s for measured in found),
        sum(measured.cpu_s for measured in found) / total,
    )


def record_s(store: ObjectStore, prefix: str, seconds: float) -> float:
    """Median time in which a record of the ledger is written."""
    took: list[float] = []
    ends = time.monotonic() + seconds
    while len(took) < RECORDS and (not took or time.monotonic() < ends):
        key = f"{prefix}/record-{secrets.token_hex(8)}"
        begun = time.monotonic()
        store.put_if_absent(key, RECORD)
        took.append(time.monotonic() - begun)
        store.delete(key)
    return statistics.median(took)


def pieces(store: ObjectStore, prefix: str, files: Sequence[Kept], folder: Path, seconds: float) -> tuple[Kept, ...]:
    """The files, or as much of each as can be uploaded several times in so many seconds."""
    target_s, size = seconds / PIECES, FIRST_PIECE
    send(store, f"{prefix}/{secrets.token_hex(8)}", _cut(files[0], LEAST_PIECE, folder), folder)  # makes the connection
    while True:
        took = send(store, f"{prefix}/{secrets.token_hex(8)}", _cut(files[0], size, folder), folder)
        if size >= files[0].size or took >= target_s / 2:
            break
        size = min(files[0].size, round(size * min(4.0, target_s / took)))
    fits = max(LEAST_PIECE, round(size * min(1.0, target_s / took)))
    return tuple(_cut(file, fits, folder) for file in files)


def _cut(file: Kept, size: int, folder: Path) -> Kept:
    if file.size <= size:
        return file
    path = folder / f"piece-{secrets.token_hex(8)}"
    with file.path.open("rb") as source, path.open("wb") as target:
        left = size
        while left:
            block = source.read(min(1 << 20, left))
            target.write(block)
            left -= len(block)
    return Kept(path, size, sha256_of(path))
