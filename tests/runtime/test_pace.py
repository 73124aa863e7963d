"""How many things begin a second."""

import threading
import time

import pytest

from data_bridge.runtime.pace import LOOK_S, Pace


def beginnings(pace: Pace, count: int, threads: int) -> list[float]:
    """When each of so many things began."""
    began: list[float] = []
    left = threading.Semaphore(count)

    def work() -> None:
        while left.acquire(blocking=False) and pace.wait():
            began.append(time.monotonic())

    working = [threading.Thread(target=work) for _ in range(threads)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join(30)
    return sorted(began)


@pytest.mark.parametrize("threads", [1, 8])
def test_no_more_begin_than_the_rate_allows_whatever_the_threads(threads: int) -> None:
    began = beginnings(Pace(lambda: 50.0), 25, threads)

    assert len(began) == 25
    assert began[-1] - began[0] >= 24 / 50 - LOOK_S


def test_without_a_rate_nobody_waits() -> None:
    began = beginnings(Pace(lambda: None), 1000, 4)

    assert len(began) == 1000


def test_who_waits_for_a_slow_rate_follows_one_that_is_given_meanwhile() -> None:
    rate = 0.001
    pace = Pace(lambda: rate)
    assert pace.wait()
    passed = threading.Event()

    def wait() -> None:
        if pace.wait():
            passed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    rate = 1000.0

    assert passed.wait(20)
    thread.join(20)


def test_those_who_wait_are_told_that_nothing_begins_any_more() -> None:
    pace = Pace(lambda: 0.001)
    assert pace.wait()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(pace.wait()))
    thread.start()
    pace.stop()
    thread.join(20)

    assert found == [False]
    assert not pace.wait()
