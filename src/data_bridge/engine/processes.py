"""Runs partitions on worker processes of this machine and survives the death of any of them."""

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from data_bridge.engine.base import (
    Audience,
    EngineReport,
    Outcome,
    Poison,
    Results,
    WorkFactory,
    nowhere,
)
from data_bridge.engine.crashes import Crashes
from data_bridge.engine.crew import Crew
from data_bridge.engine.orders import Orders, Standing, news
from data_bridge.engine.signals import STOPPING, StopSignals, handle_signals
from data_bridge.engine.slot import Broken, Cores, Finished, Message, Ready, Signs, Stop, Take
from data_bridge.engine.worker import Worker, pickled
from data_bridge.errors import FatalError, Interrupted
from data_bridge.events import Notice, Observer, SlotLost

SPARE_S = 2.0
"""How long cores are without a partition before others may use them: a process costs a good part of a second."""


class ProcessEngine:
    """Worker processes, each with one pipe: one that dies or hangs is replaced and its partition given out again.

    `slots` is the most processes at a time; no more are started than there are partitions, and when there are fewer
    partitions than slots, their workers may use the other cores. A worker that gives
    no sign of life for `hang_timeout_s` is killed. A partition that loses `crash_limit` workers without
    committing anything in between has failed; the others go on. Workers do not outlive this process. They follow
    `orders`; where those want fewer workers, the ones too many leave at the end of their partition.
    """

    def __init__(
        self, slots: int, hang_timeout_s: float = 300.0, crash_limit: int = 3, *, orders: Orders | None = None
    ) -> None:
        if slots < 1 or crash_limit < 1 or hang_timeout_s <= 0:
            raise ValueError("slots and crash_limit must be at least 1, hang_timeout_s above 0")
        self._slots = slots
        self._hang_timeout_s = hang_timeout_s
        self._crash_limit = crash_limit
        self._orders = orders or Orders()
        self._early: Crew | None = None

    @contextmanager
    def ready(self, factory: WorkFactory, partitions: Sequence[int]) -> Generator[None]:
        """See `Engine.ready`: the workers begin to start."""
        self._early = crew = self._crew(factory)
        try:
            crew.grow(len(partitions))
            yield
        finally:
            self._early = None
            crew.end()

    def run(
        self, factory: WorkFactory, partitions: Sequence[int], observer: Observer, *, poison: Poison = nowhere
    ) -> EngineReport:
        """See `Engine.run`. The second signal kills the workers."""
        audience = Audience(observer)
        crashes = Crashes(self._crash_limit, poison)
        with handle_signals() as stop:
            crew, self._early = self._early or self._crew(factory), None
            crew.slots = self._orders.standing.slots or self._slots
            run = _Run(crew, partitions, audience, crashes, stop, self._orders)
            try:
                run.until_over()
            finally:
                stop.deaf = True
                crew.end()
        if audience.error is not None:
            raise audience.error
        drained = self._orders.standing.draining
        return run.results.report(interrupted=run.interrupted, drained=drained, peak_bytes=run.peak_bytes)

    def _crew(self, factory: WorkFactory) -> Crew:
        return Crew(self._slots, pickled(factory), self._hang_timeout_s)


class _Run:
    """One run of the engine: who works on what."""

    def __init__(
        self,
        crew: Crew,
        partitions: Sequence[int],
        audience: Audience,
        crashes: Crashes,
        stop: StopSignals,
        orders: Orders,
    ) -> None:
        self._crew = crew
        self._queue = deque(dict.fromkeys(partitions))
        self._audience = audience
        self._crashes = crashes
        self._stop = stop
        self._orders = orders
        # changes there are already are no news; the rest is to be done
        self._standing = Standing(changes=orders.standing.changes)
        self._open = True
        """Whether partitions are given out."""
        self._stopping = False
        """Whether those at work were told to stop."""
        self._failed_starts = 0
        self._ended_at = time.monotonic()
        self.results = Results(partitions, audience)
        self.interrupted = False
        self.peak_bytes = 0

    def until_over(self) -> None:
        """Returns when no partition is in work and none is to be given out."""
        while True:
            try:
                return self._loop()
            except KeyboardInterrupt:
                if self._stopping:
                    raise Interrupted(
                        "stopped at once; shards in work are discarded", hint="run the same command again to resume"
                    ) from None
                # no handler is installed (a notebook): this is the first request
                self._interrupt()

    def _loop(self) -> None:
        while self._unfinished():
            self._obey()
            if not self._stopping and (self._audience.error is not None or self.results.ended_early):
                self._stop_all()
            self._hand_out()
            for worker in self._crew.ready():
                message = worker.hear()
                if message is None:
                    worker.kill()
                else:
                    self._on_message(worker, message)
            self._check_health()
        self._hand_out()

    def _unfinished(self) -> bool:
        in_work = any(w.state == "working" for w in self._crew.workers.values())
        return in_work or (bool(self._queue) and self._open)

    def _obey(self) -> None:
        """Do what the user wants now: by a signal, or from elsewhere."""
        if self._orders.stopping and not self._stop.count:
            self._stop.count = 1
        if self._stop.count and not self.interrupted:
            self._interrupt()
        now = self._orders.standing
        if now is self._standing:
            return
        before, self._standing = self._standing, now
        if now.slots:
            self._crew.slots = now.slots
        if now.draining:
            self._hand_out_no_more()
        for worker in self._crew.workers.values():
            if worker.state == "working":
                worker.keep_to(now)
        for said in news(before, now):
            self._audience(Notice(said))

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stop_all()
        self._audience(Notice(STOPPING))

    def _stop_all(self) -> None:
        self._stopping = True
        self._hand_out_no_more()
        for worker in self._crew.workers.values():
            if worker.state == "working":
                worker.tell(Stop())

    def _hand_out_no_more(self) -> None:
        self._open = False
        for worker in self._crew.workers.values():
            if worker.state == "starting":
                worker.state = "leaving"
                worker.kill()

    def _hand_out(self) -> None:
        for worker in self._crew.workers.values():
            if worker.state != "idle":
                continue
            if self._queue and self._open and worker.number < self._crew.slots:
                worker.cores = self._share_of_next()
                worker.state, worker.partition, worker.silent_s = "working", self._queue.popleft(), 0.0
                worker.keep_to(self._standing)
                worker.tell(Take(worker.partition, worker.cores))
            else:
                # its memory is better used by the others; should one die, a new worker starts
                self._crew.dismiss(worker)
        if self._open:
            self._crew.grow(len(self._queue))
            self._share_spare()

    def _share_of_next(self) -> int:
        """Cores for the next partition that waits; as many are left to each of the others."""
        taken = sum(w.cores for w in self._crew.workers.values() if w.state == "working")
        return max(1, (self._crew.slots - taken) // len(self._queue))

    def _share_spare(self) -> None:
        """Let workers use the cores of those that found nothing more to do."""
        if self._queue or time.monotonic() - self._ended_at < SPARE_S:
            return
        working = [w for w in self._crew.workers.values() if w.state == "working"]
        working.sort(key=lambda w: (w.cores, w.number))  # who has more keeps it
        for rank, worker in enumerate(working):
            cores = max(1, (self._crew.slots + rank) // len(working))
            if cores != worker.cores:
                worker.cores = cores
                worker.tell(Cores(cores))

    def _on_message(self, worker: Worker, message: Message) -> None:
        match message:
            case Signs(events=events):
                for event in events:
                    if worker.partition is not None:
                        self._crashes.follow(worker.partition, event)
                    self._audience(event)
            case Ready():
                # one that was killed at the start may have said so just before
                worker.state = "leaving" if worker.state == "leaving" else "idle"
            case Broken(error=error, trace=trace):
                self.results.end_early(error, trace)
                worker.state = "leaving"
            case Finished(outcome=outcome, peak_bytes=peak):
                self.peak_bytes = max(self.peak_bytes, peak)
                worker.state, worker.partition = "idle", None
                self._ended_at = time.monotonic()
                self._failed_starts = 0
                self._crashes.forget(outcome.partition)
                self.results.add(outcome)

    def _check_health(self) -> None:
        for worker in self._crew.hung():
            silent_s = worker.silent_s
            worker.kill()
            self._lost(worker, f"gave no sign of life for {silent_s:.0f} s and was killed")
        for worker in list(self._crew.workers.values()):
            why = worker.ended()
            if why is not None:
                self._lost(worker, why)

    def _lost(self, worker: Worker, why: str) -> None:
        while worker.pipe.poll() and (message := worker.hear()) is not None:
            self._on_message(worker, message)
        del self._crew.workers[worker.number]
        raised = worker.raised
        worker.bury()
        if worker.state == "leaving":
            return
        self._audience(SlotLost(worker.number, worker.partition, why))
        if worker.partition is not None:
            self._requeue(worker.partition, why)
        else:
            self._start_failed(why, final=raised)

    def _requeue(self, partition: int, why: str) -> None:
        if self._stopping:
            self.results.add(Outcome(partition, "stopped", index=self._crashes.index(partition)))
            return
        given_up = self._crashes.death(partition, why)
        if given_up is not None:
            self._crashes.forget(partition)
            self.results.add(given_up)
        elif self._open:
            self._queue.appendleft(partition)
        else:
            self.results.add(Outcome(partition, "stopped", index=self._crashes.index(partition)))

    def _start_failed(self, why: str, *, final: bool) -> None:
        self._failed_starts += 1
        if not final and self._failed_starts < self._crashes.limit:
            return
        if working := sum(w.state == "working" for w in self._crew.workers.values()):
            self._crew.slots = working
            self._audience(Notice(f"a new worker {why} before it could start; going on with {working}"))
        else:
            self.results.end_early(
                FatalError(
                    f"a worker process {why} before it could start",
                    hint="a script that defines its own stages must call this under `if __name__ == '__main__':`; "
                    "otherwise look for an import that crashes, or use fewer workers if memory ran out",
                )
            )
