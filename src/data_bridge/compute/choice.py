"""Which machine to rent: by what the whole run would cost on it, traffic and disk included."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from data_bridge.config import VastSettings
from data_bridge.model.rental import Offer

SETUP_H = 0.1
"""Until it boots and everything is installed."""
DEARER = 1.05
"""Times the price that was offered a machine may cost: rounding, and no more."""
CORE_BYTES_S = 60e6
"""Packed by one core; `data-bridge bench` measures it."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a run moves."""

    bytes_in: float
    bytes_out: float
    disk_gb: float

    def hours(self, offer: Offer) -> float:
        """How long the run takes there, at least: links and cores work at the same time."""
        down = self.bytes_in * 8 / 1e6 / max(offer.inet_down, 1.0)
        up = self.bytes_out * 8 / 1e6 / max(offer.inet_up, 1.0)
        packing = self.bytes_in / CORE_BYTES_S / max(offer.cores, 1.0)
        return SETUP_H + max(down, up, packing) / 3600

    def traffic(self, offer: Offer) -> float:
        """Dollars for bytes."""
        return self.bytes_in / 1e9 * offer.down_usd_gb + self.bytes_out / 1e9 * offer.up_usd_gb


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer and what the run costs on it."""

    offer: Offer
    usd_hour: float
    hours: float
    total: float
    """Dollars, expected."""
    traffic: float

    def traffic_within(self, hours: float) -> float:
        """Dollars for bytes in so many hours, at most: what the run moves in all, or what the links can move until then."""
        gb_mbit_h = 3600 / 8e3
        links = self.offer.inet_down * self.offer.down_usd_gb + self.offer.inet_up * self.offer.up_usd_gb
        return min(self.traffic, links * gb_mbit_h * max(0.0, hours))


def filters(vast: VastSettings) -> dict[str, Any]:
    """The settings as the service takes them."""
    search = vast.search
    given: dict[str, tuple[str, Any]] = {
        "gpu_name": ("eq", search.gpu_name),
        "inet_down": ("gte", search.min_inet_down),
        "inet_up": ("gte", search.min_inet_up),
        "cpu_cores_effective": ("gte", search.min_cores),
        "reliability": ("gte", search.min_reliability),
        "geolocation": ("in", list(search.regions) or None),
        "disk_space": ("gte", vast.storage_gb),
        "direct_port_count": ("gte", 1),
        "duration": ("gte", vast.max_hours * 3600),
    }
    return {key: {test: value} for key, (test, value) in given.items() if value is not None}


def ranked(
    offers: Iterable[Offer], vast: VastSettings, need: Need, *, left_usd: float | None, without: Collection[int] = ()
) -> list[Candidate]:
    """Those that keep within every limit, the cheapest run first. Limits are checked here, whatever the search did."""
    found = []
    for offer in offers:
        # the disk is rented too, at whatever rate the machine runs
        hourly = (vast.bid_usd_hour or offer.base_usd_hour) + offer.usd_hour(need.disk_gb) - offer.base_usd_hour
        hours, traffic = need.hours(offer), need.traffic(offer)
        candidate = Candidate(offer, hourly, hours, hours * hourly + traffic, traffic)
        if offer.machine_id not in without and _allowed(candidate, vast, left_usd):
            found.append(candidate)
    return sorted(found, key=lambda c: (c.total, c.offer.id))


def _allowed(candidate: Candidate, vast: VastSettings, left_usd: float | None) -> bool:
    offer, search = candidate.offer, vast.search
    least = [
        (offer.inet_down, search.min_inet_down),
        (offer.inet_up, search.min_inet_up),
        (offer.cores, search.min_cores),
        (offer.reliability, search.min_reliability),
    ]
    return (
        candidate.usd_hour <= vast.max_price_usd_hour
        and candidate.hours <= allowed_hours(candidate, vast, left_usd)
        and offer.disk_gb >= vast.storage_gb
        and offer.duration_s >= vast.max_hours * 3600
        and all(have >= wanted for have, wanted in least if wanted is not None)
        and (search.max_usd_gb is None or max(offer.down_usd_gb, offer.up_usd_gb) <= search.max_usd_gb)
        and (vast.bid_usd_hour is None or vast.bid_usd_hour >= offer.base_usd_hour)
    )


def allowed_hours(candidate: Candidate, vast: VastSettings, left_usd: float | None) -> float:
    """After how many hours the machine has to be gone: `max_hours`, or when the money for its hours is used up, were it
    as dear as it may be."""
    if left_usd is None:
        return vast.max_hours
    left, dearest = left_usd - candidate.traffic, candidate.usd_hour * DEARER
    if left < 0:
        return 0.0
    return min(vast.max_hours, left / dearest) if dearest else vast.max_hours
