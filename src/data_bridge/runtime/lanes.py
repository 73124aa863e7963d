"""One function over many items on several cores, results in the order of the items."""

import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, Generic, Literal, TypeVar

import msgspec

from data_bridge.runtime.arena import Arena
from data_bridge.runtime.lane import Done, Failed, Inline, Lane
from data_bridge.runtime.threads import Ahead
from data_bridge.utils.budget import Account, ByteBudget

BUDGET_BYTES = 64_000_000
"""Items and results on their way, at most, whatever the number of cores."""
AHEAD, AHEAD_BYTES = 8, 16_000_000
"""Items, and their bytes, taken from their source before there is somebody to work on them, at most."""
BOXES = 32
"""Items on their way, at most."""
BOX_BYTES = 32 << 20
DEPTH = 12
"""Items a child has at a time: it must not run dry while its parent is at an item of its own, or its threads at the
interpreter's lock; with three it stood still for half of the time."""
TRIALS = range(1, 4)
"""Items by which is judged whether children are worth it; the first one pays for imports."""
WORTH = 2.0
"""An item must cost this many times what it costs to send it to a child and its result back."""
MOST_DEATHS = 3
"""Children that are replaced."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Flight(msgspec.Struct, Generic[Item, Result]):
    """An item on its way. `late` = to be computed here, when its turn comes."""

    item: Item
    size: int
    charge: int
    state: Literal["new", "away", "late", "done"] = "new"
    result: Any = None
    box: int | None = None


class Lanes(Generic[Item, Result]):
    """Maps a pure function over items in this process and in children, as many as `cores()` allows at the moment.

    `factory` makes the function, here and in each child, and is picklable; items and results should be. With one
    core there is no child and nothing is pickled. Children are started as they prove to be needed, end with the
    block and die with this process; one that dies on the way has its items done again here, as is one whose
    function raised: so an exception of the function is raised here, in the item's turn, and an item that kills
    its process kills this one. `alive` is called for every sign of life of a child: waiting for one gives none.
    What is on its way draws on `account`, and is never more than `budget_bytes` unless it is one item alone.
    """

    def __init__(
        self,
        factory: Callable[[], Callable[[Item], Result]],
        *,
        cores: Callable[[], int] = lambda: 1,
        alive: Callable[[], None] = lambda: None,
        account: Account | None = None,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._factory = factory
        self._function = factory()
        self._cores = cores
        self._alive = alive
        self._account = account or ByteBudget(budget_bytes).account("lanes")
        self._budget = budget_bytes
        self._ratio = 3.0  # bytes of an item and its result to bytes of the item: grows to what is seen
        self._charged = 0
        self._queue: deque[_Flight[Item, Result]] = deque()
        self._lanes: list[Lane[_Flight[Item, Result]]] = []
        self._ahead: Ahead[Item] | None = None
        self._arena: Arena | None = None
        self._pickled: bytes | None = None
        self._trial = _Trial()
        self._deaths = 0

    def __enter__(self) -> "Lanes[Item, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self.halt()
        for lane in self._lanes:
            lane.end()
        self._lanes.clear()
        self._queue.clear()
        if self._arena is not None:
            self._arena.close()

    def halt(self) -> None:
        """Draw no more items: whoever they come from is at rest afterwards, and can be closed. What is on its way is lost,
        and nothing more can be mapped."""
        self._account.close()  # first: what is drawn ahead may be waiting for memory held here
        if self._ahead is not None:
            self._ahead.stop()

    @property
    def children(self) -> int:
        """How many there are."""
        return len(self._lanes)

    def map(self, items: Iterable[Item], size: Callable[[Item], int]) -> Generator[tuple[Item, Result]]:
        """Each item with its result, in order. `size` is about how many bytes an item has.

        A result may be a view of shared memory: it stays as it is for as long as it is held. An exception of
        `items` is raised behind the results of the items before it. At most once at a time.
        """
        error: list[Exception] = []
        for item in _until_error(self._drawn(iter(items), size), error):
            bytes_ = size(item)
            flight: _Flight[Item, Result] = _Flight(item, bytes_, math.ceil(self._ratio * bytes_))
            while not self._admit(flight):
                if self._first_is_away:
                    self._listen(None)
                else:
                    yield self._land()
            while not self._give(flight):
                if self._queue and not self._first_is_away:
                    yield self._land()
                else:
                    self._do_here(flight)
                    break
            self._queue.append(flight)
            self._listen(0)
            while self._queue and not self._first_is_away:
                yield self._land()
        while self._queue:
            if self._first_is_away:
                self._listen(None)
            else:
                yield self._land()
        if error:
            raise error[0]

    def _drawn(self, items: Iterator[Item], size: Callable[[Item], int]) -> Iterator[Item]:
        """The items; in a thread of their own as soon as there is a second core."""
        while self._cores() == 1:
            try:
                item = next(items)
            except StopIteration:
                return
            yield item
        self._ahead = Ahead(items, size, AHEAD, AHEAD_BYTES)
        yield from self._ahead

    @property
    def _first_is_away(self) -> bool:
        """Whether the next result is still to come from a child."""
        return self._queue[0].state == "away"

    def _admit(self, flight: _Flight[Item, Result]) -> bool:
        """Whether it may be on its way beside the others; alone it always may."""
        within = len(self._queue) < BOXES and self._charged + flight.charge <= self._budget
        if (self._queue and not within) or not self._account.try_acquire(flight.charge):
            return False
        self._charged += flight.charge
        return True

    def _give(self, flight: _Flight[Item, Result]) -> bool:
        """Whether a child has it now, or it is known that none can have it."""
        wanted = self._lanes[: max(0, self._cores() - 1)]  # where cores became fewer, the others get nothing more
        free = [lane for lane in wanted if lane.ready and len(lane.flights) < DEPTH]
        if not free or self._arena is None or flight.charge > self._budget:
            return False
        box = self._arena.take()
        if box is None:
            return False
        try:
            spans = self._arena.put(box, flight.item)
        except (pickle.PicklingError, TypeError, AttributeError):
            spans = None
        if spans is None:
            self._arena.give_back(box)
            flight.state = "late"
            return True
        flight.state, flight.box = "away", box
        min(free, key=lambda lane: len(lane.flights)).send(flight, box, spans)
        return True

    def _do_here(self, flight: _Flight[Item, Result]) -> None:
        if not self._queue:
            flight.state = "late"  # its turn has come
        else:
            flight.state = self._done_early(flight)
        self._grow()

    def _done_early(self, flight: _Flight[Item, Result]) -> Literal["late", "done"]:
        try:
            flight.result = self._function(flight.item)
        except Exception:  # noqa: BLE001 - raised again when the results before it are out
            return "late"
        return "done"

    def _tried(self, item: Item) -> Result:
        """The result, and on the way a measurement of what it costs and what sending would cost."""
        started = time.thread_time()
        result = self._function(item)
        computed = time.thread_time()
        if not self._trial.over:
            arena = self._shared()
            box = arena.take()
            if box is not None:
                try:
                    spans = arena.put(box, item)
                    fitting = spans is not None and arena.put(box, result, spans[-1][1]) is not None
                except (pickle.PicklingError, TypeError, AttributeError):
                    fitting = False
                arena.give_back(box)
                sent = time.thread_time() - computed
                self._trial.add(computed - started, sent if fitting else float("inf"))
        return result

    def _grow(self) -> None:
        """Start children, twice as many as there are, when all of those are busy and it is worth it."""
        wanted = self._cores() - 1
        starting = any(not lane.ready for lane in self._lanes)
        if wanted <= len(self._lanes) or starting or self._deaths >= MOST_DEATHS or not self._trial.worth:
            return
        if self._pickled is None:
            self._pickled = pickle.dumps(self._factory)
        for _ in range(min(wanted - len(self._lanes), max(1, len(self._lanes)))):
            self._lanes.append(Lane(self._pickled, self._shared()))

    def _shared(self) -> Arena:
        if self._arena is None:
            self._arena = Arena(BOXES, BOX_BYTES)
        return self._arena

    def _listen(self, timeout_s: float | None) -> None:
        """Take what children have to say; with None, wait until one says something."""
        by_pipe = {lane.pipe: lane for lane in self._lanes}
        for pipe in wait(list(by_pipe), timeout_s) if by_pipe else ():
            self._hear(by_pipe[pipe])  # type: ignore[index] # the pipes asked for

    def _hear(self, lane: "Lane[_Flight[Item, Result]]") -> None:
        answer = lane.hear()
        self._alive()
        if answer is None:
            self._lost(lane)
            return
        if answer == "ready":
            return
        flight = lane.flights.popleft()
        assert self._arena is not None and flight.box is not None, "it went to a child in a box"
        match answer:
            case Done(spans=spans):
                self._learn(flight, spans[-1][1])
                flight.result = self._arena.lease(flight.box, spans, self._arena.give_back)
            case Inline(data=data):
                self._learn(flight, len(data))
                flight.result = pickle.loads(data)  # noqa: S301 - our child wrote it
                self._arena.give_back(flight.box)
            case Failed():
                self._arena.give_back(flight.box)
        flight.state = "late" if isinstance(answer, Failed) else "done"

    def _learn(self, flight: _Flight[Item, Result], used: int) -> None:
        if flight.size:
            self._ratio = max(self._ratio, used / flight.size)

    def _lost(self, lane: "Lane[_Flight[Item, Result]]") -> None:
        """A child is gone: what it had is done here, and it is replaced unless that happens again and again."""
        self._lanes.remove(lane)
        lane.end()  # before its boxes are used again
        self._deaths += 1 if lane.ready else MOST_DEATHS
        for flight in lane.flights:
            assert self._arena is not None and flight.box is not None, "it went to a child in a box"
            self._arena.give_back(flight.box)
            flight.state = "late"

    def _land(self) -> tuple[Item, Result]:
        flight = self._queue.popleft()
        self._charged -= flight.charge
        self._account.release(flight.charge)
        if flight.state == "late":
            sole = not self._lanes and self._cores() > 1
            flight.result = self._tried(flight.item) if sole else self._function(flight.item)
        return flight.item, flight.result


class _Trial:
    """What items cost, and what sending them costs, by the cheapest of a few."""

    def __init__(self) -> None:
        self._seen = 0
        self._computed = self._sent = float("inf")

    @property
    def over(self) -> bool:
        return self._seen >= TRIALS.stop

    @property
    def worth(self) -> bool:
        return self.over and self._computed >= WORTH * self._sent

    def add(self, computed_s: float, sent_s: float) -> None:
        if self._seen in TRIALS:
            self._computed, self._sent = min(self._computed, computed_s), min(self._sent, sent_s)
        self._seen += 1


def _until_error(items: Iterable[Item], error: list[Exception]) -> Iterator[Item]:
    """The items; an exception that ends them is kept, so that what came before it is not lost."""
    try:
        yield from items
    except Exception as raised:  # noqa: BLE001 - raised again behind the results
        error.append(raised)
