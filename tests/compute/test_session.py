"""A machine for the length of a block: its time, its key, and going on with it another day."""

import errno
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fake_vast.faults import Fault
from fake_vast.machines import Container, why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.rented import QUICK, quick_client

from data_bridge.compute.choice import DEARER, Candidate, Need, ranked
from data_bridge.compute.following import Following, TimeOver
from data_bridge.compute.reaping import held
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import attached
from data_bridge.compute.session import BadMachine, Order, VastSession
from data_bridge.compute.signals import unheard
from data_bridge.compute.ssh import Link, LinkLost, Ssh, make_key
from data_bridge.config import Settings, VastSettings
from data_bridge.errors import FatalError
from data_bridge.model.rental import Address

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")
JOB = """S="$HOME/.data-bridge"; cd "$S"; mkdir started
setsid nohup sh -c 'echo $$ > pid; echo first > log; sleep {seconds}; echo last >> log; echo 3 > rc' </dev/null >/dev/null 2>&1 &
until [ -e log ]; do sleep 0.05; done"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer(), offer()], make_machine=Container)) as running:
        yield running


@pytest.fixture
def session(server: Server, tmp_path: Path) -> VastSession:
    vast = quick_client(server.world.account_key, server.url)
    return VastSession(vast, Rentals(tmp_path / "rentals"), vast.account(), tell=lambda _: None, patience=QUICK)


def cheapest(server: Server) -> Candidate:
    found = quick_client(server.world.account_key, server.url).offers({}, bid=False, disk_gb=50)
    return ranked(found, VastSettings(), Need(1e6, 1e6, 50), left_usd=None)[0]


def order(hours: float = 1.0, destination: str = "/nowhere/out") -> Order:
    return Order("test", "python:3.12", 50, hours, "c.yaml", destination)


def test_a_machine_whose_time_is_over_destroys_itself_and_the_client_says_so(
    server: Server, session: VastSession
) -> None:
    with (
        pytest.raises(FatalError, match="time is over"),
        session.machine(cheapest(server), order(hours=4 / 3600)) as link,
    ):
        link.run(JOB.format(seconds=600))
        Following(session, lambda _: None).to_the_end(link)

    (own,) = server.world.calls("destroy", "instance")
    assert own.status == 200
    assert server.world.living == []


def test_a_machine_that_cannot_end_itself_at_its_deadline_is_ended_by_the_client(
    server: Server, session: VastSession
) -> None:
    server.world.faults.plan(Fault("destroy by itself", "drop_before", 10_000))

    with (
        pytest.raises(TimeOver),
        session.machine(cheapest(server), order(hours=4 / 3600)) as link,
    ):
        link.run(JOB.format(seconds=600))
        Following(session, lambda _: None).to_the_end(link)

    assert server.world.calls("destroy", "account")
    assert server.world.living == []


def test_a_run_that_dies_without_a_word_is_noticed_before_its_machine_ends(
    server: Server, session: VastSession
) -> None:
    session.patience = replace(QUICK, linger_s=600.0)

    with (
        pytest.raises(BadMachine, match="no run any more"),
        session.machine(cheapest(server), order()) as link,
    ):
        link.run(JOB.format(seconds=600))
        link.run('kill -9 "$(cat "$HOME/.data-bridge/pid")"')
        Following(session, lambda _: None).to_the_end(link)

    assert server.world.living == []


def test_a_run_that_was_left_to_itself_is_followed_from_its_first_line_on_another_day(
    server: Server, session: VastSession, tmp_path: Path
) -> None:
    with session.machine(cheapest(server), order(destination=str(tmp_path / "out"))) as link:
        link.run(JOB.format(seconds=1))
        session.detach()
    (rental,) = Rentals(tmp_path / "rentals").all()
    assert [i.id for i in server.world.living] == [rental.instance]
    log: list[bytes] = []

    ended = attached(
        quick_client(server.world.account_key, server.url), Rentals(tmp_path / "rentals"), rental,
        Settings.model_validate({"pipeline": {"input_uri": "x"}}),
        tell=lambda _: None, log=log.append, on_interrupt=lambda: "destroy", patience=QUICK,
    )  # fmt: skip

    assert b"".join(log) == b"first\nlast\n"
    assert (ended.exit_code, ended.complete) == (3, False)
    assert server.world.living == []
    assert [r.state for r in Rentals(tmp_path / "rentals").all()] == ["gone"]


def test_a_log_is_followed_over_lost_connections_without_a_byte_lost_or_twice(
    server: Server, session: VastSession
) -> None:
    class Cutting:
        """Breaks every connection after a few bytes."""

        def __init__(self, inner: Link) -> None:
            self._inner = inner
            self.run = inner.run

        def stream(self, script: str) -> Iterator[bytes]:
            for block in self._inner.stream(script):
                yield block[:3000]
                raise LinkLost("cut")

    log: list[bytes] = []
    session.patience = replace(QUICK, linger_s=60.0)
    with session.machine(cheapest(server), order()) as link:
        link.run('cd "$HOME/.data-bridge"; mkdir started; seq 1 2000 > log; echo $$ > pid; echo 0 > rc')
        original = session.link
        session.link = lambda found: Cutting(original(found))  # type: ignore[arg-type, method-assign, assignment, return-value]
        Following(session, log.append).to_the_end(Cutting(link))  # type: ignore[arg-type]

    assert b"".join(log) == b"".join(b"%d\n" % n for n in range(1, 2001))
    assert len(log) > 2


def test_another_host_key_than_at_first_is_refused(server: Server, session: VastSession, tmp_path: Path) -> None:
    impostor = Container()
    with session.machine(cheapest(server), order()):
        folder = next((tmp_path / "rentals").iterdir())
        try:
            impostor.start({}, "", [(folder / "key.pub").read_text()])
            while not (impostor.place / "up").exists():
                threading.Event().wait(0.02)
            assert impostor.port is not None
            with pytest.raises(FatalError, match="another host key"):
                Ssh(Address("127.0.0.1", impostor.port), f"vast-{session.id}", folder).run("true")
        finally:
            impostor.kill()


def test_a_rental_that_was_never_made_is_closed_and_says_so(server: Server, session: VastSession) -> None:
    server.world.faults.plan(Fault("create", "drop_before"))

    with pytest.raises(BadMachine, match="lost"), session.machine(cheapest(server), order()):
        raise AssertionError("there is no machine")

    assert session.rental is not None
    assert (session.rental.state, session.rental.open) == ("never", False)


def test_a_machine_that_cannot_be_proved_gone_is_said_loudly_and_stays_in_the_ledger(
    server: Server, session: VastSession, tmp_path: Path
) -> None:
    session.patience = replace(QUICK, destroy_s=0.3)
    server.world.faults.plan(Fault("destroy", "refused", times=10_000))

    with pytest.raises(FatalError, match="MAY STILL COST MONEY"), session.machine(cheapest(server), order()):
        pass

    (rental,) = Rentals(tmp_path / "rentals").all()
    assert rental.open


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_machine_that_the_service_does_not_know_at_first_is_neither_lost_nor_forgotten(
    server: Server, session: VastSession, gives_up: bool
) -> None:
    server.world.knobs.unknown_for_s = server.world.knobs.listed_after_s = 1.0
    session.patience = replace(QUICK, unlisted_s=5.0)
    if gives_up:

        def stop(step: str) -> None:
            if step == "key sent":
                raise KeyboardInterrupt

        session._step = stop

    with suppress(KeyboardInterrupt), session.machine(cheapest(server), order()) as link:
        assert link.run("echo here") == b"here\n"

    assert len(server.world.instances) == 1
    assert server.world.living == []
    assert session.rental is not None
    assert session.rental.state == "gone"


def test_a_machine_that_costs_more_than_was_offered_is_given_back(server: Server, session: VastSession) -> None:
    server.world.knobs.dearer = 1.3

    with (
        pytest.raises(BadMachine, match=r"not \$0.4\d\d/h as it was offered"),
        session.machine(cheapest(server), order()),
    ):
        raise AssertionError("it was taken")

    assert server.world.living == []
    assert session.rental is not None
    assert session.rental.usd_hour > 1.2 * cheapest(server).usd_hour, "what it cost is what is to be paid"


def test_a_machine_that_costs_more_than_may_be_paid_is_given_back_however_little_more(
    server: Server, session: VastSession
) -> None:
    server.world.knobs.dearer = 1.03
    most = replace(order(), max_usd_hour=cheapest(server).usd_hour)

    with pytest.raises(BadMachine, match="as it was offered"), session.machine(cheapest(server), most):
        raise AssertionError("it was taken")

    assert server.world.living == []


def test_a_machine_that_is_a_little_dearer_is_taken_and_its_own_price_is_what_counts(
    server: Server, session: VastSession
) -> None:
    server.world.knobs.dearer = 1.03
    asked = cheapest(server).usd_hour

    with session.machine(cheapest(server), order()):
        pass

    assert session.rental is not None
    assert asked * 1.02 < session.rental.usd_hour <= asked * DEARER


def test_a_rental_that_was_refused_for_being_too_early_is_tried_again(server: Server, session: VastSession) -> None:
    server.world.faults.plan(Fault("create", "too_often_text", 2))

    with session.machine(cheapest(server), order()) as link:
        assert link.run("echo here") == b"here\n"

    assert len(server.world.instances) == 1


def test_an_address_that_looks_like_an_option_is_none(tmp_path: Path) -> None:
    make_key(tmp_path)

    with pytest.raises((LinkLost, FatalError)):
        Ssh(Address(f"-oProxyCommand=touch {tmp_path}/owned", 22), "vast-1", tmp_path).run("true")

    assert not (tmp_path / "owned").exists()


def test_a_second_hangup_on_a_closed_terminal_does_not_stop_the_destruction() -> None:
    def closed(_text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with unheard(closed):
        signal.raise_signal(signal.SIGTERM)


def test_machines_of_another_computer_are_reaped_only_when_their_time_is_over(
    server: Server, session: VastSession, tmp_path: Path
) -> None:
    vast, elsewhere = quick_client(server.world.account_key, server.url), Rentals(tmp_path / "another computer")

    with session.machine(cheapest(server), order()):
        (seen,) = held(vast, elsewhere)
    assert not seen.overdue

    (machine,) = server.world.instances.values()
    machine.gone_at, machine.request["env"]["DATA_BRIDGE_DEADLINE"] = None, str(int(time.time()) - 1)
    (late,) = held(vast, elsewhere)
    assert late.overdue
    machine.destroy()
