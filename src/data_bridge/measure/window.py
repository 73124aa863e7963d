"""Rates over a time in which nothing starts up or runs dry."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from data_bridge.measure.forecast import Rate
from data_bridge.measure.machine import queued_s

LEAST_S = 1e-6
WINDOWS = 4
WINDOW_S = 1.0
STEADY = 0.05
"""The last windows may differ by this much from their mean for the rate to count as known."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been done at a moment, since the beginning."""

    at: float
    cpu_s: float
    queued_s: float
    samples: int
    bytes: int


@dataclass(slots=True)
class Window:
    """Counts work as it is done, and tells its rate between `opens` and `closes`."""

    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.process_time
    queue_clock: Callable[[], float] = queued_s
    marks: list[Mark] = field(default_factory=list)
    _opened: int = 0
    _closed: int | None = None

    def add(self, samples: int, count: int) -> None:
        """So many samples and bytes more."""
        last = self.marks[-1] if self.marks else Mark(0.0, 0.0, 0.0, 0, 0)
        self.marks.append(
            Mark(self.clock(), self.cpu_clock(), self.queue_clock(), last.samples + samples, last.bytes + count)
        )

    def open(self) -> None:
        """What was done until now was done while others were still starting."""
        self._opened = max(0, len(self.marks) - 1)

    def close(self) -> None:
        """What is done from now on is done while others have nothing to do."""
        if self._closed is None:
            self._closed = len(self.marks)

    def behind_the_first(self) -> "Window":
        """The same without what came first: opening a source takes a time of its own."""
        return Window(self.clock, self.cpu_clock, self.queue_clock, self.marks[1:])

    @property
    def seconds(self) -> float:
        """How long the window is, as far as it is known."""
        found = self.marks[self._opened : self._closed]
        return found[-1].at - found[0].at if found else 0.0

    @property
    def opened_at(self) -> float:
        """When the window began."""
        return self.marks[self._opened].at

    def steady(self) -> bool:
        """Whether the rate has been the same for a while."""
        found = self.marks[self._opened :]
        if not found or found[-1].at - found[0].at < WINDOWS * WINDOW_S:
            return False
        cuts = [found[0]]
        for mark in found:
            if mark.at - cuts[-1].at >= WINDOW_S:
                cuts.append(mark)
        rates = [(b.samples - a.samples) / (b.at - a.at) for a, b in pairwise(cuts)][-WINDOWS + 1 :]
        mean = sum(rates) / len(rates)
        return all(abs(rate - mean) <= STEADY * mean for rate in rates)

    def rate(self, *, slots: int = 1) -> Rate | None:
        """What was done in the window, without what its first mark brought; None when there was next to nothing."""
        found = self.marks[self._opened : self._closed]
        if len(found) < 2 or found[-1].samples == found[0].samples or found[-1].at - found[0].at < LEAST_S:
            return None
        first, last = found[0], found[-1]
        return Rate(
            last.samples - first.samples,
            last.bytes - first.bytes,
            last.at - first.at,
            max(last.cpu_s - first.cpu_s, LEAST_S),
            slots,
            max(last.queued_s - first.queued_s, 0.0),
        )
