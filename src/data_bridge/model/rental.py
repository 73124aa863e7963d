"""Rented machines as values: what is offered, what is rented, what was noted of it."""

from dataclasses import dataclass
from typing import Literal

DEADLINE = "DATA_BRIDGE_DEADLINE"
"""The variable of a rented machine that says when it destroys itself."""
MONTH_H = 720.0
"""Hours of the vendor's month, by which disks are priced."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine for rent. Prices are dollars; links are Mbit/s."""

    id: int
    machine_id: int
    gpu_name: str
    num_gpus: int
    cores: float
    disk_gb: float
    base_usd_hour: float
    """Without the disk; the bid where `bid` is asked for."""
    storage_usd_gb_month: float
    inet_down: float
    inet_up: float
    down_usd_gb: float
    up_usd_gb: float
    reliability: float
    place: str
    duration_s: float
    direct_ports: int

    def usd_hour(self, disk_gb: float) -> float:
        """Of an hour of running with so much disk."""
        return self.base_usd_hour + self.storage_usd_gb_month * disk_gb / MONTH_H


@dataclass(frozen=True, slots=True)
class Address:
    """Where an sshd listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine that is rented, as the vendor tells it."""

    id: int
    label: str
    machine_id: int
    status: str
    """`actual_status`; "" while there is none."""
    current: str
    intended: str
    next: str
    message: str
    usd_hour: float
    direct: Address | None
    """There once the container runs."""
    proxy: Address | None
    started: float | None
    uptime_mins: float | None
    deadline: float | None = None
    """When it destroys itself, where it was rented by this product."""

    @property
    def outbid(self) -> bool:
        """Somebody bid more, or the account's credit is used up: it stopped, and costs its disk until it is destroyed."""
        return self.current == self.intended == self.next == "stopped"


@dataclass(frozen=True, slots=True)
class Contract:
    """What a rental answers: the machine's number, and the key with which it can destroy itself."""

    id: int
    key: str | None


State = Literal["intended", "rented", "gone", "never"]
"""`intended`: the call may or may not have rented. `never`: it is known that it did not."""


@dataclass(frozen=True, slots=True)
class Rental:
    """One line of the local ledger of rentals: written before the call that costs money, and ended by proof."""

    label: str
    state: State
    api_url: str
    account: int
    offer: int
    machine_id: int
    usd_hour: float
    created: float
    deadline: float
    config: str
    destination: str
    instance: int | None = None
    ended: float | None = None
    traffic_usd: float = 0.0
    """What the run's traffic was expected to cost."""
    slice: str = ""
    """`2/3` where the machine does a part of a run."""

    @property
    def open(self) -> bool:
        """Whether it may still cost money."""
        return self.state in ("intended", "rented")

    def cost(self, now: float) -> float:
        """Dollars at most so far, without traffic."""
        if self.state == "never":
            return 0.0
        return self.usd_hour * max(0.0, (self.ended if self.ended is not None else now) - self.created) / 3600
