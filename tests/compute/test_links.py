"""A link that is much slower than offered is given up where that matters, and no source is taken for a slow link twice."""

import pytest
from support.rented import an_offer

from data_bridge.compute.choice import Candidate, Need
from data_bridge.compute.links import Links

HUGE = Need(bytes_in=1e12, bytes_out=1e12, disk_gb=50)
SMALL = Need(bytes_in=1e8, bytes_out=1e8, disk_gb=50)


def candidate(down: float = 1000.0, up: float = 1000.0) -> Candidate:
    return Candidate(an_offer(1, inet_down=down, inet_up=up), usd_hour=0.4, hours=3.0, total=2.0, traffic=1.0)


def test_links_are_measured_only_where_a_slow_one_would_cost_more_than_another_machine() -> None:
    assert Links(HUGE).matter(candidate())
    assert not Links(SMALL).matter(candidate())


@pytest.mark.parametrize(
    ("down", "up", "slow"), [(900, 900, False), (510, 1000, False), (400, 1000, True), (1000, 90, True)]
)
def test_a_link_is_too_slow_when_the_run_would_take_twice_as_long(down: float, up: float, slow: bool) -> None:
    assert bool(Links(HUGE).too_slow(candidate(), down, up)) == slow


def test_a_slow_link_that_costs_less_than_another_machine_is_kept() -> None:
    assert Links(SMALL).too_slow(candidate(), 10, 10) == ""


def test_when_a_second_machine_is_no_faster_it_is_not_the_machines() -> None:
    links = Links(HUGE)

    assert links.too_slow(candidate(), 200, 200)
    assert links.too_slow(candidate(), 190, 190) == ""
    assert links.too_slow(candidate(), 50, 50)
