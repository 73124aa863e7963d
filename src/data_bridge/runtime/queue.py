"""A bounded queue between the threads of a slot: closing it completes the stream, stopping it cancels every wait."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, TypeAlias, TypeVar

from data_bridge.model.metrics import QueueUse
from data_bridge.runtime.metrics import Levels, use_of

T = TypeVar("T")

Overflow: TypeAlias = Literal["BLOCK", "DROP_NEW", "KEEP_NEWEST"]
"""What a full queue does with another item: let its producer wait, refuse it, or throw out the oldest one."""


class QueueClosed(Exception):
    """The stream is complete: nothing may be put any more, or nothing is left to get."""


class Cancelled(Exception):
    """The work was stopped while this waited, or before; the stream is not complete."""


class Stop:
    """Told once; whatever waits in a queue or pool that knows it ends at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._calls: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Cancel every wait, now and later."""
        with self._lock:
            if self._set:
                return
            self._set = True
            calls = tuple(self._calls)
        for call in calls:
            call()

    def then(self, call: Callable[[], None]) -> None:
        """Call this when it is told, or at once if it was."""
        with self._lock:
            if not self._set:
                self._calls.append(call)
                return
        call()


class Queue(Generic[T]):
    """At most `capacity` items on their way from any number of producers to any number of consumers, in order.

    It is closed by the last of its producers, or by `close`; what is in it can still be got. `on_drop` is called, without
    a lock, with every item that was put and will never be got.
    """

    def __init__(
        self,
        capacity: int,
        *,
        name: str = "output",
        overflow: Overflow = "BLOCK",
        stop: Stop | None = None,
        on_drop: Callable[[T], object] = lambda _: None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"a queue of capacity {capacity}")
        self.name = name
        self.capacity = capacity
        self._overflow = overflow
        self._stop = stop or Stop()
        self._on_drop = on_drop
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._filled = threading.Condition(self._lock)
        self._producers = 0
        self._closed = False
        self._levels = Levels()
        self._stop.then(self._wake)

    def producer(self) -> "Producer[T]":
        """One more producer. Raises QueueClosed when the stream is complete."""
        with self._lock:
            if self._closed:
                raise QueueClosed(self.name)
            self._producers += 1
        return Producer(self)

    @property
    def closed(self) -> bool:
        """Whether nothing more comes; something may be left to get."""
        return self._closed

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """Nothing more comes, whoever still produces: their waiting puts end with QueueClosed."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
            self._filled.notify_all()

    def get(self, timeout_s: float | None = None) -> T | None:
        """The oldest item, waiting for one; None when there is none in time.

        Raises QueueClosed when the stream is complete and empty, Cancelled when the work is stopped.
        """
        with self._lock:
            if not self._filled.wait_for(self._ready, timeout_s):
                return None
            return self._take(1)[0]

    def try_get(self) -> T | None:
        """The oldest item if there is one. Raises as `get`."""
        return self.get(0)

    def get_many(self, count: int) -> list[T]:
        """The next `count` items, more than the capacity if need be; fewer only at the end of the stream. Raises as `get`;
        what a cancelled call had is back in the queue."""
        got: list[T] = []
        with self._lock:
            try:
                while len(got) < count:
                    self._filled.wait_for(self._ready)
                    got += self._take(count - len(got))
            except QueueClosed:
                if not got:
                    raise
            except Cancelled:
                self._items.extendleft(reversed(got))
                self._levels.got -= len(got)
                raise
        return got

    def __iter__(self) -> Iterator[T]:
        """Items up to the end of the stream. Raises Cancelled when the work is stopped."""
        while True:
            try:
                (item,) = self.get_many(1)
            except QueueClosed:
                return
            yield item

    def discard(self) -> int:
        """Close it and drop what is left; returns how many that were."""
        self.close()
        with self._lock:
            left = list(self._items)
            self._items.clear()
            self._levels.dropped += len(left)
        self._drop(left)
        return len(left)

    def evict(self) -> bool:
        """Drop the oldest item, as a put would that needs room; False where there is none."""
        with self._lock:
            if not self._items:
                return False
            oldest = self._items.popleft()
            self._levels.dropped += 1
            self._levels.look(len(self._items))
            self._room.notify_all()
        self._drop((oldest,))
        return True

    def refuse(self) -> None:
        """Count an item as put and dropped that could not even be made: there was no memory for it."""
        with self._lock:
            self._levels.put += 1
            self._levels.dropped += 1

    def flush(self) -> QueueUse:
        """What happened since the last flush."""
        with self._lock:
            levels, self._levels = self._levels, Levels()
            levels.look(len(self._items))
        return use_of(self.name, levels, self.capacity)

    def put_all(self, items: Sequence[T], timeout_s: float | None = None) -> int:
        """Put items in order; see `Producer.put_many`."""
        dropped: list[T] = []
        with self._lock:
            self._check_open()
            if self._overflow == "BLOCK":
                return self._put_waiting(items, timeout_s)
            if self._overflow == "DROP_NEW":
                kept = items[: self.capacity - len(self._items)]
                dropped += items[len(kept) :]
            else:
                kept = items[-self.capacity :]
                while self._items and len(self._items) + len(kept) > self.capacity:
                    dropped.append(self._items.popleft())
                dropped += items[: len(items) - len(kept)]
            self._levels.put += len(items) - len(kept)
            self._levels.dropped += len(dropped)
            self._append(kept)
        self._drop(dropped)
        return len(kept)

    def _put_waiting(self, items: Sequence[T], timeout_s: float | None) -> int:
        """Put items as room comes; returns how many that were."""
        done = 0
        while done < len(items):
            if not self._room.wait_for(lambda: self._over() or len(self._items) < self.capacity, timeout_s):
                break
            self._check_open()
            some = items[done : done + self.capacity - len(self._items)]
            self._append(some)
            done += len(some)
        return done

    def _append(self, items: Sequence[T]) -> None:
        if items:
            self._items.extend(items)
            self._levels.put += len(items)
            self._levels.look(len(self._items))
            self._filled.notify_all()

    def _take(self, count: int) -> list[T]:
        got = [self._items.popleft() for _ in range(min(count, len(self._items)))]
        self._levels.got += len(got)
        self._levels.look(len(self._items))
        self._room.notify_all()
        return got

    def _ready(self) -> bool:
        """Whether there is an item. Raises when none will come."""
        if self._stop.is_set:
            raise Cancelled(self.name)
        if not self._items and self._closed:
            raise QueueClosed(self.name)
        return bool(self._items)

    def _over(self) -> bool:
        return self._closed or self._stop.is_set

    def _check_open(self) -> None:
        if self._stop.is_set:
            raise Cancelled(self.name)
        if self._closed:
            raise QueueClosed(self.name)

    def _drop(self, items: Sequence[T]) -> None:
        for item in items:
            self._on_drop(item)

    def _wake(self) -> None:
        with self._lock:
            self._room.notify_all()
            self._filled.notify_all()

    def _leave(self) -> None:
        with self._lock:
            self._producers -= 1
            last = not self._producers
        if last:
            self.close()


class Producer(Generic[T]):
    """One producer's hold on a queue; the last one that closes completes the stream."""

    def __init__(self, queue: Queue[T]) -> None:
        self._queue = queue
        self._closed = False

    def put(self, item: T, timeout_s: float | None = None) -> bool:
        """Put an item, waiting for room in a queue that blocks; False when it was dropped or no room came in time.

        Raises QueueClosed when the stream is complete, Cancelled when the work is stopped.
        """
        return self.put_many((item,), timeout_s) == 1

    def put_many(self, items: Sequence[T], timeout_s: float | None = None) -> int:
        """Put items in order, more than the capacity if need be; returns how many were neither dropped nor left over.

        `timeout_s` is for each wait. Raises as `put`; items put before that stay in the queue.
        """
        if self._closed:
            raise QueueClosed(self._queue.name)
        return self._queue.put_all(items, timeout_s)

    def close(self) -> None:
        """This producer is done."""
        if not self._closed:
            self._closed = True
            self._queue._leave()  # noqa: SLF001 - two faces of one thing

    def __enter__(self) -> "Producer[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
