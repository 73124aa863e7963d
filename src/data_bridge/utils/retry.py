"""The only retry loop of the product: again on `RetryableError`, with patience that progress renews."""

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from data_bridge.errors import BusyError, DiskFullError, RetryableError

T = TypeVar("T")


class Retry(msgspec.Struct, frozen=True):
    """Repeats a call that raises `RetryableError`, at most `tries` times and `total_s` seconds after its first failure.

    Waits grow from `first_s` to `longest_s`, each shortened by up to half at random; an error's `retry_after`
    attribute (seconds), where it has one, is the least that is waited. `BusyError` and `DiskFullError` are not
    cured by seconds of waiting and pass through at once. When patience ends, the last error is raised.
    """

    tries: int = 5
    first_s: float = 0.5
    longest_s: float = 30.0
    total_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep  # noqa: TID251 - the one place that waits
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def __call__(self, call: Callable[[], T], *, progress: Callable[[], object] | None = None) -> T:
        """The result of `call`. Where `progress()` changed since the last failure, counting starts anew."""
        patience = _Patience(self)
        seen = progress() if progress is not None else None
        while True:
            try:
                return call()
            except (BusyError, DiskFullError):
                raise
            except RetryableError as error:
                if progress is not None and (now := progress()) != seen:
                    seen = now
                    patience.renew()
                patience.wait(error)

    def resuming(self, open_at: Callable[[int], Iterator[bytes]], start: int = 0) -> Iterator[bytes]:
        """The blocks of `open_at(offset)`, reopened at the byte after the last one given out; each block is progress."""
        offset = start
        patience = _Patience(self)
        while True:
            try:
                for block in open_at(offset):
                    offset += len(block)
                    patience.renew()
                    yield block
                return
            except (BusyError, DiskFullError):
                raise
            except RetryableError as error:
                patience.wait(error)


class _Patience:
    """What is left of a `Retry` since the last progress."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self.renew()

    def renew(self) -> None:
        self._failures = 0
        self._first_failure_s = 0.0

    def wait(self, error: RetryableError) -> None:
        """Sleep before the next try, or raise `error` when there is none."""
        retry = self._retry
        now_s = retry.clock()
        if self._failures == 0:
            self._first_failure_s = now_s
        self._failures += 1
        # the exponent is bounded because 2.0 ** 1100 overflows
        delay_s = min(retry.longest_s, retry.first_s * 2.0 ** min(self._failures - 1, 60))
        delay_s *= 1 - retry.jitter() / 2
        delay_s = max(delay_s, float(getattr(error, "retry_after", None) or 0))
        if self._failures >= retry.tries or now_s + delay_s - self._first_failure_s > retry.total_s:
            raise error
        retry.sleep(delay_s)
