"""What happens beside the way holds up nothing, is counted exactly, and gives its memory back."""

import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.runtime import side as side_module
from data_bridge.runtime.pool import Pool
from data_bridge.runtime.queue import Overflow
from data_bridge.runtime.side import Side
from data_bridge.utils.budget import ByteBudget

WAIT_S = 30.0


@pytest.fixture
def pool() -> Iterator[Pool]:
    """In which nothing may be left out."""
    found = Pool("packets", ByteBudget(1000), traced=True)
    yield found
    gc.collect()
    assert (found.outstanding, found.budget.held, found.leaked) == ([], 0, 0)


class Held:
    """Takes packets one at a time, as it is let."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.closed = threading.Event()

    def apply(self, number: int) -> None:
        self.began.release()
        assert self.go.acquire(timeout=WAIT_S)
        self.seen.append(number)

    def let(self, times: int) -> None:
        self.go.release(times)


def started(held: Held, pool: Pool, overflow: Overflow, capacity: int = 2) -> Side[int]:
    side = Side("look", held.apply, held.closed.set, pool=pool, capacity=capacity, overflow=overflow)
    side.start()
    return side


def offer(side: Side[int], number: int, nbytes: int = 10) -> None:
    side.offer(number, (number, number + 1), 1, nbytes)


def test_everything_offered_is_seen_in_order_where_nothing_may_be_missed(pool: Pool) -> None:
    held = Held()
    side = started(held, pool, "BLOCK")
    held.let(100)
    for number in range(50):
        offer(side, number)

    assert side.close()
    assert held.seen == list(range(50))
    assert held.closed.is_set()
    use = side.queue.flush()
    assert (use.put, use.got, use.dropped) == (50, 50, 0)


@pytest.mark.parametrize(("overflow", "kept"), [("DROP_NEW", [0, 1, 2]), ("KEEP_NEWEST", [0, 8, 9])])
def test_a_full_queue_that_may_lose_never_lets_wait(overflow: Overflow, kept: list[int], pool: Pool) -> None:
    held = Held()
    side = started(held, pool, overflow)
    offer(side, 0)
    assert held.began.acquire(timeout=WAIT_S)  # the first one is in hand
    for number in range(1, 10):
        offer(side, number)

    held.let(10)
    assert side.close()
    assert held.seen == kept
    use = side.queue.flush()
    assert (use.put, use.got, use.dropped, use.capacity, use.fill_max) == (10, 3, 7, 2, 2)


@pytest.mark.parametrize(("overflow", "kept"), [("DROP_NEW", [0, 1]), ("KEEP_NEWEST", [0, 9])])
def test_an_empty_pool_drops_as_a_full_queue_does(overflow: Overflow, kept: list[int], pool: Pool) -> None:
    held = Held()
    side = started(held, pool, overflow, capacity=8)
    offer(side, 0, 400)
    assert held.began.acquire(timeout=WAIT_S)
    for number in range(1, 10):
        offer(side, number, 600)

    held.let(10)
    assert side.close()
    assert held.seen == kept
    use = side.queue.flush()
    assert (use.put, use.got, use.dropped) == (10, 2, 8)


@pytest.mark.parametrize("error", [ValueError("cannot look at it"), SystemExit(3)])
def test_an_exception_ends_the_thread_and_nothing_else(error: BaseException, pool: Pool) -> None:
    closed = threading.Event()

    def broken(number: int) -> None:
        if number == 1:
            raise error

    side = Side[int]("look", broken, closed.set, pool=pool, capacity=1)
    side.start()
    for number in range(5):
        offer(side, number)

    assert side.close()
    assert side.error is error
    assert closed.is_set()
    use = side.queue.flush()
    assert (use.put, use.got, use.dropped) == (5, 2, 3)


def test_who_waits_for_room_is_alive_and_can_be_stopped(pool: Pool) -> None:
    held, beats = Held(), []
    side = Side[int](
        "look",
        held.apply,
        held.closed.set,
        pool=pool,
        capacity=1,
        alive=lambda: beats.append(1),
        stopped=lambda: len(beats) > 1,
    )
    side.start()
    for number in range(3):  # one in hand, one queued, and one that finds no room
        offer(side, number)

    assert len(beats) == 2
    held.let(10)
    assert side.cancel()
    use = side.queue.flush()
    assert (use.put, use.got + use.dropped) == (3, 3)


def test_one_that_hangs_is_left_behind_and_its_queue_is_empty(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(side_module, "LOOK_S", 0.01)
    held = Held()
    side = started(held, pool, "KEEP_NEWEST")
    offer(side, 0)
    assert held.began.acquire(timeout=WAIT_S)
    offer(side, 1)

    assert not side.close()

    held.let(10)
    assert held.closed.wait(WAIT_S)
    assert held.seen == [0]


def test_one_that_hangs_where_nothing_may_be_missed_is_told_and_then_left_behind(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(side_module, "LOOK_S", 0.01)
    held, told = Held(), list[str]()
    side = Side[int]("look", held.apply, held.closed.set, pool=pool, capacity=1, tell=told.append, hang_s=0.03)
    side.start()
    for number in range(4):  # one in hand, one queued, one that finds no room, one that nobody waits for
        offer(side, number)

    assert not side.close()
    assert [text.partition(", which")[0] for text in told] == ["the run waits for look"]
    held.let(10)
    assert held.closed.wait(WAIT_S)
    assert held.seen == [0]
    use = side.queue.flush()
    assert (use.put, use.dropped) == (4, 3)


def test_one_that_gets_on_with_a_packet_does_not_hang_however_long_it_takes(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_module, "LOOK_S", 0.1)
    held, told = Held(), list[str]()

    def in_parts(packet: int) -> Iterator[None]:
        for part in range(30):
            held.apply(packet * 30 + part)
            yield

    side = Side[int](
        "look", in_parts, held.closed.set, pool=pool, capacity=1, alive=lambda: held.let(1), tell=told.append, hang_s=2
    )
    side.start()
    offer(side, 0)

    assert side.close()  # a part is done whenever one looks: three seconds together
    assert held.seen == list(range(30))
    assert told == []


@given(
    st.integers(1, 4),
    st.sampled_from(["DROP_NEW", "KEEP_NEWEST"]),
    st.lists(st.one_of(st.integers(1, 120), st.none()), max_size=40),
)
def test_whatever_the_load_all_that_is_offered_is_seen_or_counted(
    capacity: int, overflow: Overflow, history: list[int | None]
) -> None:
    """Sizes of packets that are offered; at None the thread is let look at one that it has."""
    held, pool = Held(), Pool("packets", ByteBudget(200), traced=True)
    side = started(held, pool, overflow, capacity)
    offered = [size for size in history if size is not None]
    number = 0
    for size in history:
        if size is None:
            held.let(1)
        else:
            offer(side, number, size)
            number += 1
            assert pool.budget.held <= max(200, *offered)
    held.let(100)

    assert side.close()
    use = side.queue.flush()
    assert (use.put, use.got, use.dropped) == (len(offered), len(held.seen), len(offered) - len(held.seen))
    assert held.seen == sorted(held.seen)
    assert (pool.outstanding, pool.budget.held, pool.leaked) == ([], 0, 0)
