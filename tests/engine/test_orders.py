"""What the user tells a running run is done by its slots, whichever engine runs them."""

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from support.engine_works import Boss, Misdeed, Obedient, Shards, Together

from data_bridge.engine.base import Engine
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.orders import Orders, Standing, news
from data_bridge.engine.processes import ProcessEngine
from data_bridge.errors import DiskFullError
from data_bridge.events import Event, Notice, PartitionClaimed, SamplesPacked, SlotLost
from data_bridge.model.changes import Change

CHANGE = Change(number=0, id="c", stage="lower", key="width", value=3)
Make = Callable[..., Engine]


@pytest.fixture(params=["inline", "processes"])
def make(request: pytest.FixtureRequest) -> Make:
    def made(orders: Orders, slots: int = 1) -> Engine:
        return InlineEngine(orders) if request.param == "inline" else ProcessEngine(slots, orders=orders)

    return made


def packet(number: int) -> Callable[[Event], bool]:
    """Hears the n-th packet of a run."""
    left = [number]

    def heard(event: Event) -> bool:
        left[0] -= isinstance(event, SamplesPacked)
        return left[0] == 0

    return heard


def said(message: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Notice) and event.message.startswith(message)


def packets(events: Sequence[Event]) -> list[SamplesPacked]:
    return [event for event in events if isinstance(event, SamplesPacked)]


def test_a_paused_slot_takes_no_packet_until_it_is_resumed(make: Make) -> None:
    orders = Orders()
    boss = Boss({packet(2): lambda: orders.pause(paused=True), said("rested 2"): lambda: orders.pause(paused=False)})

    report = make(orders).run(Obedient("paused"), [0], boss)

    rests = [i for i, event in enumerate(boss.events) if said("rested")(event)]
    resumed = next(i for i, event in enumerate(boss.events) if said("resumed")(event))
    assert [e.message for e in boss.events if isinstance(e, Notice) and not said("rested")(e)] == [
        "paused: nothing more is read",
        "resumed",
    ]
    assert packets(boss.events[rests[0] : resumed]) == []
    assert report.outcomes[0].kind == "done"
    assert len(packets(boss.events)) == 10
    assert not report.interrupted


@pytest.mark.parametrize("how", ["order", "signal"])
def test_a_paused_slot_stops_at_once(make: Make, how: str) -> None:
    orders = Orders()
    stop = orders.stop if how == "order" else lambda: os.kill(os.getpid(), signal.SIGINT)
    boss = Boss({packet(2): lambda: orders.pause(paused=True), said("rested 1 times"): stop})

    report = make(orders).run(Obedient("paused"), [0, 1], boss)

    assert {p: o.kind for p, o in report.outcomes.items()} == {0: "stopped", 1: "stopped"}
    assert report.interrupted
    assert len([e for e in boss.events if said("stopping")(e)]) == 1


def test_draining_ends_what_is_in_work_and_begins_nothing(make: Make) -> None:
    orders = Orders()
    boss = Boss({packet(2): orders.drain})

    report = make(orders).run(Obedient("draining"), [0, 1, 2], boss)

    assert {p: o.kind for p, o in report.outcomes.items()} == dict.fromkeys(range(3), "stopped")
    assert [e.partition for e in boss.events if isinstance(e, PartitionClaimed)] == [0]
    assert len(packets(boss.events)) in (2, 3)
    assert report.interrupted


def test_draining_ends_a_pause(make: Make) -> None:
    orders = Orders()
    boss = Boss({packet(2): lambda: orders.pause(paused=True), said("rested 1 times"): orders.drain})

    report = make(orders).run(Obedient("paused"), [0], boss)

    assert report.outcomes[0].kind == "stopped"


def test_an_error_while_draining_stops_the_others_and_is_the_runs(tmp_path: Path) -> None:
    orders = Orders()
    claimed = [2]

    def all_at_work(event: Event) -> bool:
        claimed[0] -= isinstance(event, PartitionClaimed)
        return claimed[0] == 0

    misdeeds = {0: Misdeed("full when draining"), 1: Misdeed("waits for stop aloud")}

    report = ProcessEngine(2, orders=orders).run(
        Shards(tmp_path, misdeeds), [0, 1, 2], Boss({all_at_work: orders.drain})
    )

    assert {p: o.kind for p, o in report.outcomes.items()} == {0: "permanent", 1: "stopped", 2: "stopped"}
    assert isinstance(report.error, DiskFullError)
    assert not report.interrupted


def test_a_signal_while_draining_stops() -> None:
    orders = Orders()
    boss = Boss({packet(2): orders.drain, said("draining"): lambda: os.kill(os.getpid(), signal.SIGINT)})

    report = ProcessEngine(1, orders=orders).run(Obedient("stopping"), [0], boss)

    assert report.outcomes[0].kind == "stopped"
    assert any(said("stopping")(event) for event in boss.events)


@pytest.mark.parametrize("order", ["pause", "drain"])
def test_an_order_given_before_the_run_is_followed(make: Make, order: str) -> None:
    orders = Orders()
    orders.pause(paused=True) if order == "pause" else orders.drain()
    boss = Boss({said("rested 1 times"): orders.drain})

    report = make(orders).run(Obedient(), [0], boss)

    assert report.interrupted
    assert packets(boss.events) == []


def test_a_change_reaches_the_slot_in_work_and_those_that_come_later(make: Make) -> None:
    orders = Orders()
    boss = Boss({packet(2): lambda: orders.change(CHANGE)})

    make(orders).run(Obedient("changes"), [0, 1], boss)

    known = {p: [e.bytes for e in packets(boss.events) if e.partition == p] for p in (0, 1)}
    assert known[0][-7:] == [1] * 7
    assert known[1] == [1] * 10
    assert [e.message for e in boss.events if isinstance(e, Notice)] == [
        "stage lower: width = 3 from the next packet on"
    ]


def test_a_slot_that_replaces_a_dead_one_knows_what_was_ordered(tmp_path: Path) -> None:
    orders = Orders([CHANGE])
    orders.pause(paused=True)
    boss = Boss({said("rested 1 times"): lambda: orders.pause(paused=False)})

    engine = ProcessEngine(1, orders=orders)
    engine.run(Shards(tmp_path, {0: Misdeed("killed")}), [0], boss)
    lost = [e for e in boss.events if isinstance(e, SlotLost)]
    engine.run(Obedient(), [1], boss)

    assert len(lost) == 1
    assert [e.bytes for e in packets(boss.events) if e.partition == 1] == [1] * 10


def test_a_slot_that_is_paused_for_longer_than_one_may_hang_is_alive() -> None:
    orders = Orders()
    boss = Boss({packet(2): lambda: orders.pause(paused=True), said("rested 3"): lambda: orders.pause(paused=False)})

    report = ProcessEngine(1, hang_timeout_s=1.5, orders=orders).run(Obedient("paused"), [0], boss)

    assert report.outcomes[0].kind == "done"
    assert not any(isinstance(event, SlotLost) for event in boss.events)


def test_more_workers_are_started_when_they_are_wanted(tmp_path: Path) -> None:
    orders = Orders()
    boss = Boss({lambda event: True: lambda: None})
    orders.work_with(3)

    report = ProcessEngine(1, orders=orders).run(Together(tmp_path, 3), [0, 1, 2], boss)

    assert {o.kind for o in report.outcomes.values()} == {"done"}
    assert len({path.name.rpartition("-")[2] for path in tmp_path.glob("here-*")}) == 3


def test_fewer_workers_go_on_when_fewer_are_wanted() -> None:
    orders = Orders()
    boss = Boss({packet(1): lambda: orders.work_with(1), packet(2): lambda: orders.change(CHANGE)})

    report = ProcessEngine(2, orders=orders).run(Obedient("changes"), range(6), boss)

    begun = [e.partition for e in boss.events if isinstance(e, PartitionClaimed)]
    last = {
        p: max(i for i, e in enumerate(boss.events) if isinstance(e, SamplesPacked) and e.partition == p) for p in begun
    }
    first = {p: boss.events.index(PartitionClaimed(p, 0)) for p in begun}
    assert {o.kind for o in report.outcomes.values()} == {"done"}
    assert all(first[after] > last[before] for before, after in itertools.pairwise(begun[2:]))
    assert len(packets(boss.events)) == 60


def test_orders_are_told_as_what_is_new() -> None:
    before = Standing(changes=(CHANGE,))
    now = Standing(paused=True, changes=(CHANGE, CHANGE), slots=4, uploads=7, threads=(("fetch", 12),))

    assert news(before, now) == [
        "paused: nothing more is read",
        "from now on 4 workers at a time",
        "from now on 7 uploads at a time in each slot",
        "stage fetch: from now on 12 rows at a time",
        "stage lower: width = 3 from the next packet on",
    ]
    assert news(now, msgspec.structs.replace(now, paused=False, draining=True)) == [
        "draining: what has been read is being finished, then the run ends"
    ]
