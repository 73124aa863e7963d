"""Work for engine tests that really misbehaves: it kills its process, hangs, raises, waits for others.

Importable by name, as spawned workers need it. Attempts are counted in files, because memory dies with a worker.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.errors import BridgeError, DiskFullError
from data_bridge.events import Event, Notice, PartitionClaimed, PartitionDone, SamplesPacked, ShardCommitted
from data_bridge.runtime.spawning import PR_SET_PDEATHSIG

T = TypeVar("T")

SAMPLES = 10
SHARDS = 3


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        threading.Event().wait(0.01)


def attempts(folder: Path, partition: int) -> int:
    return len(list(folder.glob(f"p{partition}-attempt-*")))


def resumed_at(folder: Path, partition: int) -> int:
    """Samples the partition's ledger, one file per shard, says are committed."""
    return SAMPLES * len(list(folder.glob(f"p{partition}-shard-*")))


@dataclass(frozen=True)
class Misdeed:
    """What happens at `index` committed samples of a partition, in its first `times` attempts there."""

    deed: str
    index: int = 0
    times: int = 1


@dataclass(frozen=True)
class Shards:
    """Commits three shards of ten samples for each partition into a folder, as a pipeline would into its ledger."""

    folder: Path
    misdeeds: dict[int, Misdeed] = field(default_factory=dict)

    def __call__(self) -> Work:
        return self.work

    def work(self, partition: int, control: SlotControl) -> Outcome:
        (self.folder / f"p{partition}-attempt-{attempts(self.folder, partition)}").write_text(str(os.getpid()))
        index = resumed_at(self.folder, partition)
        control.emit(PartitionClaimed(partition, index))
        while index < SHARDS * SAMPLES:
            for _ in range(SAMPLES):
                control.emit(SamplesPacked(partition, 1, 1))
            self._misbehave(partition, index, control)
            if control.stopping:
                return Outcome(partition, "stopped", index=index)
            key = f"p{partition}-shard-{index // SAMPLES}"
            with (self.folder / key).open("x"):
                index += SAMPLES
            control.emit(ShardCommitted(partition, key, SAMPLES - 1, 1, SAMPLES))
        control.emit(PartitionDone(partition, index, SHARDS))
        return Outcome(partition, "done", index=index)

    def _misbehave(self, partition: int, index: int, control: SlotControl) -> None:
        misdeed = self.misdeeds.get(partition)
        if misdeed is None or misdeed.index != index:
            return
        marks = len(list(self.folder.glob(f"p{partition}-misdeed-*")))
        if marks < misdeed.times:
            (self.folder / f"p{partition}-misdeed-{marks}").touch()
            DEEDS[misdeed.deed](control)


def _killed(control: SlotControl) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault(control: SlotControl) -> None:
    ctypes.string_at(0)


def _exits(control: SlotControl) -> None:
    os._exit(3)


def _hangs(control: SlotControl) -> None:
    threading.Event().wait()


def _freezes(control: SlotControl) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _waits_for_stop(control: SlotControl) -> None:
    wait_for(lambda: control.stopping, "the engine to tell the slot to stop")


def _waits_for_stop_aloud(control: SlotControl) -> None:
    def stopped() -> bool:
        control.beat()  # so that the driver hears of the partition
        return control.stopping

    wait_for(stopped, "the engine to tell the slot to stop")


def _full_when_draining(control: SlotControl) -> None:
    def draining() -> bool:
        control.beat()
        return control.draining

    wait_for(draining, "the engine to tell the slot to drain")
    raise DiskFullError("no space")


def _beats_slowly(control: SlotControl) -> None:
    until = time.monotonic() + 2.4
    while time.monotonic() < until:
        threading.Event().wait(0.05)
        control.beat()


def _survives_signals(control: SlotControl) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


def _raises(control: SlotControl) -> None:
    raise ZeroDivisionError("the ninth row has no width")


def _disk_full(control: SlotControl) -> None:
    raise DiskFullError("no space")


def _leaves(control: SlotControl) -> None:
    sys.exit("a stage called exit")


DEEDS: dict[str, Callable[[SlotControl], None]] = {
    "killed": _killed,
    "segfault": _segfault,
    "exits": _exits,
    "hangs": _hangs,
    "freezes": _freezes,
    "waits for stop": _waits_for_stop,
    "waits for stop aloud": _waits_for_stop_aloud,
    "full when draining": _full_when_draining,
    "beats slowly": _beats_slowly,
    "survives signals": _survives_signals,
    "raises": _raises,
    "leaves": _leaves,
    "disk full": _disk_full,
}


@dataclass(frozen=True)
class DiesTwiceEverywhere(Shards):
    """Loses two workers before each shard: many deaths, and progress in between."""

    def _misbehave(self, partition: int, index: int, control: SlotControl) -> None:
        marks = len(list(self.folder.glob(f"died-{index}-*")))
        if marks < 2:
            (self.folder / f"died-{index}-{marks}").touch()
            os._exit(9)


@dataclass(frozen=True)
class Raises:
    """Every partition ends with this error."""

    error: BridgeError

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            control.emit(PartitionClaimed(partition, 40 + partition))
            raise self.error

        return work


@dataclass(frozen=True)
class Broken:
    """Cannot be made; counts in files how often it was tried."""

    folder: Path
    error: type[Exception] | None = None

    def __call__(self) -> Work:
        (self.folder / f"made-by-{os.getpid()}").touch()
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError
        raise self.error("no module named nothing")


@dataclass(frozen=True)
class Polite:
    """Leaves a mark when its process ends in good order."""

    folder: Path

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            return Outcome(partition, "done")

        atexit.register((self.folder / f"left-{os.getpid()}").touch)
        return work


@dataclass(frozen=True)
class Together:
    """Every partition ends only when all of them are in work at the same time."""

    folder: Path
    partitions: int

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            (self.folder / f"here-{partition}-{os.getpid()}").touch()
            wait_for(lambda: len(list(self.folder.glob("here-*"))) == self.partitions, "all partitions to be in work")
            return Outcome(partition, "done")

        return work


@dataclass(frozen=True)
class Chatty:
    """Emits many numbered events from the main loop, and some from a second thread."""

    events: int

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            def talk(name: int) -> None:
                for number in range(self.events):
                    control.emit(SamplesPacked(name, number, 0))

            other = threading.Thread(target=talk, args=(-1,))
            other.start()
            talk(partition)
            other.join()
            return Outcome(partition, "done")

        return work


@dataclass(frozen=True)
class Endless:
    """Works until told to stop, or for ever: deaf in Python, or stuck in C with the interpreter's lock held.

    `hung` waits for ever, and has told the kernel not to kill it with its driver.
    """

    folder: Path
    mode: str = "polite"

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            (self.folder / f"working-{os.getpid()}").touch()
            if self.mode == "hung":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
                threading.Event().wait()
            if self.mode == "stuck":
                ctypes.PyDLL(None).sleep(600)
            while self.mode == "deaf" or not control.stopping:
                threading.Event().wait(0.01)
                control.beat()
            return Outcome(partition, "stopped", index=7)

        return work


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        return [e for e in self.events if isinstance(e, kind)]


@dataclass(frozen=True)
class Obedient:
    """Ten packets a partition, and before each what a pipeline does: wait while paused, end when told to.

    Behind its third packet a partition waits until the engine has told it something: `paused`, `draining`, `changes`.
    """

    until: str = ""

    def __call__(self) -> Work:
        return self.work

    def work(self, partition: int, control: SlotControl) -> Outcome:
        control.emit(PartitionClaimed(partition, 0))
        told = not self.until
        for number in range(10):
            told = told or bool(getattr(control, self.until))
            if number == 3 and not told:
                self._wait(control)
            rests = 0
            while control.paused:
                control.rest()
                rests += 1
                control.emit(Notice(f"rested {rests} times"))
            if control.draining or control.stopping:
                return Outcome(partition, "stopped")
            control.emit(SamplesPacked(partition, 1, len(control.changes)))
        return Outcome(partition, "done")

    def _wait(self, control: SlotControl) -> None:
        def told() -> bool:
            control.beat()  # so that the driver hears of the packets before
            return bool(getattr(control, self.until))

        wait_for(told, f"the slot to see {self.until}")


class Boss:
    """An observer that gives orders when it hears of something for the first time."""

    def __init__(self, does: Mapping[Callable[[Event], bool], Callable[[], object]]) -> None:
        self.events: list[Event] = []
        self._does = dict(does)

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)
        for heard in [heard for heard in self._does if heard(event)]:
            self._does.pop(heard)()
