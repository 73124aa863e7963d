"""A stage that waits more than it computes: rows of several packets at once over one pool of threads, packets in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import repeat
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
import numpy as np
from msgspec.structs import replace

from data_bridge.errors import BridgeError, Interrupted
from data_bridge.model.batch import DictRows, Row, RowFailure
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined, size_of, size_of_row
from data_bridge.runtime.fitting import entering, fitted
from data_bridge.runtime.graph import WINDOW
from data_bridge.runtime.stage import Result, Stage, StageBatch, reason

WORKERS = 8
"""Threads, unless told otherwise."""

LOOK_S = 0.1
"""How often who waits for a row says that it waits, and asks whether it is still to."""

Packet = TypeVar("Packet")
Packet_contra = TypeVar("Packet_contra", contravariant=True)
Results: TypeAlias = Result | Mapping[str, Result]


@runtime_checkable
class Rowwise(Protocol):
    """A stage that makes one row of one row, from any number of threads at a time."""

    def one(self, row: Row) -> Row:
        """What becomes of a row; an exception is its failure, a BridgeError that of the run."""
        ...

    def interrupt(self) -> None:
        """Make those who wait in `one` give up: their results are not wanted any more. From any thread."""
        ...


class Landed(msgspec.Struct, Generic[Packet], frozen=True):
    """A packet that is done. `busy_s` adds up what its rows took, waiting included."""

    packet: Packet
    result: Results
    busy_s: float


class Admitted(Protocol[Packet_contra]):
    """Whether there is memory for a packet; there must be for one that is alone."""

    def __call__(self, packet: Packet_contra, *, alone: bool) -> bool: ...


class Threaded(Generic[Packet]):
    """Applies a stage to packets, row by row, in threads. What comes out is what `stage.process` makes of each packet.

    A stage that is `Rowwise` is asked for one row at a time; any other is given batches of one row. Rows of up to
    `window` packets are in flight, so that a slow row holds up its own packet alone. The first exception that concerns
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
        self._rowwise = stage if isinstance(stage, Rowwise) else None
        self._flights: deque[_Flight[Packet]] = deque()
        self._todo: deque[tuple[_Flight[Packet], int]] = deque()
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
        if self._rowwise is not None and busy:
            self._rowwise.interrupt()
        for thread in list(self._threads.values()):
            thread.join()
        self._threads.clear()

    def _launch(self, packet: Packet, batch: StageBatch) -> None:
        flight: _Flight[Packet] = (
            _Batches(packet, batch, self._stage)
            if self._rowwise is None
            else _Rows(packet, batch, self._stage, self._rowwise)
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
            for number in range(self._workers):
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

    def _next(self, number: int) -> "tuple[_Flight[Packet], int] | None":
        """The next row, or None for a thread that is not wanted any more."""
        with self._changed:
            while not (self._todo and self._fits(self._todo[0][0])) and not self._closed and number < self._workers:
                self._changed.wait()
            if self._closed or number >= self._workers:
                return None
            self._busy += 1
            return self._todo.popleft()

    def _fits(self, flight: "_Flight[Packet]") -> bool:
        """Whether a row of it may be begun."""
        return (
            self._total is None or flight is self._flights[0] or sum(each.size for each in self._flights) < self._total
        )


class _Flight(Generic[Packet]):
    """A packet on its way: `count` pieces of work, each done by some thread."""

    def __init__(self, packet: Packet, count: int) -> None:
        self.packet = packet
        self.count = count
        self._found: list[Any] = [None] * count
        self._left = count
        self.size = 0
        """Bytes that came of it until now, about."""
        self._busy_s = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not count:
            self._done.set()

    @property
    def landed(self) -> bool:
        return self._done.is_set()

    def do(self, piece: int, finished: Callable[[], None]) -> None:
        """Do a piece; `finished` is told before whoever waits for the packet."""
        began = time.perf_counter()
        size = 0
        try:
            self._found[piece], size = self._apply(piece)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that takes the result
            self._found[piece] = _Raised(error)
        took = time.perf_counter() - began
        finished()
        with self._lock:
            self._busy_s += took
            self.size += size
            self._left -= 1
            last = self._left == 0
        if last:
            self._done.set()

    def give_up(self) -> None:
        """Nobody does the rest: whoever waits gets Interrupted."""
        self._found.append(_Raised(Interrupted("the stage was stopped while samples were on their way")))
        self._done.set()

    def waited(self, seconds: float) -> bool:
        """Wait for the last piece; whether it is done."""
        return self._done.wait(seconds)

    def land(self) -> Landed[Packet]:
        """What became of it, once it is done. Raises what the first of the pieces raised."""
        for found in self._found:
            if isinstance(found, _Raised):
                raise found.error
        return Landed(self.packet, self._result(self._found), self._busy_s)

    def _apply(self, piece: int) -> tuple[Any, int]:
        """What becomes of a piece, and its bytes, about."""
        raise NotImplementedError

    def _result(self, found: list[Any]) -> Results:
        raise NotImplementedError


class _Raised(msgspec.Struct, frozen=True):
    error: BaseException


class _Rows(_Flight[Packet]):
    """A packet whose rows are done one by one, as `StageBatch.each` does them."""

    def __init__(self, packet: Packet, batch: StageBatch, stage: Stage[Any], rowwise: Rowwise) -> None:
        self._entered = entering(stage, batch)
        self._rows, self._positions, self._bad = decode(self._entered.batch.rows)
        self._one = rowwise.one
        super().__init__(packet, len(self._rows))

    def _apply(self, piece: int) -> tuple[Row | RowFailure, int]:
        try:
            row = self._one(dict(self._rows[piece]))  # others may hold the same
            return row, size_of_row(row)
        except BridgeError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything: the failure of this sample
            return RowFailure(int(self._positions[piece]), reason(error)), 0

    def _result(self, found: list[Any]) -> Results:
        failures = [each for each in found if isinstance(each, RowFailure)]
        good = np.array([not isinstance(each, RowFailure) for each in found], dtype=bool)
        rows = DictRows([each for each in found if not isinstance(each, RowFailure)])
        return self._entered.leaving(Result(rows, self._positions[good], self._bad).failing(failures))


class _Batches(_Flight[Packet]):
    """A packet whose rows go through the stage as batches of one."""

    def __init__(self, packet: Packet, batch: StageBatch, stage: Stage[Any]) -> None:
        self._batch = batch
        self._stage = stage
        super().__init__(packet, len(batch))

    def _apply(self, piece: int) -> tuple[Results, int]:
        batch = self._batch
        row = batch.rows.slice(piece, piece + 1)
        found = fitted(self._stage, StageBatch(row, batch.indices[piece : piece + 1], batch.prefix))
        made = (found,) if isinstance(found, Result) else found.values()
        return found, sum(size_of(each.rows) for each in made)

    def _result(self, found: list[Results]) -> Results:
        if not found:
            return fitted(self._stage, self._batch)
        first = found[0]
        if isinstance(first, Result):
            return _stacked(found)  # type: ignore[arg-type] # a stage gives one form
        return {name: _stacked([each[name] for each in found]) for name in first}  # type: ignore[index]


def _stacked(found: list[Result]) -> Result:
    """Results of rows 0, 1, … as the result of their batch."""
    parts = [each.rows for each in found]
    rows = joined([part for part in parts if len(part)] or parts[:1])
    failures = [replace(f, offset=at) for at, each in enumerate(found) for f in each.failures]
    origins = np.repeat(np.arange(len(found), dtype=np.int64), [len(part) for part in parts])
    if rows is not None:
        return Result(rows, origins, tuple(failures))
    decoded = [decode(part) for part in parts]
    good = [np.full(len(rows), at, dtype=np.int64) for at, (rows, _, _) in enumerate(decoded)]
    bad = [replace(f, offset=at) for at, (_, _, unread) in enumerate(decoded) for f in unread]
    made = DictRows([row for rows, _, _ in decoded for row in rows])
    return Result(made, np.concatenate(good), tuple(failures)).failing(bad)
