"""Runs partitions one after another in this process: tests, debugging, one core."""

import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from data_bridge.engine.base import (
    Audience,
    EngineReport,
    Poison,
    Results,
    Work,
    WorkFactory,
    attempt,
    committed,
    make,
    nowhere,
)
from data_bridge.engine.cores import peak_bytes
from data_bridge.engine.orders import Orders, Standing, news
from data_bridge.engine.signals import STOPPING, StopSignals, handle_signals
from data_bridge.errors import BridgeError, Interrupted
from data_bridge.events import Event, Notice, Observer
from data_bridge.model.changes import Change

LOOK_S = 0.25
"""A signal wakes nobody: how soon one is noticed while the work rests."""


class InlineEngine:
    """One slot in the driver's own process, which follows `orders`. A crash of the work is a crash of the run."""

    def __init__(self, orders: Orders | None = None) -> None:
        self._orders = orders or Orders()

    def ready(self, factory: WorkFactory, partitions: Sequence[int]) -> AbstractContextManager[None]:  # noqa: ARG002
        """See `Engine.ready`: there is nothing to start."""
        return nullcontext()

    def run(
        self,
        factory: WorkFactory,
        partitions: Sequence[int],
        observer: Observer,
        *,
        poison: Poison = nowhere,  # noqa: ARG002 - the interface has it
    ) -> EngineReport:
        """See `Engine.run`. A hang is not noticed and `poison` is never asked: nobody outlives the slot."""
        audience = Audience(observer)
        results = Results(partitions, audience)
        with handle_signals() as stop:
            try:
                _run(factory, partitions, _DirectControl(audience, results, stop, self._orders))
            except KeyboardInterrupt:
                raise Interrupted(
                    "stopped at once; the shard in work is discarded", hint="run the same command again to resume"
                ) from None
        if audience.error is not None:
            raise audience.error
        drained = self._orders.standing.draining
        return results.report(interrupted=stop.count > 0, drained=drained, peak_bytes=peak_bytes())


class _DirectControl:
    """Hands events straight to the audience."""

    cores = 1

    def __init__(self, audience: Audience, results: Results, stop: StopSignals, orders: Orders) -> None:
        self._audience = audience
        self._stop = stop
        self._orders = orders
        self._standing = orders.standing
        self._told = False
        self.results = results
        self.index = 0

    def emit(self, event: Event) -> None:
        self.index = committed(self.index, event)
        self._audience(event)

    def beat(self) -> None:
        """Nobody waits for one here."""

    @property
    def draining(self) -> bool:
        return self._obeyed().draining

    @property
    def paused(self) -> bool:
        return self._obeyed().paused and not (self._standing.draining or self.stopping)

    @property
    def changes(self) -> tuple[Change, ...]:
        return self._obeyed().changes

    @property
    def slots(self) -> int:
        return 1

    @property
    def uploads(self) -> int:
        return self._orders.standing.uploads

    def threads(self, stage: str) -> int:
        return dict(self._orders.standing.threads).get(stage, 0)

    def rate(self, stage: str) -> float | None:
        return dict(self._orders.standing.rates).get(stage)

    def rest(self) -> None:
        self._orders.rest(LOOK_S)

    def _obeyed(self) -> Standing:
        """What is ordered now, told to the audience when it is new."""
        now = self._orders.standing
        if now is not self._standing:
            before, self._standing = self._standing, now
            for said in news(before, now):
                self._audience(Notice(said))
        return now

    @property
    def stopping(self) -> bool:
        if self._orders.stopping and not self._stop.count:
            self._stop.count = 1
        if self._stop.count and not self._told:
            self._told = True
            self._audience(Notice(STOPPING))
        return self._stop.count > 0 or self._audience.error is not None or self.results.ended_early


def _run(factory: WorkFactory, partitions: Sequence[int], control: _DirectControl) -> None:
    work = _work(factory, control)
    if work is None:
        return
    for partition in dict.fromkeys(partitions):
        if control.stopping or control.draining:
            return
        control.results.add(attempt(work, partition, control))


def _work(factory: WorkFactory, control: _DirectControl) -> Work | None:
    try:
        return make(factory)
    except BridgeError as error:
        control.results.end_early(error, traceback.format_exc() if error.__cause__ else "")
        return None
