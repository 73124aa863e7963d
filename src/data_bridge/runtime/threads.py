"""One thread before the work, one behind it: for what releases the interpreter's lock while it takes its time."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Iterator[Item]):
    """The items of an iterator, taken by a thread as long as fewer than `most` of them and fewer than `most_bytes` wait.

    An exception comes in its turn. The iterator belongs to the thread until `stop` has returned.
    """

    def __init__(self, items: Iterator[Item], size: Callable[[Item], int], most: int, most_bytes: int) -> None:
        self._items = items
        self._size = size
        self._most = most
        self._most_bytes = most_bytes
        self._ready: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                item, size = self._ready.popleft()
                self._bytes -= size
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration

    def stop(self) -> None:
        """Take no more; returns when the iterator is at rest."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _may_go_on(self) -> bool:
        return self._stopped or (len(self._ready) < self._most and self._bytes < self._most_bytes)

    def _loop(self) -> None:
        try:
            for item in self._items:
                size = self._size(item)
                with self._changed:
                    self._ready.append((item, size))
                    self._bytes += size
                    self._changed.notify_all()
                    del item
                    self._changed.wait_for(self._may_go_on)
                    if self._stopped:
                        return
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asks for the next item
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


class Behind(Generic[Item]):
    """Applies a function to items in a thread, in order. Its first exception is raised by whatever is called next.

    At most `most_bytes` wait, or one item.
    """

    def __init__(self, work: Callable[[Item], None], most_bytes: int) -> None:
        self._work = work
        self._most = most_bytes
        self._waiting: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="behind", daemon=True)
        self._thread.start()

    def put(self, item: Item, size: int) -> None:
        """Have it done after those before it; waits while too much does."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._bytes or self._bytes + size <= self._most)
            if self._error is not None:
                raise self._error
            self._waiting.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def end(self) -> None:
        """Return when everything is done."""
        self._join()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        """Return when nothing is being done; what waits is forgotten."""
        with self._changed:
            self._waiting.clear()
        self._join()

    def _join(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                item, size = self._waiting.popleft()
            try:
                self._work(item)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that hands out the work
                with self._changed:
                    self._error = error
                    self._waiting.clear()
                    self._changed.notify_all()
                return
            del item
            with self._changed:
                self._bytes -= size
                self._changed.notify_all()
