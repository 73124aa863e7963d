"""Functions for children of a pool that really misbehave: they die, hang, raise, wait for each other.

Importable by name, as spawned children need it.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Function = Callable[[int], Any]


def in_child() -> bool:
    return multiprocessing.parent_process() is not None


def burn() -> None:
    """Work that is worth sending to another process."""
    sum(range(60_000))


@dataclass(frozen=True)
class Squares:
    """Squares with the process that made them."""

    def __call__(self) -> Function:
        return self.square

    def square(self, item: int) -> tuple[int, int]:
        burn()
        return item * item, os.getpid()


@dataclass(frozen=True)
class Arrays:
    """Arrays of a size that travels out of band, full of the item's number."""

    size: int = 200_000

    def __call__(self) -> Function:
        return self.make

    def make(self, item: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
        burn()
        burn()
        return np.full(self.size, item, np.int64)


@dataclass(frozen=True)
class Misbehaves:
    """As `Squares`, but at every so many items a child does something else, at most `times` times."""

    folder: Path
    deed: str
    every: int = 1
    times: int = 1

    def __call__(self) -> Function:
        return self.work

    def work(self, item: int) -> tuple[int, int]:
        burn()
        if in_child():
            (self.folder / f"child-{os.getpid()}").touch()
            marks = len(list(self.folder.glob("misdeed-*")))
            if item % self.every == 0 and marks < self.times:
                (self.folder / f"misdeed-{marks}").touch()
                DEEDS[self.deed]()
        return item * item, os.getpid()


@dataclass(frozen=True)
class Raises:
    """Raises at one item, in whatever process."""

    item: int

    def __call__(self) -> Function:
        return self.work

    def work(self, item: int) -> int:
        burn()
        if item == self.item:
            raise ZeroDivisionError(f"item {item} has no width")
        return item


@dataclass(frozen=True)
class OnlyHere:
    """Cannot be made in a child."""

    def __call__(self) -> Function:
        if in_child():
            raise ImportError("no module named nothing")
        return Squares().square


@dataclass(frozen=True)
class Unsendable:
    """Results that no pickle holds."""

    def __call__(self) -> Function:
        return self.work

    def work(self, item: int) -> Callable[[], int]:
        burn()
        return lambda: item


@dataclass(frozen=True)
class Grows:
    """Results much larger than their items and than any box."""

    size: int

    def __call__(self) -> Function:
        return self.work

    def work(self, item: int) -> bytes:
        burn()
        return bytes([item % 251]) * self.size


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exits() -> None:
    os._exit(3)


def _raises() -> None:
    raise MemoryError


def _hangs() -> None:
    threading.Event().wait()


DEEDS: dict[str, Callable[[], None]] = {"killed": _killed, "exits": _exits, "raises": _raises, "hangs": _hangs}
