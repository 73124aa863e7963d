"""The pool keeps the order and its bounds, and no death of a child is seen in what it gives."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.engine_works import wait_for
from support.lane_works import Arrays, Grows, Misbehaves, OnlyHere, Raises, Squares, Unsendable
from support.programs import ENVIRONMENT

from data_bridge.runtime import lanes as module
from data_bridge.runtime.lanes import AHEAD, BOXES, DEPTH, Lanes
from data_bridge.utils.budget import ByteBudget

ITEMS = 600
SIZE = 100


def size(_item: int) -> int:
    return SIZE


def until_children(lanes: Lanes[int, Any], children: int) -> Iterator[int]:
    """Items 0, 1, … for as long as it takes that this many children have answered, and some more."""
    number = 0
    while sum(bool(lane.ready) for lane in lanes._lanes) < children:
        yield number
        number += 1
    for more in range(ITEMS):
        yield number + more


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_results_come_in_the_order_of_the_items_from_as_many_processes_as_allowed(cores: int) -> None:
    with Lanes(Squares(), cores=lambda: cores) as lanes:
        found = list(lanes.map(until_children(lanes, cores - 1), size))

    assert [item for item, _ in found] == list(range(len(found)))
    assert [square for _, (square, _) in found] == [item**2 for item in range(len(found))]
    assert len({pid for _, (_, pid) in found}) == cores
    assert os.getpid() in {pid for _, (_, pid) in found}


def test_one_core_starts_no_process_and_pickles_nothing() -> None:
    def function(item: int) -> Callable[[], int]:
        return lambda: item

    with Lanes(lambda: function) as lanes:
        found = [result() for _, result in lanes.map(range(10), size)]

        assert lanes.children == 0

    assert found == list(range(10))


def test_cores_that_become_free_on_the_way_are_used() -> None:
    allowed = 1

    def items(lanes: Lanes[int, tuple[int, int]]) -> Iterator[int]:
        nonlocal allowed
        yield from range(50)
        assert lanes.children == 0
        allowed = 3
        yield from (50 + n for n in until_children(lanes, 2))

    with Lanes(Squares(), cores=lambda: allowed) as lanes:
        found = [square for _, (square, _) in lanes.map(items(lanes), size)]

    assert found == [n**2 for n in range(len(found))]


def test_cores_that_are_taken_away_are_not_used_any_more() -> None:
    cores = [3]
    with Lanes(Squares(), cores=lambda: cores[0]) as lanes:

        def items() -> Iterator[int]:
            yield from until_children(lanes, 2)
            cores[0] = 1
            yield from range(ITEMS)

        found = list(lanes.map(items(), size))

    last = found[-ITEMS + BOXES :]
    assert {pid for _, (_, pid) in last} == {os.getpid()}
    assert len({pid for _, (_, pid) in found}) == 3


def test_work_that_costs_less_than_its_way_stays_here() -> None:
    with Lanes(cheap, cores=lambda: 4) as lanes:
        assert [r for _, r in lanes.map(range(2000), size)] == list(range(2000))
        assert lanes.children == 0


def cheap() -> Any:
    return int


def test_arrays_are_views_of_shared_memory_that_stay_as_they_are_while_held() -> None:
    with Lanes(Arrays(), cores=lambda: 2) as lanes:
        held = [(item, array) for item, array in lanes.map(until_children(lanes, 1), size) if item % 40 < 3]

        # more are held than there are boxes: the others were made here
        assert all((array == item).all() for item, array in held)
        assert any(not array.flags.owndata for _, array in held)
        arena = lanes._arena
        assert arena is not None
        assert len(arena._free) < BOXES
        del held
        assert len(arena._free) == BOXES


def test_the_block_can_be_left_while_the_next_item_waits_for_memory_that_is_held_in_it() -> None:
    budget = ByteBudget(1000)
    held, source = budget.account("lanes"), budget.account("source")
    full = threading.Event()
    waited: list[bool] = []

    def items() -> Iterator[int]:
        yield 0
        assert full.wait(30)
        source.acquire(300)
        waited.append(source.acquire(300))
        yield 1

    with Lanes(Squares(), cores=lambda: 2, account=held) as lanes:
        landing = lanes.map(items(), size)
        next(landing)
        held.acquire(600)
        full.set()
        wait_for(lambda: bool(budget._pool.line), "the source to want more memory than there is")

    assert waited == [True]


def test_no_more_is_on_its_way_than_the_budget_allows() -> None:
    drawn = landed = 0

    def items(lanes: Lanes[int, Any]) -> Iterator[int]:
        nonlocal drawn
        for item in until_children(lanes, 1):
            drawn += 1
            # the ones that are drawn ahead, those on their way (3 times their size each, at least)
            assert drawn - landed <= AHEAD + 2 + 1000 // (3 * SIZE)
            yield item

    with Lanes(Squares(), cores=lambda: 2, budget_bytes=1000) as lanes:
        for _ in lanes.map(items(lanes), size):
            landed += 1

    assert landed == drawn > ITEMS


def test_an_item_larger_than_the_budget_is_done_alone_and_here() -> None:
    sizes = {300: 10_000}
    with Lanes(Squares(), cores=lambda: 2, budget_bytes=1000) as lanes:
        found = dict(lanes.map(until_children(lanes, 1), lambda item: sizes.get(item, 10)))

    assert found[300] == (90_000, os.getpid())
    assert list(found) == list(range(len(found)))


def test_results_that_no_box_holds_come_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOX_BYTES", 5 << 20)
    large = 6 << 20
    with Lanes(GrowsLater(large), cores=lambda: 2) as lanes:
        for item, result in lanes.map(until_children(lanes, 1), size):
            assert result == bytes([item % 251]) * (large if item % 100 == 99 else 10)


class GrowsLater:
    def __init__(self, large: int) -> None:
        self.large = large

    def __call__(self) -> Any:
        return self.work

    def work(self, item: int) -> bytes:
        return Grows(self.large if item % 100 == 99 else 10).work(item)


@pytest.mark.parametrize("deed", ["killed", "exits", "raises"])
@pytest.mark.parametrize("cores", [2, 3])
def test_what_a_dying_child_had_is_done_again_here(tmp_path: Path, deed: str, cores: int) -> None:
    with Lanes(Misbehaves(tmp_path, deed, every=50, times=2), cores=lambda: cores) as lanes:
        found = list(lanes.map(until_misdeeds(tmp_path, 2), size))

    assert [(item, square) for item, (square, _) in found] == [(n, n * n) for n in range(len(found))]
    pids = {int(path.name.removeprefix("child-")) for path in tmp_path.glob("child-*")}
    assert len(pids) >= (1 if deed == "raises" else 2)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def until_misdeeds(folder: Path, count: int) -> Iterator[int]:
    number = 0
    while len(list(folder.glob("misdeed-*"))) < count:
        yield number
        number += 1
    yield from range(number, number + 100)


def test_children_that_die_again_and_again_are_not_replaced_for_ever(tmp_path: Path) -> None:
    function = Misbehaves(tmp_path, "killed", times=10**6)
    with Lanes(function, cores=lambda: 2) as lanes:
        found = list(lanes.map(until_misdeeds(tmp_path, module.MOST_DEATHS), size))
        assert lanes.children == 0

    assert [square for _, (square, _) in found] == [n * n for n in range(len(found))]
    assert len(list(tmp_path.glob("child-*"))) == module.MOST_DEATHS


def test_a_child_that_cannot_make_the_function_is_done_without() -> None:
    with Lanes(OnlyHere(), cores=lambda: 2) as lanes:

        def items() -> Iterator[int]:
            number = 0
            while not lanes._deaths:
                yield number
                number += 1

        found = list(lanes.map(items(), size))
        assert lanes.children == 0

    assert {pid for _, (_, pid) in found} == {os.getpid()}


def test_an_exception_of_the_function_is_the_callers_behind_all_results_before_it() -> None:
    found = []
    with Lanes(Raises(500), cores=lambda: 3) as lanes, pytest.raises(ZeroDivisionError, match="item 500 has no width"):
        for _, result in lanes.map(until_children(lanes, 2), size):
            found.append(result)

    assert found == list(range(500))


def test_an_exception_of_the_items_is_the_callers_behind_all_results_before_it() -> None:
    def items(lanes: Lanes[int, Any]) -> Iterator[int]:
        yield from until_children(lanes, 2)
        raise ZeroDivisionError("the source is cut")

    found = []
    with Lanes(Squares(), cores=lambda: 3) as lanes, pytest.raises(ZeroDivisionError, match="the source is cut"):
        for item, _ in lanes.map(items(lanes), size):
            found.append(item)

    assert found == list(range(len(found)))
    assert len(found) >= ITEMS


def test_results_that_cannot_be_sent_are_made_here() -> None:
    with Lanes(Unsendable(), cores=lambda: 2) as lanes:
        assert [result() for _, result in lanes.map(range(100), size)] == list(range(100))


def test_a_child_that_hangs_gives_no_sign_of_life(tmp_path: Path) -> None:
    heard = threading.Event()
    over = threading.Event()
    seen: list[int] = []

    def consume() -> None:
        with Lanes(Misbehaves(tmp_path, "hangs"), cores=lambda: 2, alive=heard.set) as lanes:
            for item, _ in lanes.map(itertools.takewhile(lambda _: not over.is_set(), itertools.count()), size):
                seen.append(item)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    wait_for(lambda: bool(list(tmp_path.glob("misdeed-*"))), "a child to hang")
    wait_for(lambda: _still(seen), "its parent to have nothing else to do")
    heard.clear()

    assert not heard.wait(0.5)
    assert thread.is_alive()
    over.set()
    for path in tmp_path.glob("child-*"):
        os.kill(int(path.name.removeprefix("child-")), signal.SIGKILL)
    assert heard.wait(10)
    thread.join(30)
    assert seen == list(range(len(seen)))


def _still(seen: list[int]) -> bool:
    before = len(seen)
    threading.Event().wait(0.3)
    return len(seen) == before


SCRIPT = """
import itertools, os, sys
from pathlib import Path
from support.lane_works import Misbehaves
from data_bridge.runtime.lanes import Lanes
folder = Path(sys.argv[1])
with Lanes(Misbehaves(folder, sys.argv[2]), cores=lambda: 3) as lanes:
    for _ in lanes.map(itertools.count(), lambda item: 100):
        pass
"""


@pytest.mark.parametrize("deed", ["raises", "hangs"])
def test_a_killed_parent_leaves_no_process(tmp_path: Path, deed: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        f"if __name__ == '__main__':\n{''.join(f'    {line}' for line in SCRIPT.splitlines(keepends=True))}"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), deed], env=ENVIRONMENT)
    try:
        wait_for(lambda: bool(list(tmp_path.glob("misdeed-*"))), "a child to be at work")
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children

        parent.kill()
        parent.wait()

        wait_for(lambda: not any(_lives(child) for child in children), "the children to be gone", timeout_s=5.0)
    finally:
        parent.kill()
        parent.wait()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_leaving_early_ends_the_children() -> None:
    with Lanes(Squares(), cores=lambda: 3) as lanes:
        for _ in lanes.map(until_children(lanes, 2), size):
            if all(lane.ready for lane in lanes._lanes) and lanes.children == 2:
                break
        pids = [lane._process.pid for lane in lanes._lanes]

    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids if pid is not None)


def test_a_child_has_a_few_items_at_a_time() -> None:
    depths: set[int] = set()

    def items(lanes: Lanes[int, Any]) -> Iterator[int]:
        for item in until_children(lanes, 1):
            depths.update(len(lane.flights) for lane in lanes._lanes)
            yield item

    with Lanes(Squares(), cores=lambda: 2) as lanes:
        list(lanes.map(items(lanes), size))

    assert max(depths) == DEPTH


def test_a_factory_that_cannot_be_pickled_fails_before_any_child_is_started() -> None:
    with (
        Lanes(lambda: Squares().square, cores=lambda: 2) as lanes,
        pytest.raises((AttributeError, pickle.PicklingError)),
    ):
        list(lanes.map(range(1000), size))

    assert lanes.children == 0
