"""A packet has one owner, and its memory comes back whatever becomes of it."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.errors import FatalError
from data_bridge.runtime.packet import InOrder, Numbering, Packet, packet_queue
from data_bridge.runtime.pool import Pool, PoolUser
from data_bridge.runtime.queue import Cancelled, Overflow, Queue, QueueClosed, Stop
from data_bridge.utils.budget import ByteBudget

WAIT_S = 30.0


def user(nbytes: int, stop: Stop | None = None) -> PoolUser:
    return Pool("packets", ByteBudget(nbytes), traced=True).user("test", stop=stop)


@pytest.fixture
def pool() -> Iterator[PoolUser]:
    """A pool in which nothing may be left out."""
    found = user(100)
    yield found
    gc.collect()
    assert (found.pool.outstanding, found.held, found.pool.leaked) == ([], 0, 0)


def packets(pool: PoolUser, count: int, nbytes: int = 10) -> list[Packet[str]]:
    numbering = Numbering("source")
    return [numbering.packet(f"p{n}", (n * 5, n * 5 + 5), 5, nbytes, pool.acquire(nbytes)) for n in range(count)]


def test_packets_of_one_origin_are_numbered_and_stamped(pool: PoolUser) -> None:
    first, second = packets(pool, 2)

    assert (first.header.seq, second.header.seq) == (0, 1)
    assert (second.header.source_start, second.header.source_end, second.header.batch_size) == (5, 10, 5)
    assert (second.header.nbytes, second.header.origin) == (10, "source")
    assert first.header.timestamp <= second.header.timestamp
    first.release()
    second.release()


def test_what_arrives_has_the_payload_and_the_sender_has_nothing(pool: PoolUser) -> None:
    queue: Queue[Packet[str]] = packet_queue(2)
    (packet,) = packets(pool, 1)

    assert packet.send(queue.producer())
    arrived = queue.get()

    assert arrived is not None
    assert arrived.payload == "p0"
    for use in (lambda: packet.payload, packet.release, lambda: packet.send(queue.producer())):
        with pytest.raises(RuntimeError, match="packet 0 of source was sent"):
            use()
    assert pool.held == 10
    arrived.release()


def test_a_packet_ends_with_its_block_whatever_happens_in_it(pool: PoolUser) -> None:
    (packet,) = packets(pool, 1)
    with pytest.raises(ZeroDivisionError), packet:
        1 / 0  # noqa: B018
    assert pool.held == 0
    with pytest.raises(RuntimeError, match="was released"):
        packet.release()


def test_a_packet_sent_in_its_block_is_the_receivers(pool: PoolUser) -> None:
    queue: Queue[Packet[str]] = packet_queue(2)
    with packets(pool, 1)[0] as packet:
        packet.send(queue.producer())

    assert pool.held == 10
    queue.discard()


@pytest.mark.parametrize("ends", ["close", "stop"])
def test_a_packet_that_can_not_be_sent_is_released(ends: str, pool: PoolUser) -> None:
    stop = Stop()
    queue: Queue[Packet[str]] = packet_queue(1, stop=stop)
    producer = queue.producer()
    (packet,) = packets(pool, 1)
    (queue.close if ends == "close" else stop.set)()

    with pytest.raises((QueueClosed, Cancelled)):
        packet.send(producer)


def test_a_packet_without_room_in_time_is_still_the_senders(pool: PoolUser) -> None:
    queue: Queue[Packet[str]] = packet_queue(1)
    producer = queue.producer()
    first, second = packets(pool, 2)
    first.send(producer)

    assert not second.send(producer, timeout_s=0)
    assert second.payload == "p1"
    second.release()
    queue.discard()


@pytest.mark.parametrize("overflow", ["DROP_NEW", "KEEP_NEWEST"])
def test_dropped_packets_give_their_memory_back(overflow: Overflow, pool: PoolUser) -> None:
    queue: Queue[Packet[str]] = packet_queue(2, overflow=overflow)
    producer = queue.producer()
    for packet in packets(pool, 5):
        packet.send(producer)

    assert pool.held == 20
    assert queue.flush().dropped == 3
    assert queue.discard() == 2


def test_a_missing_packet_and_one_that_comes_twice_are_noticed(pool: PoolUser) -> None:
    order = InOrder()
    first, second, third = packets(pool, 3)
    order.check(first.header)
    with pytest.raises(FatalError, match="packet 2 of source arrived where 1 was expected"):
        order.check(third.header)
    order.check(second.header)
    with pytest.raises(FatalError, match="packet 1"):
        order.check(second.header)
    order.check(msgspec.structs.replace(second.header, origin="other", seq=0))
    for packet in (first, second, third):
        packet.release()


def test_where_packets_may_be_missing_they_still_come_in_order(pool: PoolUser) -> None:
    order = InOrder(lossy=True)
    first, second, third, fourth = packets(pool, 4)
    for packet in (second, fourth):
        order.check(packet.header)
    with pytest.raises(FatalError, match="packet 2 of source arrived where 4 was expected"):
        order.check(third.header)
    for packet in (first, second, third, fourth):
        packet.release()


def test_a_packet_may_borrow_memory_for_a_part_of_its_way(pool: PoolUser) -> None:
    (packet,) = packets(pool, 1)
    packet.borrow(pool.acquire(70))
    assert pool.held == 70
    packet.borrow(None)
    assert pool.held == 0
    assert packet.payload == "p0"
    packet.release()


def test_a_lease_goes_back_to_its_own_pool(pool: PoolUser) -> None:
    other = user(50)
    mine, theirs = pool.acquire(30), other.acquire(20)
    assert (mine.pool, theirs.pool) == (pool.pool, other.pool)

    theirs.release()
    theirs.release()

    assert (pool.held, other.held) == (30, 0)
    with mine:
        pass
    assert pool.held == 0


def test_an_exhausted_pool_lets_wait_or_says_no(pool: PoolUser) -> None:
    lease = pool.acquire(80)

    assert pool.try_acquire(30) is None
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire, 30)
        lease.release()
        waiting.result(WAIT_S).release()


def test_two_users_of_a_full_pool_do_not_wait_for_each_other(pool: PoolUser) -> None:
    """One that holds nothing gets its lease: who holds the rest may be waiting for it."""
    other = pool.pool.user("other")
    with pool.acquire(100), other.acquire(60):
        assert other.try_acquire(1) is None
        assert other.acquire_within(1, 0) is None
    assert other.held == 0


def test_one_lease_larger_than_its_pool_passes_alone(pool: PoolUser) -> None:
    with pool.acquire(1000):
        assert pool.try_acquire(1) is None


def test_stopping_ends_the_wait_for_memory() -> None:
    stop = Stop()
    pool = user(10, stop)
    held = pool.acquire(10)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.acquire, 5)
        stop.set()
        with pytest.raises(Cancelled):
            waiting.result(WAIT_S)
    held.release()


def test_a_lease_that_nobody_gave_back_is_counted_and_its_memory_returns() -> None:
    pool = user(100)
    pool.acquire(40)
    gc.collect()

    assert (pool.pool.leaked, pool.held, pool.pool.outstanding) == (1, 0, [])


def test_a_traced_pool_names_the_line_of_what_is_out() -> None:
    pool = user(100)
    lease = pool.acquire(40)

    (line,) = pool.pool.outstanding

    assert line.startswith("40 bytes")
    assert "test_packet.py" in line
    lease.release()


@given(st.integers(1, 4), st.sampled_from(["BLOCK", "DROP_NEW", "KEEP_NEWEST"]), st.lists(st.booleans(), max_size=40))
def test_no_history_of_a_queue_leaks_memory(capacity: int, overflow: Overflow, puts: list[bool]) -> None:
    pool, numbering = user(1000), Numbering("source")
    queue: Queue[Packet[int]] = packet_queue(capacity, overflow=overflow)
    producer = queue.producer()
    for number, put in enumerate(puts):
        if put:
            packet = numbering.packet(number, (number, number + 1), 1, 1, pool.acquire(1))
            if not packet.send(producer, timeout_s=0) and packet.alive:
                packet.release()
        elif (got := queue.try_get()) is not None:
            got.release()
        assert pool.held == len(queue)
    queue.discard()

    assert (pool.held, pool.pool.leaked, pool.pool.outstanding) == (0, 0, [])
