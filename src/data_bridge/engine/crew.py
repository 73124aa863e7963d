"""The worker processes of an engine: started, listened to, found hanging, dismissed."""

import time
from multiprocessing.connection import wait

from data_bridge.engine.slot import Quit
from data_bridge.engine.worker import Worker
from data_bridge.runtime.nursery import Nursery

TICK_S = 0.25
START_S = 120.0
"""A worker imports its libraries in silence; on a loaded machine or a network disk that takes its time."""
LEAVE_S = 5.0


class Crew:
    """The worker processes, by slot number."""

    def __init__(self, slots: int, factory: bytes, hang_timeout_s: float) -> None:
        self.slots = slots
        self._factory = factory
        self._limits_s = {
            "starting": max(START_S, hang_timeout_s),
            "idle": float("inf"),
            "working": hang_timeout_s,
            "leaving": LEAVE_S,
        }
        self._clock = time.monotonic()
        self._nursery = Nursery() if Nursery.possible() else None
        self.workers: dict[int, Worker] = {}

    def grow(self, wanted: int) -> None:
        """Start workers until `wanted` of them are on their way, as far as there are free slots."""
        starting = sum(w.state == "starting" for w in self.workers.values())
        free = [n for n in range(self.slots) if n not in self.workers]
        for number in free[: max(0, wanted - starting)]:
            self.workers[number] = Worker(number, self._factory, self._nursery)

    def ready(self) -> list[Worker]:
        """Wait a moment for workers that have a message; one that closed its pipe is killed."""
        by_pipe = {w.pipe: w for w in self.workers.values()}
        sentinels = [w.sentinel for w in self.workers.values()]
        return [by_pipe[r] for r in wait([*by_pipe, *sentinels], TICK_S) if r in by_pipe]

    def hung(self) -> list[Worker]:
        """Workers that were silent for too long.

        Only time in which the driver was listening counts: neither a slow observer nor a suspended
        terminal must look like a hang.
        """
        now = time.monotonic()
        elapsed, self._clock = min(now - self._clock, 2 * TICK_S), now
        for worker in self.workers.values():
            worker.silent_s += elapsed
        return [w for w in self.workers.values() if w.silent_s > self._limits_s[w.state]]

    def dismiss(self, worker: Worker) -> None:
        worker.state = "leaving"
        worker.silent_s = 0.0
        worker.tell(Quit())

    def end(self) -> None:
        """No worker is left afterwards: those that were told to leave get a moment, all others none."""
        deadline = time.monotonic() + LEAVE_S
        for worker in self.workers.values():
            if worker.state == "leaving":
                worker.join(max(0.0, deadline - time.monotonic()))
        for worker in self.workers.values():
            worker.kill()
            worker.bury()
        self.workers.clear()
        if self._nursery is not None:
            self._nursery.end()
            self._nursery = None
