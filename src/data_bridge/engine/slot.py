"""The worker's side of the process engine: what runs inside a slot.

Imports stay tiny: every worker pays for them, and again each time one is replaced.
"""

import multiprocessing
import os
import pickle
import threading
import time
import traceback
from functools import partial
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from data_bridge.engine.base import Outcome, Work, WorkFactory, attempt, committed, last_line, make
from data_bridge.engine.cores import peak_bytes
from data_bridge.engine.orders import Standing
from data_bridge.errors import BridgeError, ConfigError, FatalError
from data_bridge.events import Event, PartitionClaimed, ShardCommitted
from data_bridge.model.changes import Change
from data_bridge.runtime.nursery import keep_nursery
from data_bridge.runtime.process import collect_rarely, own_process
from data_bridge.runtime.spawning import ORPHANED

BEAT_S = 1.0
FLUSH_S = 0.2
FLUSH_EVENTS = 128
URGENT = (PartitionClaimed, ShardCommitted)
"""Sent at once: should the slot die, the driver must know how far it was."""


class Signs(msgspec.Struct, frozen=True):
    """A sign of life, with the events since the last one."""

    events: list[Event] = msgspec.field(default_factory=list)


class Ready(msgspec.Struct, frozen=True):
    """The work is made; partitions are welcome."""


class Broken(msgspec.Struct, frozen=True):
    """The work cannot be made; the slot ends."""

    error: BridgeError
    trace: str


class Finished(msgspec.Struct, frozen=True):
    outcome: Outcome
    peak_bytes: int


Message: TypeAlias = Signs | Ready | Broken | Finished
"""What a slot says to its driver."""


class Take(msgspec.Struct, frozen=True):
    partition: int
    cores: int = 1


class Cores(msgspec.Struct, frozen=True):
    """The partition in work may use this many cores from now on."""

    count: int


class Stop(msgspec.Struct, frozen=True):
    """Finish what is in hand."""


class Quit(msgspec.Struct, frozen=True):
    """Leave: there is nothing more to do."""


Order: TypeAlias = Take | Cores | Standing | Stop | Quit
"""What a driver says to a slot."""


class PipeControl:
    """`SlotControl` over the slot's pipe; events travel in batches."""

    def __init__(self, pipe: "Connection[Message, Order]") -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._sent = time.monotonic()
        self.stop = threading.Event()
        self._ordered = threading.Event()
        self._standing = Standing()
        self.index = 0
        self.cores = 1

    def emit(self, event: Event) -> None:
        with self._lock:
            self.index = committed(self.index, event)
            self._events.append(event)
            full = len(self._events) >= FLUSH_EVENTS or time.monotonic() - self._sent >= FLUSH_S
            if full or isinstance(event, URGENT):
                self._flush()

    def beat(self) -> None:
        silent = time.monotonic() - self._sent
        if silent >= BEAT_S or (self._events and silent >= FLUSH_S):
            with self._lock:
                self._flush()

    def tell_late(self) -> None:
        """Send what still waits because the work stands at something long: of each thing done, one late sign of life."""
        if not (self._events and self._lock.acquire(blocking=False)):
            return
        try:
            if self._events:
                self._flush()
        finally:
            self._lock.release()

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    @property
    def draining(self) -> bool:
        return self._standing.draining

    @property
    def paused(self) -> bool:
        return self._standing.paused and not (self._standing.draining or self.stopping)

    @property
    def changes(self) -> tuple[Change, ...]:
        return self._standing.changes

    @property
    def slots(self) -> int:
        return self._standing.slots

    @property
    def uploads(self) -> int:
        return self._standing.uploads

    def threads(self, stage: str) -> int:
        return dict(self._standing.threads).get(stage, 0)

    def rate(self, stage: str) -> float | None:
        return dict(self._standing.rates).get(stage)

    def rest(self) -> None:
        self._ordered.wait(BEAT_S)
        self._ordered.clear()
        self.beat()

    def order(self, order: Standing | Stop) -> None:
        """Take an order that concerns the work in hand."""
        if isinstance(order, Stop):
            self.stop.set()
        else:
            self._standing = order
        self._ordered.set()

    def say(self, message: Message) -> None:
        """Send a message, after the events that came before it."""
        with self._lock:
            if self._events:
                self._flush()
            self._pipe.send(message)

    def _flush(self) -> None:
        events, self._events = self._events, []
        self._pipe.send(Signs(events))
        self._sent = time.monotonic()


def slot_main(pipe: "Connection[Message, Order]", factory: bytes) -> None:
    """Run partitions as the driver orders them until it says Quit or is gone.

    `factory` is the pickled `WorkFactory`.
    """
    own_process()
    collect_rarely()
    control = PipeControl(pipe)
    taken: SimpleQueue[int | None] = SimpleQueue()
    try:
        with keep_nursery(mine=[pipe]):
            threading.Thread(target=_listen, args=(pipe, control, taken), daemon=True).start()
            _serve(control, taken, factory)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(ORPHANED)


def _serve(control: PipeControl, taken: "SimpleQueue[int | None]", factory: bytes) -> None:
    try:
        work = make(partial(_work, factory))
    except BridgeError as error:
        control.say(Broken(_portable(error), traceback.format_exc() if error.__cause__ else ""))
        return
    control.say(Ready())
    while (partition := taken.get()) is not None:
        outcome = attempt(work, partition, control)
        if outcome.error is not None:
            outcome = replace(outcome, error=_portable(outcome.error))
        control.say(Finished(outcome, peak_bytes()))


def _work(factory: bytes) -> Work:
    try:
        make_work: WorkFactory = pickle.loads(factory)  # noqa: S301 - our own parent wrote it
    except AttributeError as error:
        raise ConfigError(
            f"a worker cannot find the work: {last_line(error)}",
            hint="define functions and classes in a module that can be imported, or run with `workers: 0`",
        ) from error
    return make_work()


def _listen(pipe: "Connection[Message, Order]", control: PipeControl, taken: "SimpleQueue[int | None]") -> None:
    """Take orders, tell what the main loop has left to be told, and end the process within a second when the driver is
    gone, whatever that loop does."""
    parent = multiprocessing.parent_process()
    watched: list[Connection[Message, Order] | int] = [pipe]
    if parent is not None:
        watched.append(parent.sentinel)
    while True:
        ready = wait(watched, timeout=1.0)
        if pipe in ready:
            try:
                order = pipe.recv()
            except (EOFError, OSError):
                os._exit(ORPHANED)
            if isinstance(order, Take):
                control.cores = order.cores
                taken.put(order.partition)
            elif isinstance(order, Cores):
                control.cores = order.count
            elif isinstance(order, (Standing, Stop)):
                control.order(order)
            else:
                taken.put(None)
        elif ready or (parent is not None and os.getppid() != parent.pid):
            os._exit(ORPHANED)
        else:
            try:
                control.tell_late()
            except OSError:
                os._exit(ORPHANED)


def _portable(error: BridgeError) -> BridgeError:
    """The error as the driver can read it; one that does not survive the pipe is told in its own words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - written here
    except Exception:  # noqa: BLE001 - a foreign subclass may break in any way
        return FatalError(f"{type(error).__name__}: {error}", hint=error.hint)
    return error
