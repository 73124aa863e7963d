"""What threads before and behind the work do comes in order, within bounds, and with its errors."""

import itertools
import threading
from collections.abc import Generator, Iterator

import pytest
from support.engine_works import wait_for

from data_bridge.runtime.threads import Ahead, Behind


def test_items_come_in_order_and_an_exception_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise ZeroDivisionError("the source is cut")

    ahead = Ahead(items(), lambda _: 1, 4, 100)

    assert list(itertools.islice(ahead, 100)) == list(range(100))
    with pytest.raises(ZeroDivisionError, match="the source is cut"):
        next(ahead)
    ahead.stop()


@pytest.mark.parametrize(("most", "most_bytes", "waiting"), [(4, 1000, 4), (100, 25, 3), (100, 1, 1)])
def test_no_more_is_taken_than_may_wait(most: int, most_bytes: int, waiting: int) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in itertools.count():
            drawn.append(item)
            yield item

    ahead = Ahead(items(), lambda _: 10, most, most_bytes)
    for number in range(5):
        expected = waiting + number
        wait_for(lambda expected=expected: len(drawn) == expected, "the thread to take what it may")  # type: ignore[misc]
        assert next(ahead) == number
    ahead.stop()

    assert len(drawn) <= waiting + 5


def test_a_stopped_thread_has_left_the_iterator() -> None:
    ended = threading.Event()

    def items() -> Generator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    source = items()
    ahead = Ahead(source, lambda _: 1, 3, 100)
    assert next(ahead) == 0
    ahead.stop()

    source.close()
    assert ended.is_set()


def test_work_is_done_in_order_and_all_of_it_by_the_end() -> None:
    done: list[int] = []
    behind = Behind(done.append, 10)
    for item in range(1000):
        behind.put(item, 4)
    behind.end()

    assert done == list(range(1000))


def test_no_more_waits_than_may_but_one_item_always() -> None:
    may = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        assert may.wait(30)
        done.append(item)

    behind = Behind(work, 10)
    behind.put(1, 100)
    put = threading.Thread(target=behind.put, args=(2, 1))
    put.start()
    put.join(0.2)
    assert put.is_alive()
    may.set()
    put.join(30)
    behind.end()

    assert done == [1, 2]


def test_an_error_of_the_work_is_raised_by_what_is_called_next_and_nothing_more_is_done() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise OSError("the disk is gone")
        done.append(item)

    behind = Behind(work, 1)
    with pytest.raises(OSError, match="the disk is gone"):
        for item in range(100):
            behind.put(item, 1)
    with pytest.raises(OSError, match="the disk is gone"):
        behind.end()

    assert done == [0, 1, 2]


def test_what_is_dropped_is_not_done() -> None:
    begun, may = threading.Event(), threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        begun.set()
        assert may.wait(30)
        done.append(item)

    behind = Behind(work, 100)
    for item in range(5):
        behind.put(item, 1)
    assert begun.wait(30)
    dropping = threading.Thread(target=behind.drop)
    dropping.start()
    wait_for(lambda: not behind._waiting, "what waits to be forgotten")
    may.set()
    dropping.join(30)

    assert done == [0]
