"""The machine is chosen by what the whole run costs on it, and every limit is kept here, whatever the search did."""

from typing import Any

import pytest
from support.rented import an_offer as offer

from data_bridge.compute.choice import DEARER, Need, allowed_hours, filters, ranked
from data_bridge.config import VastSearch, VastSettings
from data_bridge.model.rental import Offer

NEED = Need(bytes_in=1e12, bytes_out=1e12, disk_gb=50)


def ids(*offers: Offer, left_usd: float | None = None, without: tuple[int, ...] = (), **settings: Any) -> list[int]:
    return [c.offer.id for c in ranked(offers, VastSettings(**settings), NEED, left_usd=left_usd, without=without)]


def test_traffic_and_links_weigh_more_than_the_price_of_an_hour() -> None:
    dear_hours = offer(1, base_usd_hour=0.9)
    dear_traffic = offer(2, base_usd_hour=0.1, up_usd_gb=0.03, down_usd_gb=0.03)
    slow = offer(3, base_usd_hour=0.3, inet_down=150.0)

    assert ids(dear_traffic, slow, dear_hours) == [1, 3, 2]


def test_the_expected_total_is_hours_and_disk_and_traffic() -> None:
    (only,) = ranked([offer(1)], VastSettings(), NEED, left_usd=None)

    hours = 0.1 + 8e12 / 1e9 / 3600
    assert only.hours == pytest.approx(hours)
    assert only.total == pytest.approx(hours * (0.4 + 0.15 * 50 / 720) + 1000 * 0.004)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"base_usd_hour": 2.5}, {}),
        ({"disk_gb": 40.0}, {}),
        ({"duration_s": 3600.0}, {}),
        ({"inet_down": 5.0}, {"search": VastSearch(min_inet_down=None)}),
        ({"inet_up": 90.0}, {}),
        ({"cores": 1.0}, {}),
        ({"reliability": 0.5}, {}),
        ({"up_usd_gb": 0.02}, {"search": VastSearch(max_usd_gb=0.01)}),
        ({"base_usd_hour": 0.2}, {"bid_usd_hour": 0.1}),
    ],
)
def test_an_offer_beyond_a_limit_is_not_taken_even_if_the_search_found_it(
    fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert ids(offer(1, **fields), **settings) == []
    assert ids(offer(1, base_usd_hour=0.05), **settings) == [1]


def test_a_run_that_would_cost_more_than_is_left_is_not_begun() -> None:
    assert ids(offer(1), left_usd=4.0) == []
    assert ids(offer(1), left_usd=6.0) == [1]


def test_a_run_that_would_be_cut_off_on_a_machine_as_dear_as_it_may_be_is_not_begun() -> None:
    (only,) = ranked([offer(1)], VastSettings(), NEED, left_usd=None)
    dearest = only.hours * only.usd_hour * DEARER + only.traffic

    assert only.total < dearest - 0.01
    assert ids(offer(1), left_usd=dearest - 0.01) == []
    assert ids(offer(1), left_usd=dearest + 0.01) == [1]


def test_a_machine_that_failed_is_not_taken_again() -> None:
    assert ids(offer(1), offer(2), without=(101,)) == [2]


def test_the_machine_has_to_be_gone_before_the_money_is() -> None:
    (only,) = ranked([offer(1)], VastSettings(budget_usd=10), NEED, left_usd=10)

    assert allowed_hours(only, VastSettings(), None) == 24
    assert allowed_hours(only, VastSettings(), 10) == pytest.approx((10 - only.traffic) / (only.usd_hour * DEARER))
    assert allowed_hours(only, VastSettings(max_hours=3), 10) == 3


def test_a_machine_that_costs_nothing_by_the_hour_may_be_had_for_all_of_max_hours() -> None:
    (free,) = ranked([offer(1, base_usd_hour=0.0, storage_usd_gb_month=0.0)], VastSettings(), NEED, left_usd=10)

    assert allowed_hours(free, VastSettings(), 10) == 24
    assert allowed_hours(free, VastSettings(), free.traffic / 2) == 0


def test_the_search_asks_for_what_the_settings_say() -> None:
    asked = filters(VastSettings(max_hours=2, search=VastSearch(regions=("US", "CA"), gpu_name="RTX 3090")))

    assert asked["geolocation"] == {"in": ["US", "CA"]}
    assert asked["gpu_name"] == {"eq": "RTX 3090"}
    assert asked["duration"] == {"gte": 7200.0}
    assert "gpu_name" not in filters(VastSettings())
