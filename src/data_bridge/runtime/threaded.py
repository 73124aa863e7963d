"""A stage that waits more than it computes: rows of several packets at once over one pool of threads, packets in order."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import repeat
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from data_bridge.errors import Interrupted
from data_bridge.model.batch import Row
from data_bridge.runtime.flights import Batches, Flight, Landed, Packet, Rows
from data_bridge.runtime.graph import WINDOW
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.stage import Stage, StageBatch

WORKERS = 8
"""Threads, unless told otherwise."""

LOOK_S = 0.1
"""How often who waits for a row says that it waits, and asks whether it is still to."""

Packet_contra = TypeVar("Packet_contra", contravariant=True)


@runtime_checkable
class Rowwise(Protocol):
    """A stage that makes one row of one row, from any number of threads at a time."""

    def one(self, row: Row) -> Row | Measured[Row]:
        """What becomes of a row; an exception is its failure, a BridgeError that of the run."""
        ...

    def interrupt(self) -> None:
        """Make those who wait in `one` give up: their results are not wanted any more. From any thread."""
        ...


class Telling(Protocol):
    """The same in a stage's place, for which it matters which row of the partition it is."""

    def one(self, row: Row, identity: int) -> Row | Measured[Row]:
        """As `Rowwise.one`; `identity` is that of `runtime.stage.identities`."""
        ...

    def interrupt(self) -> None:
        """As `Rowwise.interrupt`."""
        ...


class Admitted(Protocol[Packet_contra]):
    """Whether there is memory for a packet; there must be for one that is alone."""

    def __call__(self, packet: Packet_contra, *, alone: bool) -> bool: ...


class Threaded(Generic[Packet]):
    """Applies a stage to packets, row by row, in threads. What comes out is what `stage.process` makes of each packet.

    A stage that is `Rowwise`, or `telling` in its place, is asked for one row at a time; any other is given batches of one
    row. Rows of up to `window` packets are in flight, so that a slow row holds up its own packet alone. The first exception that concerns
    more than a row is raised in its packet's turn. Leaving the block ends the threads, at once where the stage knows
    how to interrupt itself. While what came of those packets has `total` bytes or more, rows of the first of them alone
    are begun. `alive` is called, from any thread, whenever a row is done and while rows are waited for: a server may take
    its time, and how long it may is for the stage to say. Once `stopped()`, no more rows are waited for.
    """

    def __init__(
        self,
        stage: Stage[Any],
        workers: int = WORKERS,
        window: int = WINDOW,
        *,
        telling: Telling | None = None,
        total: int | None = None,
        alive: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stage = stage
        self._workers = workers
        self._window = window
        self._total = total
        self._alive = alive
        self._stopped = stopped
        self._one: Callable[[Row, int], Row | Measured[Row]] | None = None
        self._asked: Telling | Rowwise | None = telling
        if telling is not None:
            self._one = telling.one
        elif isinstance(stage, Rowwise):
            self._asked, of = stage, stage.one
            self._one = lambda row, _identity: of(row)
        self._flights: deque[Flight[Packet]] = deque()
        self._todo: deque[tuple[Flight[Packet], int]] = deque()
        self._changed = threading.Condition()
        self._starting = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._closed = False
        self._busy = 0

    def __enter__(self) -> "Threaded[Packet]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """Rows at work at a time. May be changed while packets are in flight: rows in work are not given up."""
        return self._workers

    @workers.setter
    def workers(self, wanted: int) -> None:
        with self._changed:
            self._workers = wanted
            self._changed.notify_all()
        if self._threads:
            self._start()

    def map(
        self,
        packets: Iterable[Packet],
        batch: Callable[[Packet], StageBatch],
        admitted: Admitted[Packet] = lambda packet, *, alone: True,  # noqa: ARG005 - the names are the protocol's
    ) -> Generator[Landed[Packet]]:
        """Each packet with what became of `batch(packet)`, in order. At most once at a time.

        Packets wait until they are `admitted`, while those before them land.

        An exception of `packets` is raised behind the results of the packets before it. Raises Interrupted once closed
        or stopped, with rows still on their way.
        """
        flights = self._flights
        error: Exception | None = None
        coming = iter(packets)
        try:
            while True:
                try:
                    packet = next(coming)
                except StopIteration:
                    break
                except Exception as raised:  # noqa: BLE001 - raised again behind the results before it
                    error = raised
                    break
                while not admitted(packet, alone=not flights):
                    yield self._landed()
                self._launch(packet, batch(packet))
                while flights and (len(flights) >= self._window or flights[0].landed):
                    yield self._landed()
            while flights:
                yield self._landed()
        finally:
            self._forget()
        if error is not None:
            raise error

    def close(self) -> None:
        """End the threads; what is in flight is given up, and who waits for it is told. From any thread."""
        with self._changed:
            self._closed = True
            dropped = {id(flight): flight for flight, _ in self._todo}
            self._todo.clear()
            self._changed.notify_all()
            busy = self._busy > 0
        for flight in dropped.values():
            flight.give_up()
        if self._asked is not None and busy:
            self._asked.interrupt()
        for thread in list(self._threads.values()):
            thread.join()
        self._threads.clear()

    def _launch(self, packet: Packet, batch: StageBatch) -> None:
        one = self._one
        flight: Flight[Packet] = (
            Batches(packet, batch, self._stage) if one is None else Rows(packet, batch, self._stage, one)
        )
        if flight.count:
            self._start()
        with self._changed:
            self._flights.append(flight)
            self._todo.extend(zip(repeat(flight), range(flight.count)))
            self._changed.notify(flight.count)

    def _landed(self) -> Landed[Packet]:
        flight = self._flights[0]
        while not flight.waited(LOOK_S):
            self._alive()
            if self._closed:
                raise Interrupted("the stage was stopped while samples were on their way")
            if self._stopped():
                raise Interrupted("the run was stopped while samples were on their way")
        landed = flight.land()
        if self._closed:  # rows that were interrupted look like failures
            raise Interrupted("the stage was stopped while samples were on their way")
        with self._changed:
            self._flights.popleft()
            if self._todo:
                self._changed.notify_all()  # there is room, and another is the first
        return landed

    def _start(self) -> None:
        with self._starting:
            for number in range(0 if self._closed else self._workers):
                thread = self._threads.get(number)
                if thread is None or not thread.is_alive():
                    name = f"{self._stage.kind}-{number}"
                    thread = threading.Thread(target=self._work, args=(number,), name=name, daemon=True)
                    self._threads[number] = thread
                    thread.start()

    def _forget(self) -> None:
        with self._changed:
            self._flights.clear()
            self._todo.clear()

    def _work(self, number: int) -> None:
        while (task := self._next(number)) is not None:
            flight, row = task
            flight.do(row, self._finished)
            self._alive()

    def _finished(self) -> None:
        with self._changed:
            self._busy -= 1

    def _next(self, number: int) -> "tuple[Flight[Packet], int] | None":
        """The next row, or None for a thread that is not wanted any more."""
        with self._changed:
            while not (self._todo and self._fits(self._todo[0][0])) and not self._closed and number < self._workers:
                self._changed.wait()
            if self._closed or number >= self._workers:
                return None
            self._busy += 1
            return self._todo.popleft()

    def _fits(self, flight: "Flight[Packet]") -> bool:
        """Whether a row of it may be begun."""
        return (
            self._total is None or flight is self._flights[0] or sum(each.size for each in self._flights) < self._total
        )
