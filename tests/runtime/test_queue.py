"""Queues lose and repeat nothing, end when their producers do, and let go of whoever waits."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.metrics import QueueUse
from data_bridge.runtime.queue import Cancelled, Overflow, Queue, QueueClosed, Stop

WAIT_S = 30.0


class Spy(threading.Condition):
    """A condition that tells how many wait for it."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__(lock)
        self.waiting = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting.release()
        return super().wait(timeout)


def watched(queue: Queue[int]) -> tuple[Spy, Spy]:
    """Tell when somebody waits for room, and when for items."""
    queue._room, queue._filled = room, filled = Spy(queue._lock), Spy(queue._lock)
    return room, filled


def waits(spy: Spy) -> None:
    assert spy.waiting.acquire(timeout=WAIT_S)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as threads:
        yield threads


def test_items_come_out_in_order_and_the_end_after_the_last_one() -> None:
    queue: Queue[int] = Queue(3)
    with queue.producer() as producer:
        producer.put_many([1, 2, 3])

    assert queue.closed
    assert list(queue) == [1, 2, 3]
    with pytest.raises(QueueClosed):
        queue.get()


def test_the_last_producer_completes_the_stream_and_none_comes_after() -> None:
    queue: Queue[int] = Queue(2)
    first, second = queue.producer(), queue.producer()
    first.close()
    first.close()
    after_first = queue.closed
    second.close()

    assert (after_first, queue.closed) == (False, True)
    with pytest.raises(QueueClosed):
        queue.producer()
    with pytest.raises(QueueClosed):
        second.put(1)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_queue_holds_something(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Queue(capacity)


def test_a_full_queue_lets_its_producer_wait_until_there_is_room(pool: ThreadPoolExecutor) -> None:
    queue: Queue[int] = Queue(1)
    room, _ = watched(queue)
    producer = queue.producer()
    assert producer.put(1)
    put = pool.submit(producer.put, 2)
    waits(room)
    assert not put.done()

    assert queue.get() == 1
    assert put.result(WAIT_S)
    assert queue.get() == 2


def test_an_empty_queue_lets_its_consumer_wait(pool: ThreadPoolExecutor) -> None:
    queue: Queue[int] = Queue(1)
    _, filled = watched(queue)
    got = pool.submit(queue.get)
    waits(filled)

    queue.producer().put(7)

    assert got.result(WAIT_S) == 7


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_a_batch_larger_than_the_capacity_passes(capacity: int, pool: ThreadPoolExecutor) -> None:
    queue: Queue[int] = Queue(capacity)
    put = pool.submit(queue.producer().put_many, range(50))

    assert queue.get_many(20) == list(range(20))
    assert queue.get_many(30) == list(range(20, 50))
    assert put.result(WAIT_S) == 50


def test_a_batch_is_short_only_at_the_end(pool: ThreadPoolExecutor) -> None:
    queue: Queue[int] = Queue(2)
    _, filled = watched(queue)
    got = pool.submit(queue.get_many, 5)
    with queue.producer() as producer:
        producer.put_many([1, 2, 3])
        waits(filled)

    assert got.result(WAIT_S) == [1, 2, 3]
    with pytest.raises(QueueClosed):
        queue.get_many(1)


def test_no_room_in_time_is_told_and_what_was_put_stays() -> None:
    queue: Queue[int] = Queue(2)
    producer = queue.producer()

    assert producer.put_many([1, 2, 3], timeout_s=0) == 2
    assert not producer.put(4, timeout_s=0)
    assert (queue.get(), queue.get(), queue.try_get()) == (1, 2, None)


@pytest.mark.parametrize("ends", ["close", "stop"])
@pytest.mark.parametrize("call", ["put", "get", "get_many"])
def test_every_wait_ends_at_once_and_says_why(call: str, ends: str, pool: ThreadPoolExecutor) -> None:
    stop = Stop()
    queue: Queue[int] = Queue(1, stop=stop)
    room, filled = watched(queue)
    producer = queue.producer()
    calls: dict[str, tuple[Spy, Callable[[], object]]] = {
        "put": (room, lambda: producer.put(2)),
        "get": (filled, queue.get),
        "get_many": (filled, lambda: queue.get_many(3)),
    }
    spy, wait = calls[call]
    if spy is room:
        producer.put(1)
    waiting = pool.submit(wait)
    waits(spy)

    (queue.close if ends == "close" else stop.set)()

    with pytest.raises(QueueClosed if ends == "close" else Cancelled):
        waiting.result(WAIT_S)


def test_stopping_is_not_the_end_of_the_stream() -> None:
    stop = Stop()
    queue: Queue[int] = Queue(4, stop=stop)
    producer = queue.producer()
    producer.put(1)
    stop.set()
    stop.set()

    assert not queue.closed
    for call in (queue.get, lambda: queue.get_many(1), lambda: producer.put(2), lambda: next(iter(queue))):
        with pytest.raises(Cancelled):
            call()
    assert len(queue) == 1


def test_one_stop_cancels_every_queue_that_knows_it_even_one_made_later() -> None:
    stop = Stop()
    before: Queue[int] = Queue(1, stop=stop)
    stop.set()
    after: Queue[int] = Queue(1, stop=stop)

    for queue in (before, after):
        with pytest.raises(Cancelled):
            queue.get()


def test_a_cancelled_batch_loses_nothing(pool: ThreadPoolExecutor) -> None:
    stop = Stop()
    dropped: list[int] = []
    queue: Queue[int] = Queue(2, stop=stop, on_drop=dropped.append)
    _, filled = watched(queue)
    got = pool.submit(queue.get_many, 3)
    queue.producer().put_many([1, 2])
    while queue.flush().got < 2:
        waits(filled)
    stop.set()
    with pytest.raises(Cancelled):
        got.result(WAIT_S)

    assert queue.discard() == 2
    assert dropped == [1, 2]


def test_dropping_the_new_keeps_what_came_first() -> None:
    dropped: list[int] = []
    queue: Queue[int] = Queue(2, overflow="DROP_NEW", on_drop=dropped.append)
    producer = queue.producer()

    assert producer.put_many([1, 2, 3]) == 2
    assert not producer.put(4)
    assert dropped == [3, 4]
    assert queue.flush() == QueueUse("output", 4, 0, 2, 2, 2.0, 2, 2, 2)
    queue.close()
    assert list(queue) == [1, 2]


def test_keeping_the_newest_throws_out_the_oldest() -> None:
    dropped: list[int] = []
    queue: Queue[int] = Queue(2, overflow="KEEP_NEWEST", on_drop=dropped.append)
    producer = queue.producer()
    producer.put_many([1, 2])

    assert producer.put(3)
    assert producer.put_many([4, 5, 6, 7]) == 2
    assert dropped == [1, 2, 3, 4, 5]
    use = queue.flush()
    assert (use.put, use.dropped) == (7, 5)
    queue.close()
    assert list(queue) == [6, 7]


def test_a_flush_starts_counting_anew() -> None:
    queue: Queue[int] = Queue(4, name="prefetch")
    producer = queue.producer()
    producer.put_many([1, 2, 3])
    queue.get()

    assert queue.flush() == QueueUse("prefetch", 3, 1, 0, fill_min=2, fill_avg=7 / 3, fill_max=3, samples=3, capacity=4)
    assert queue.flush() == QueueUse("prefetch", 0, 0, 0, 2, 2.0, 2, 1, 4)


OPERATIONS = st.lists(
    st.one_of(st.tuples(st.just("put"), st.integers(1, 9)), st.tuples(st.just("get"), st.integers(1, 4))), max_size=60
)


@given(st.integers(1, 5), st.sampled_from(["DROP_NEW", "KEEP_NEWEST"]), OPERATIONS)
def test_lossy_queues_count_exactly_and_keep_the_order(
    capacity: int, overflow: Overflow, operations: list[tuple[str, int]]
) -> None:
    dropped: list[int] = []
    queue: Queue[int] = Queue(capacity, overflow=overflow, on_drop=dropped.append)
    producer, got, model, put = queue.producer(), list[int](), list[int](), 0
    for name, count in operations:
        if name == "get":
            for _ in range(count):
                item = queue.try_get()
                assert item == (model.pop(0) if model else None)
                got += [] if item is None else [item]
            continue
        batch = list(range(put, put + count))
        put += count
        producer.put_many(batch)
        model = (model + batch)[:capacity] if overflow == "DROP_NEW" else (model + batch)[-capacity:]

    use = queue.flush()

    assert (use.put, use.got, use.dropped) == (put, len(got), len(dropped))
    assert Counter(got + dropped + model) == Counter(range(put))
    assert all(a < b for a, b in pairwise(got))
    assert use.fill_max <= capacity


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_item_of_many_producers_reaches_one_of_many_consumers(
    capacity: int, producers: int, consumers: int, rng: random.Random
) -> None:
    queue: Queue[tuple[int, int]] = Queue(capacity)
    sizes = [[rng.randint(0, 12) for _ in range(rng.randint(0, 8))] for _ in range(producers)]
    takes = [rng.randint(1, 9) for _ in range(consumers)]
    hands = [queue.producer() for _ in range(producers)]

    def produce(number: int) -> int:
        made = 0
        with hands[number] as producer:
            for size in sizes[number]:
                producer.put_many([(number, made + i) for i in range(size)])
                made += size
        return made

    def consume(number: int) -> list[tuple[int, int]]:
        got: list[tuple[int, int]] = []
        while True:
            try:
                got += queue.get_many(takes[number])
            except QueueClosed:
                return got

    with ThreadPoolExecutor(producers + consumers) as pool:
        taken = [pool.submit(consume, n) for n in range(consumers)]
        made = [pool.submit(produce, n) for n in range(producers)]
        counts = [f.result(WAIT_S) for f in made]
        streams = [f.result(WAIT_S) for f in taken]

    everything = [item for stream in streams for item in stream]
    assert sorted(everything) == [(n, i) for n in range(producers) for i in range(counts[n])]
    for stream in streams:
        for number in range(producers):
            mine = [i for n, i in stream if n == number]
            assert all(a < b for a, b in pairwise(mine))
    use = queue.flush()
    assert (use.put, use.got, use.dropped) == (sum(counts), sum(counts), 0)
    assert use.fill_max <= capacity


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.sampled_from(["DROP_NEW", "KEEP_NEWEST"]), st.integers(1, 5), st.integers(0, 5))
def test_a_lossy_queue_under_load_counts_every_item_as_got_dropped_or_left(
    capacity: int, overflow: Overflow, producers: int, consumers: int
) -> None:
    each, most = 300, 40
    lock, dropped = threading.Lock(), list[tuple[int, int]]()

    def lose(item: tuple[int, int]) -> None:
        with lock:
            dropped.append(item)

    queue: Queue[tuple[int, int]] = Queue(capacity, overflow=overflow, on_drop=lose)
    hands = [queue.producer() for _ in range(producers)]
    begin = threading.Barrier(producers + consumers)

    def produce(number: int) -> None:
        begin.wait(WAIT_S)
        for first in range(0, each, 3):
            hands[number].put_many([(number, first + i) for i in range(3)])

    def consume() -> list[tuple[int, int]]:
        """Some, not all: consumers may leave while producers go on."""
        begin.wait(WAIT_S)
        return [item for _ in range(most) if (item := queue.try_get()) is not None]

    with ThreadPoolExecutor(producers + consumers) as pool:
        taken = [pool.submit(consume) for _ in range(consumers)]
        for made in [pool.submit(produce, number) for number in range(producers)]:
            made.result(WAIT_S)
        streams = [f.result(WAIT_S) for f in taken]
    use = queue.flush()
    lost = list(dropped)
    for hand in hands:
        hand.close()
    left = list(queue)

    got = [item for stream in streams for item in stream]
    assert (use.put, use.got, use.dropped) == (producers * each, len(got), len(lost))
    assert use.put == use.got + use.dropped + len(left)
    assert Counter(got + lost + left) == Counter((n, i) for n in range(producers) for i in range(each))
    assert len(left) == capacity if use.got == 0 else len(left) <= capacity
    assert use.fill_max <= capacity
    for stream in (*streams, left):
        for number in range(producers):
            assert all(a < b for a, b in pairwise(i for n, i in stream if n == number))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_stopping_under_load_lets_everybody_go_and_accounts_for_every_item(capacity: int, rng: random.Random) -> None:
    stop, left = Stop(), list[int]()
    queue: Queue[int] = Queue(capacity, stop=stop, on_drop=left.append)
    enough = rng.randint(1, 200)
    seen = threading.Semaphore(0)

    def produce(start: int) -> int:
        producer, number = queue.producer(), start
        try:
            while True:
                producer.put(number)
                number += 2
        except Cancelled:
            return (number - start) // 2

    def consume() -> list[int]:
        got: list[int] = []
        try:
            for item in queue:
                got.append(item)
                seen.release()
        except Cancelled:
            pass
        return got

    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(produce, start) for start in (0, 1)]
        taken = [pool.submit(consume) for _ in range(2)]
        for _ in range(enough):
            assert seen.acquire(timeout=WAIT_S)
        stop.set()
        puts = sum(f.result(WAIT_S) for f in made)
        got = [item for f in taken for item in f.result(WAIT_S)]
    queue.discard()

    use = queue.flush()
    assert len(set(got + left)) == len(got) + len(left) == puts
    assert (use.put, use.got, use.dropped) == (puts, len(got), len(left))


def test_closing_tells_every_producer_that_waits(pool: ThreadPoolExecutor) -> None:
    queue: Queue[int] = Queue(1)
    room, _ = watched(queue)
    hands = [queue.producer() for _ in range(3)]
    hands[0].put(0)
    waiting: list[Future[bool]] = [pool.submit(hand.put, 1) for hand in hands]
    for _ in waiting:
        waits(room)

    queue.close()

    for put in waiting:
        with pytest.raises(QueueClosed):
            put.result(WAIT_S)
    assert list(queue) == [0]
