"""Bytes in flight stay within their budget, and whoever waits gets on, in order, or is told to stop."""

import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from data_bridge.utils.budget import SLOT_BYTES, ByteBudget, Usage, slot_bytes, usable_memory

WAIT_S = 20.0


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Spy(threading.Condition):
    """A condition that tells how many wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting.release()
        return super().wait(timeout)


def watched(total: int, clock: Callable[[], float] = lambda: 0.0) -> tuple[ByteBudget, Spy]:
    budget, spy = ByteBudget(total, clock=clock), Spy()
    budget._pool.changed = spy
    return budget, spy


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_what_fits_is_held_at_once_and_given_back() -> None:
    budget = ByteBudget(100)
    account = budget.account("read")

    with account.holding(60), account.holding(40):
        assert (budget.held, account.held) == (100, 100)

    assert (budget.held, account.held) == (0, 0)


def test_what_does_not_fit_waits_until_it_does(pool: ThreadPoolExecutor) -> None:
    budget, spy = watched(100)
    account = budget.account("read")
    account.acquire(70)

    second = pool.submit(account.acquire, 40)
    assert spy.waiting.acquire(timeout=WAIT_S)
    assert not second.done()
    account.release(10)

    assert second.result(WAIT_S)
    assert budget.held == 100


def test_one_request_larger_than_the_budget_passes_alone(pool: ThreadPoolExecutor) -> None:
    budget, spy = watched(100)
    account = budget.account("read")
    account.acquire(5)

    large = pool.submit(account.acquire, 1000)
    assert spy.waiting.acquire(timeout=WAIT_S)
    account.release(5)

    assert large.result(WAIT_S)
    assert budget.held == 1000


def test_an_account_that_holds_nothing_never_waits_for_another() -> None:
    budget = ByteBudget(100)
    reading, sending = budget.account("read"), budget.account("send")
    reading.acquire(100)

    assert sending.acquire(30)
    assert budget.held == 130
    assert not sending.try_acquire(1)


def test_who_came_first_goes_first_even_where_a_later_one_would_fit(pool: ThreadPoolExecutor) -> None:
    budget, spy = watched(100)
    account = budget.account("read")
    account.acquire(50)
    order: list[int] = []

    def take(size: int) -> None:
        account.acquire(size)
        order.append(size)
        account.release(size)

    waiting: list[Future[None]] = []
    for size in (60, 50):
        waiting.append(pool.submit(take, size))
        assert spy.waiting.acquire(timeout=WAIT_S)
    assert order == []
    account.release(50)
    for future in waiting:
        future.result(WAIT_S)

    assert order == [60, 50]


def test_closing_an_account_wakes_its_waiters_and_leaves_the_others(pool: ThreadPoolExecutor) -> None:
    budget, spy = watched(100)
    closing, other = budget.account("read"), budget.account("send")
    closing.acquire(60)
    other.acquire(40)
    told = pool.submit(closing.acquire, 50)
    stays = pool.submit(other.acquire, 90)
    assert spy.waiting.acquire(timeout=WAIT_S)
    assert spy.waiting.acquire(timeout=WAIT_S)

    closing.close()

    assert told.result(WAIT_S) is False
    assert not stays.done()
    assert budget.held == 40
    assert closing.acquire(1) is False
    assert not closing.try_acquire(1)
    closing.release(60)
    assert budget.held == 40
    other.release(40)
    assert stays.result(WAIT_S)


def test_giving_back_more_than_is_held_is_a_mistake_that_is_told() -> None:
    account = ByteBudget(100).account("read")
    account.acquire(10)

    with pytest.raises(ValueError, match="11 bytes are given back, 10 are held"):
        account.release(11)


def test_peak_and_waits_are_told_by_name_and_counted_anew_after(pool: ThreadPoolExecutor) -> None:
    clock = Clock()
    budget, spy = watched(100, clock)
    one, two = budget.account("read"), budget.account("read")
    budget.account("send")
    one.acquire(60)
    two.acquire(30)
    waiting = pool.submit(two.acquire, 20)
    assert spy.waiting.acquire(timeout=WAIT_S)
    clock.now_s = 2.5
    one.release(60)
    assert waiting.result(WAIT_S)

    assert budget.usage() == [Usage("read", peak_bytes=90, waits=1, waited_s=2.5)]
    assert budget.usage() == [Usage("read", peak_bytes=50, waits=0, waited_s=0.0)]


def test_asking_without_waiting_counts_from_the_refusal_to_the_success() -> None:
    clock = Clock()
    budget, _ = watched(100, clock)
    account = budget.account("read")
    account.acquire(60)
    assert not account.try_acquire(50)
    clock.now_s = 1.5
    assert not account.try_acquire(50)
    clock.now_s = 2.0
    account.release(60)

    assert account.try_acquire(50)
    assert account.try_acquire(50)

    assert budget.usage() == [Usage("read", peak_bytes=100, waits=1, waited_s=2.0)]


def test_many_threads_never_hold_more_than_the_total_and_all_end(pool: ThreadPoolExecutor) -> None:
    budget = ByteBudget(1000)
    accounts = [budget.account(f"a{n}") for n in range(3)]
    over: list[int] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        account = accounts[seed % 3]
        for _ in range(500):
            size = rng.randint(1, 400)
            with account.holding(size):
                if budget.held > 1000 + 3 * 400:
                    over.append(budget.held)

    for future in [pool.submit(work, seed) for seed in range(8)]:
        future.result(60)

    assert over == []
    assert budget.held == 0


def test_a_budget_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        ByteBudget(0)


def test_a_copy_in_another_process_counts_for_itself() -> None:
    budget = ByteBudget(100)
    budget.account("read").acquire(60)

    copy = pickle.loads(pickle.dumps(budget))

    assert (copy.total, copy.held) == (100, 0)


@pytest.mark.parametrize(
    ("total", "slots", "usable", "each"),
    [
        (None, 1, 64 << 30, SLOT_BYTES),
        (None, 4, 4 << 30, 256 << 20),
        (None, 64, 1 << 30, 4 << 20),
        (100_000_000, 4, 1 << 30, 25_000_000),
        (8_000_000_000, 2, 1 << 30, 4_000_000_000),
        (1, 2, 1 << 30, 1 << 20),
    ],
)
def test_slots_share_what_the_run_may_have(total: int | None, slots: int, usable: int, each: int) -> None:
    assert slot_bytes(total, slots, usable) == each


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, 4 << 30),
        ({"proc/meminfo": "MemFree: 1 kB\nMemTotal:       2097152 kB\n"}, 2 << 30),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1000000\n"}, 1_000_000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/memory.max": "max\n"}, 4 << 30),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/y\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000000",
                "sys/fs/cgroup/memory.max": "1",
            },
            5_000_000,
        ),
    ],
)
def test_usable_memory_is_the_machines_or_what_a_cgroup_leaves(
    tmp_path: Path, files: dict[str, str], usable: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_memory(tmp_path) == usable


def test_a_budget_that_grows_lets_in_who_waits_and_one_that_shrinks_waits_for_what_is_held() -> None:
    budget = ByteBudget(10)
    first, second = budget.account("a"), budget.account("b")
    assert first.try_acquire(8)
    assert second.try_acquire(2)
    assert not second.try_acquire(5)

    budget.resize(20)

    assert second.try_acquire(5)
    budget.resize(4)
    assert not first.try_acquire(1)
    assert budget.total == 4
