"""No host is asked harder than allowed, and nobody waits once it is stopped."""

import threading

from data_bridge.clients import host_limits as module
from data_bridge.clients.host_limits import HostLimits

LIMIT_S = 20.0


def test_no_more_requests_are_inside_than_allowed_and_hosts_do_not_hinder_each_other() -> None:
    limits = HostLimits(2)
    assert limits.enter("a")
    assert limits.enter("a")
    entered = threading.Event()

    def third() -> None:
        limits.enter("a")
        entered.set()

    thread = threading.Thread(target=third)
    thread.start()
    assert limits.enter("b")
    assert not entered.is_set()
    limits.leave("a")
    assert entered.wait(LIMIT_S)
    thread.join()


def test_a_rate_spaces_the_starts_and_a_host_that_asks_for_it_is_spared() -> None:
    now = [100.0]
    limits = HostLimits(8, 4.0, clock=lambda: now[0])
    waited: list[float] = []
    limits._stopped.wait = lambda seconds=None: bool(waited.append(round(seconds or 0, 6)))  # type: ignore[assignment, method-assign, func-returns-value]

    for _ in range(3):
        assert limits.enter("a")
    assert waited == [0.25, 0.5]
    now[0] = 200.0
    assert limits.enter("a")
    assert waited == [0.25, 0.5]
    limits.spare("a", 7)
    assert limits.enter("b")
    assert limits.enter("a")
    assert waited == [0.25, 0.5, 7.0]


def test_stopping_wakes_who_waits_for_a_place_and_who_waits_for_the_time() -> None:
    limits = HostLimits(1, 0.001)
    assert limits.enter("a")
    assert limits.enter("b")
    limits.leave("b")
    found: list[bool] = []
    threads = [threading.Thread(target=lambda host=host: found.append(limits.enter(host))) for host in "aab"]
    for thread in threads:
        thread.start()
    limits.stop()
    for thread in threads:
        thread.join(LIMIT_S)
    assert found == [False] * 3
    assert not limits.enter("c")


def test_hosts_seen_once_are_forgotten_but_none_that_is_in_use() -> None:
    limits = HostLimits(1)
    limits.enter("kept")
    for number in range(2 * module._MOST_IDLE):
        host = f"host-{number}"
        limits.enter(host)
        limits.leave(host)
    assert len(limits._gates) <= module._MOST_IDLE
    assert "kept" in limits._gates
