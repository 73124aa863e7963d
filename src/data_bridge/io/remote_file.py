"""A remote file read at random: large reads in several requests, and what comes next fetched before it is asked for."""

import io
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial

from data_bridge.io.ahead import JOIN_S, Ranges, read_in_ranges
from data_bridge.io.ranged import Watch
from data_bridge.utils.budget import ByteBudget

PARTS = Ranges(first_bytes=4 << 20, bytes=4 << 20)
"""How a large read at random is split: all of it is waited for, so its parts are smaller than those of a stream."""

Read = Callable[[int, int, Watch], Iterator[bytes]]


class RangedFile(io.RawIOBase):
    """A seekable view of remote bytes, for one thread at a time; a `readinto` is one exact ranged read, or several at
    once where it is large."""

    def __init__(
        self,
        read: Read,
        size: int,
        budget: ByteBudget,
        *,
        split: Callable[[], bool],
        parts: Ranges = PARTS,
        ahead: Ranges | None = None,
    ) -> None:
        """`split` says whether the server is known to give out ranges; `parts` and `ahead` how a large read, and what
        is expected, are then split."""
        super().__init__()
        self._read_range = read
        self._size = size
        self._budget = budget
        self._split = split
        self._parts = parts
        self._ahead = ahead or Ranges()
        self._account = budget.account("read")
        self._expected: list[_Expected] = []
        self._dropped: list[_Expected] = []
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of the file")
        self._at = base + offset
        return self._at

    def expect(self, start: int, end: int) -> bool:
        """Have bytes [start, end) fetched in the background, to be read in any order. False where memory has no room."""
        there = self._account.try_acquire(end - start)
        if there:
            self._expected.append(_Expected(partial(self._blocks, self._ahead), start, end))
        return there

    def forget(self, before: int) -> None:
        """What is expected before this byte will be read no more."""
        for expected in [e for e in self._expected if e.end <= before]:
            self._drop(expected)

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        view = view[: max(0, min(len(view), self._size - self._at))]
        filled = 0
        expected = next((e for e in self._expected if e.start <= self._at < e.end), None)
        if expected is not None and len(view):
            filled = expected.copy(self._at, view)
        elif len(view):
            for block in self._blocks(self._parts, self._at, self._at + len(view), Watch()):
                view[filled : filled + len(block)] = block
                filled += len(block)
        self._at += filled
        return filled

    def close(self) -> None:
        for expected in list(self._expected):
            self._drop(expected)
        for expected in self._dropped:
            expected.join()
        self._account.close()
        super().close()

    def _blocks(self, ranges: Ranges, start: int, end: int, watch: Watch) -> Iterator[bytes]:
        if not self._split() or not ranges.worthwhile(end - start):
            return self._read_range(start, end, watch)
        return read_in_ranges(self._read_range, start, end, self._budget.account("read"), ranges, watch)

    def _drop(self, expected: "_Expected") -> None:
        self._expected.remove(expected)
        expected.stop()
        self._dropped = [*(old for old in self._dropped if old.alive), expected]
        self._account.release(expected.end - expected.start)


class _Expected:
    """Bytes [start, end) on their way into memory, fetched by a thread; its error is raised by whoever reads them.

    They stay the blocks they came in: one large buffer would be fresh memory each time, which costs more than the copy.
    """

    def __init__(self, blocks: Callable[[int, int, Watch], Iterator[bytes]], start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._there = start
        self._starts: list[int] = []
        self._blocks: list[bytes] = []
        self._more = threading.Condition()
        self._error: BaseException | None = None
        self._watch = Watch()
        self._thread = threading.Thread(target=self._fill, args=(blocks,), name="data-bridge-read-ahead", daemon=True)
        self._thread.start()

    def _fill(self, blocks: Callable[[int, int, Watch], Iterator[bytes]]) -> None:
        error: BaseException | None = None
        try:
            for block in blocks(self.start, self.end, self._watch):
                with self._more:
                    if self._watch.stopped.is_set():
                        break
                    self._starts.append(self._there)
                    self._blocks.append(block)
                    self._there += len(block)
                    self._more.notify_all()
        except BaseException as raised:  # noqa: BLE001  raised again in the thread that reads
            error = raised
        with self._more:
            self._error = error
            self._more.notify_all()

    def copy(self, at: int, into: memoryview) -> int:
        """As many bytes from `at` on as are expected here and fit, once they are there; returns how many."""
        end = min(at + len(into), self.end)
        with self._more:
            self._more.wait_for(lambda: self._there >= end or self._error is not None)
            if self._there < end and self._error is not None:
                raise self._error
        copied = 0
        for number in range(bisect_right(self._starts, at) - 1, bisect_left(self._starts, end)):
            start = self._starts[number]
            piece = memoryview(self._blocks[number])[at + copied - start : end - start]
            into[copied : copied + len(piece)] = piece
            copied += len(piece)
        return copied

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Have the thread end, in the middle of whatever it does. What is there is no longer needed."""
        self._watch.stop()
        with self._more:
            self._blocks.clear()

    def join(self) -> None:
        self._thread.join(JOIN_S)
