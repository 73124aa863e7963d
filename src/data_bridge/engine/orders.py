"""What the user wants of a running run, told from elsewhere, until the engine and its slots do it."""

import threading
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from data_bridge.model.changes import Change


class Standing(msgspec.Struct, frozen=True):
    """What slots are to do from now on. Each order repeats all of it, so that a new slot needs only the last one."""

    paused: bool = False
    draining: bool = False
    changes: tuple[Change, ...] = ()
    """Every live change of the run, in order."""
    slots: int = 0
    """How many slots share what a run may use; 0 = as many as there were at the start."""
    uploads: int = 0
    """Shards that each slot uploads at a time; 0 = as the config says."""
    threads: tuple[tuple[str, int], ...] = ()
    """Rows that stages have in work at a time, where that is not as the config says."""
    rates: tuple[tuple[str, float], ...] = ()
    """Calls of paid stages that begin a second, where that is not as the config says; 0 = any number."""


class Orders:
    """Given from any thread, followed by the engine when it looks. Nothing here waits for the engine."""

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self._changed = threading.Condition()
        self._standing = Standing(changes=tuple(changes))
        self.stopping = False
        self.workers: int | None = None
        """Processes at a time; 0 = the run works in its driver; None = not known yet."""

    @property
    def made(self) -> int:
        """Changes made until now: the number of the next one."""
        changes = self._standing.changes
        return changes[-1].number + 1 if changes else 0

    @property
    def standing(self) -> Standing:
        """All at once: never half of an order. The same object until something changes."""
        return self._standing

    @property
    def paused(self) -> bool:
        """Whether to read nothing more for now."""
        return self._standing.paused and not (self._standing.draining or self.stopping)

    def pause(self, *, paused: bool) -> None:
        with self._changed:
            self._standing = replace(self._standing, paused=paused)
            self._changed.notify_all()

    def drain(self) -> None:
        with self._changed:
            self._standing = replace(self._standing, draining=True)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def change(self, change: Change) -> None:
        with self._changed:
            self._standing = replace(self._standing, changes=(*self._standing.changes, change))
            self._changed.notify_all()

    def work_with(self, workers: int) -> None:
        """Have so many processes at a time."""
        with self._changed:
            self.workers = workers
            self._standing = replace(self._standing, slots=workers)
            self._changed.notify_all()

    def upload(self, uploads: int) -> None:
        """Have each slot upload so many shards at a time."""
        with self._changed:
            self._standing = replace(self._standing, uploads=uploads)
            self._changed.notify_all()

    def thread(self, stage: str, threads: int) -> None:
        """Have a stage work on so many rows at a time."""
        with self._changed:
            now = {**dict(self._standing.threads), stage: threads}
            self._standing = replace(self._standing, threads=tuple(now.items()))
            self._changed.notify_all()

    def pace(self, stage: str, rate: float) -> None:
        """Have so many calls of a stage begin a second; 0 = any number."""
        with self._changed:
            now = {**dict(self._standing.rates), stage: rate}
            self._standing = replace(self._standing, rates=tuple(now.items()))
            self._changed.notify_all()

    def rest(self, timeout_s: float) -> None:
        """Wait for the next order, for a while."""
        with self._changed:
            self._changed.wait(timeout_s)


def news(before: Standing, now: Standing) -> list[str]:
    """What is different, for the terminal of the run."""
    said = []
    if now.draining and not before.draining:
        said.append("draining: what has been read is being finished, then the run ends")
    elif now.paused != before.paused:
        said.append("paused: nothing more is read" if now.paused else "resumed")
    if now.slots != before.slots:
        said.append(f"from now on {now.slots} workers at a time")
    if now.uploads != before.uploads:
        said.append(f"from now on {now.uploads} uploads at a time in each slot")
    said += [
        f"stage {name}: from now on {n} rows at a time" for name, n in now.threads if (name, n) not in before.threads
    ]
    said += [
        f"stage {name}: from now on {f'{rate:g} calls begin a second' if rate else 'calls begin at any rate'}"
        for name, rate in now.rates
        if (name, rate) not in before.rates
    ]
    said += [f"stage {c.stage}: {c.words} from the next packet on" for c in now.changes[len(before.changes) :]]
    return said
