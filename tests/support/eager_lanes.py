"""Children at work from the first batch on, however small the source is: elsewhere they come when they pay."""

import os
import signal
from collections.abc import Callable, Generator, Iterable
from typing import Any, ClassVar

import pytest

from data_bridge.engine.inline import _DirectControl
from data_bridge.pipelines import process
from data_bridge.runtime.lanes import TRIALS, Lanes


class EagerLanes(Lanes[Any, Any]):
    """Waits for all its children before the first item. `kill_at`: kill a child when this many results are out."""

    answers: ClassVar[int] = 0
    """Answers of children, of all pools of this process."""
    kill_at: ClassVar[int | None] = None

    def map(self, items: Iterable[Any], size: Callable[[Any], int]) -> Generator[tuple[Any, Any]]:
        self._trial._seen, self._trial._computed, self._trial._sent = TRIALS.stop, 1.0, 0.0
        while sum(lane.ready for lane in self._lanes) < self._cores() - 1:
            self._grow()
            self._listen(None)
        for number, pair in enumerate(super().map(items, size)):
            if number == EagerLanes.kill_at and self._lanes:
                busy = max(self._lanes, key=lambda lane: len(lane.flights))
                os.kill(busy._process.pid or 0, signal.SIGKILL)
                busy._process.join()
            yield pair

    def _hear(self, lane: Any) -> None:
        had = len(lane.flights)
        super()._hear(lane)
        EagerLanes.answers += had - len(lane.flights) if lane in self._lanes else 0


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with a number of cores: what then runs in this process uses so many."""

    def use(cores: int) -> None:
        monkeypatch.setattr(process, "Lanes", EagerLanes)
        monkeypatch.setattr(_DirectControl, "cores", cores, raising=False)
        monkeypatch.setattr(EagerLanes, "answers", 0)
        monkeypatch.setattr(EagerLanes, "kill_at", None)

    return use
