"""The retry loop: what is repeated, how long, and what renews its patience."""

from collections.abc import Callable, Iterator

import pytest

from data_bridge.errors import BusyError, DiskFullError, RetryableError, StoreError
from data_bridge.utils.retry import Retry


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def patient(clock: Clock, *, tries: int = 5, total_s: float = 120.0, jitter: float = 0.0) -> Retry:
    return Retry(tries=tries, total_s=total_s, sleep=clock.sleep, clock=clock, jitter=lambda: jitter)


def failing(times: int, error: Callable[[], Exception], result: str = "ok") -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def call() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error()
        return result

    return call, calls


def test_the_result_comes_through_after_failures_with_growing_waits() -> None:
    clock = Clock()
    call, calls = failing(3, lambda: RetryableError("down"))

    assert patient(clock)(call) == "ok"

    assert len(calls) == 4
    assert clock.slept == [0.5, 1.0, 2.0]


def test_the_last_error_is_raised_after_the_last_try() -> None:
    clock = Clock()
    call, calls = failing(99, lambda: RetryableError("down", hint="wait"))

    with pytest.raises(RetryableError, match="down") as caught:
        patient(clock, tries=3)(call)

    assert caught.value.hint == "wait"
    assert len(calls) == 3


@pytest.mark.parametrize("kind", [StoreError, BusyError, DiskFullError, KeyError])
def test_what_waiting_does_not_cure_is_raised_at_once(kind: type[Exception]) -> None:
    clock = Clock()
    call, calls = failing(99, lambda: kind("no"))

    with pytest.raises(kind):
        patient(clock)(call)

    assert len(calls) == 1
    assert clock.slept == []


def test_a_wait_is_shortened_by_chance_by_half_at_most() -> None:
    clock = Clock()
    call, _ = failing(2, lambda: RetryableError("down"))

    patient(clock, jitter=1.0)(call)

    assert clock.slept == [0.25, 0.5]


def test_waits_stop_growing_at_the_longest() -> None:
    clock = Clock()
    call, _ = failing(40, lambda: RetryableError("down"))

    Retry(tries=50, longest_s=4.0, total_s=1e9, sleep=clock.sleep, clock=clock, jitter=lambda: 0.0)(call)

    assert clock.slept[:5] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert max(clock.slept) == 4.0


def test_what_the_server_asks_to_wait_is_waited() -> None:
    clock = Clock()

    def busy() -> RetryableError:
        error = RetryableError("429")
        error.retry_after = 7  # type: ignore[attr-defined]
        return error

    call, _ = failing(1, busy)

    patient(clock)(call)

    assert clock.slept == [7]


def test_no_try_starts_after_the_total_time() -> None:
    clock = Clock()
    call, calls = failing(99, lambda: RetryableError("down"))

    with pytest.raises(RetryableError):
        patient(clock, tries=99, total_s=10.0)(call)

    assert sum(clock.slept) <= 10.0
    assert len(calls) == 5


def test_progress_renews_the_count_and_the_time() -> None:
    clock = Clock()
    done = 0

    def call() -> str:
        nonlocal done
        done += 1
        if done < 30:
            raise RetryableError("cut")
        return "ok"

    assert patient(clock, tries=2, total_s=1.0)(call, progress=lambda: done) == "ok"

    assert clock.slept == [0.5] * 29


def test_a_call_without_progress_is_given_up() -> None:
    clock = Clock()
    call, calls = failing(99, lambda: RetryableError("cut"))

    with pytest.raises(RetryableError):
        patient(clock, tries=4)(call, progress=lambda: 17)

    assert len(calls) == 4


def test_a_stream_resumes_at_the_byte_after_the_last_one_given_out() -> None:
    clock = Clock()
    content = bytes(range(200))
    opened: list[int] = []

    def open_at(offset: int) -> Iterator[bytes]:
        opened.append(offset)
        for at in range(offset, min(offset + 30, 200), 10):
            yield content[at : at + 10]
        if offset + 30 < 200:
            raise RetryableError("cut")

    got = b"".join(patient(clock, tries=2, total_s=1.0).resuming(open_at, 20))

    assert got == content[20:]
    assert opened == [20, 50, 80, 110, 140, 170]


def test_a_stream_that_never_moves_is_an_error_not_a_shorter_stream() -> None:
    clock = Clock()
    opened: list[int] = []

    def open_at(offset: int) -> Iterator[bytes]:
        opened.append(offset)
        if offset == 0:
            yield b"abc"
        raise RetryableError("cut")

    blocks = patient(clock, tries=3).resuming(open_at)

    assert next(blocks) == b"abc"
    with pytest.raises(RetryableError, match="cut"):
        next(blocks)
    assert opened == [0, 3, 3]
