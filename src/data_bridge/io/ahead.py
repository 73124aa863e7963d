"""Remote bytes read ahead of their use by threads, in one request or several at once, and given out in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from data_bridge.io.ranged import Watch
from data_bridge.utils.budget import Account

BLOCKS_AHEAD = 4
JOIN_S = 1.0  # an aborted read ends at once; one that cannot be aborted ends at its own timeout, unwaited for


class Ranges(msgspec.Struct, frozen=True):
    """How a large file is read in several requests at once.

    The first request is small and alone, so that the first bytes come as soon as they can; the second begins when its
    first block is there. More than two are made only while the reader waits for bytes: several connections cost
    processor time, which a reader that is slower than one of them would rather have itself.
    """

    first_bytes: int = 1 << 20
    bytes: int = 16 << 20
    at_once: int = 4

    def worthwhile(self, size: int) -> bool:
        """Whether so many bytes are better read in several requests."""
        return size > self.first_bytes + self.bytes

    def cut(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Bytes [start, end) as the ranges to ask for; the last one may be half as long again."""
        at, size = start, self.first_bytes
        while at < end:
            stop = at + size if end - at > size + self.bytes // 2 else end
            yield at, stop
            at, size = stop, self.bytes


def read_ahead(
    source: Callable[[Watch], Iterator[bytes]], account: Account, depth: int = BLOCKS_AHEAD
) -> Iterator[bytes]:
    """The blocks of `source`, read by a thread at most `depth` blocks ahead, which ends with this iterator."""
    stretch = _Stretch(source, account, depth)
    try:
        yield from stretch
    finally:
        stretch.stop()
        account.close()
        stretch.join()


def read_in_ranges(
    source: Callable[[int, int, Watch], Iterator[bytes]],
    start: int,
    end: int,
    account: Account,
    ranges: Ranges,
    watch: Watch | None = None,
) -> Iterator[bytes]:
    """Bytes [start, end) in order, where `source(start, end, watch)` reads a range and several are read at once.

    Ranges in flight fit the account's budget, down to a single one; their threads end with this iterator, which a
    `watch` can end early from another thread.
    """
    spans = deque(ranges.cut(start, end))
    running: deque[_Stretch] = deque()
    at_once = 1

    def begin() -> None:
        while spans and len(running) < at_once and (not running or account.try_acquire(_size(spans[0]))):
            if not running and not account.acquire(_size(spans[0])):
                return
            low, high = spans.popleft()
            running.append(_Stretch(lambda watch, low=low, high=high: source(low, high, watch), account))  # type: ignore[misc]

    def stop() -> None:
        for stretch in tuple(running):
            stretch.stop()

    try:
        if watch is not None:
            watch.whenever_stopped(stop)
        begin()
        while running and not (watch is not None and watch.stopped.is_set()):
            for block in running[0]:
                waited, running[0].waited = running[0].waited, False
                # the first block of all is always waited for
                at_once = min(at_once + 1, ranges.at_once) if waited or at_once == 1 else at_once
                begin()
                yield block
            running.popleft()
            if running and running[0].filled:
                at_once = max(2, at_once - 1)
            begin()
    finally:
        for stretch in running:
            stretch.stop()
        account.close()
        until_s = time.monotonic() + JOIN_S
        for stretch in running:
            stretch.join(until_s - time.monotonic())


def _size(span: tuple[int, int]) -> int:
    return span[1] - span[0]


class _Stretch:
    """Blocks that a thread of its own reads; an error of the thread is raised where the blocks before it end.

    With a `depth` the thread holds each block's bytes on the account and keeps at most so many; without, they are
    held already. Either way they are given back when the block after them is asked for.
    """

    def __init__(self, source: Callable[[Watch], Iterator[bytes]], account: Account, depth: int | None = None) -> None:
        self._account = account
        self._depth = depth
        self._blocks: deque[bytes] = deque()
        self._turn = threading.Condition()
        self.filled = False
        """Whether the thread is done."""
        self.waited = False
        """Set when a block had to be waited for."""
        self._stopped = False
        self._error: BaseException | None = None
        self._watch = Watch()
        self._thread = threading.Thread(target=self._fill, args=(source,), name="data-bridge-read-ahead", daemon=True)
        self._thread.start()

    def _fill(self, source: Callable[[Watch], Iterator[bytes]]) -> None:
        try:
            for block in source(self._watch):
                if not self._put(block):
                    break
        except BaseException as error:  # noqa: BLE001  every error is raised again in the thread that reads
            self._error = error
        with self._turn:
            self.filled = True
            self._turn.notify_all()

    def _put(self, block: bytes) -> bool:
        if self._depth is not None and not self._account.acquire(len(block)):
            return False
        with self._turn:
            while self._depth is not None and len(self._blocks) >= self._depth and not self._stopped:
                self._turn.wait()
            self._blocks.append(block)
            self._turn.notify_all()
            return not self._stopped

    def stop(self) -> None:
        """Have the thread end, in the middle of whatever it does."""
        self._watch.stop()
        with self._turn:
            self._stopped = True
            self._blocks.clear()
            self._turn.notify_all()

    def join(self, timeout_s: float = JOIN_S) -> None:
        self._thread.join(max(0.0, timeout_s))

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._turn:
                while not self._blocks and not self.filled and not self._stopped:
                    self.waited = True
                    self._turn.wait()
                if not self._blocks:
                    break
                block = self._blocks.popleft()
                self._turn.notify_all()
            yield block
            self._account.release(len(block))
        if self._error is not None:
            raise self._error
