"""A rented machine from choice to proof that it is gone."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_bridge.clients.vast import RentalUnclear, VastClient
from data_bridge.compute import watchdog
from data_bridge.compute.choice import DEARER, Candidate
from data_bridge.compute.rentals import Rentals, new_label
from data_bridge.compute.settling import Patience, settle
from data_bridge.compute.signals import unheard
from data_bridge.compute.ssh import Link, LinkLost, Ssh, make_key
from data_bridge.errors import BridgeError, FatalError
from data_bridge.model.rental import Address, Instance, Rental

Reach = Callable[[Address, str, Path], Link]
_NEVER = ("error response from daemon", "failed to pull image", "no space left on device", "manifest unknown",
          "unauthorized", "pull rate limit", "pull access denied", "unexpected eof", "oci runtime")  # fmt: skip
_OVER = ("exited", "stopped", "frozen")
AWAY = ("offline", "unknown")
ROUNDED = 0.0005
"""Dollars an hour by which a price may be off the most that was allowed."""


class BadMachine(BridgeError):
    """This machine will not do; another may."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is rented for whom."""

    name: str
    image: str
    disk_gb: int
    hours: float
    """After which the machine destroys itself."""
    config: str
    destination: str
    bid: float | None = None
    max_usd_hour: float = float("inf")
    slice: str = ""
    """`2/3` where it is for a part of a run."""


class VastSession:
    """Rents one machine for the length of a `with` block, and destroys it at its end unless `detach` was called.

    `step` hears of every step before or after which a client may die. `reach` makes the way to a machine.
    """

    def __init__(
        self,
        client: VastClient,
        rentals: Rentals,
        account: int,
        *,
        tell: Callable[[str], None],
        patience: Patience | None = None,
        reach: Reach = Ssh,
        step: Callable[[str], None] = lambda _: None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.patience = patience or Patience()
        self.detached = False
        self.rental: Rental | None = None
        self._client = client
        self._rentals = rentals
        self._account = account
        self._tell = tell
        self._reach = reach
        self._step = step
        self.wait = wait or threading.Event().wait
        self._offered_usd_hour, self._most_usd_hour = 0.0, float("inf")

    @contextmanager
    def machine(self, chosen: Candidate, order: Order) -> Generator[Link]:
        """The machine, reached; its watchdog is known to watch.

        Raises BadMachine or OfferGone when this offer came to nothing, and nothing is left of it; FatalError, loudly,
        when at the end the machine could not be proved gone.
        """
        try:
            self._rent(chosen, order)
            self.wait_until_running()
            self._step("running")
            link = self.wait_for_ssh()
            self._step("reached")
            yield link
        finally:
            if not self.detached:
                try:
                    self.end()
                except KeyboardInterrupt:  # it came a moment before signals were held off
                    self.end()

    def detach(self) -> None:
        """Leave the machine to its watchdog."""
        self.detached = True

    def adopt(self, rental: Rental) -> None:
        """Go on with a machine that an earlier command rented."""
        self.rental = rental

    def _rent(self, chosen: Candidate, order: Order) -> None:
        label, now, pace = new_label(order.name), time.time(), self.patience
        _, login = make_key(self._rentals.place(label))
        deadline = now + order.hours * 3600
        self._offered_usd_hour = chosen.usd_hour
        self._most_usd_hour = min(chosen.usd_hour * DEARER, max(chosen.usd_hour, order.max_usd_hour) + ROUNDED)
        self._step("intending")
        self.rental = self._rentals.put(
            Rental(
                label=label,
                state="intended",
                api_url=self._client.api_url,
                account=self._account,
                offer=chosen.offer.id,
                machine_id=chosen.offer.machine_id,
                usd_hour=chosen.usd_hour,
                created=now,
                deadline=deadline,
                config=order.config,
                destination=order.destination,
                traffic_usd=chosen.traffic,
                slice=order.slice,
            )
        )
        env = watchdog.environment(
            api_url=self._client.api_url,
            login=login,
            now=now,
            deadline=deadline,
            idle_s=pace.idle_s,
            linger_s=pace.linger_s,
            tick_s=pace.tick_s,
        )
        request: dict[str, Any] = {
            "image": order.image,
            "disk": order.disk_gb,
            "label": label,
            "runtype": "ssh_direct",
            "cancel_unavail": True,
            "onstart": watchdog.ONSTART,
            "env": env,
        }
        if order.bid is not None:
            request["price"] = order.bid
        self._step("renting")
        try:
            contract = self._client.rent(chosen.offer.id, request)
        except RentalUnclear as error:
            self._note(instance=error.contract)
            raise BadMachine(error.message) from error
        except BridgeError:
            self._note(state="never", ended=now)
            raise
        self._step("answered")
        self._note(state="rented", instance=contract.id)
        self._step("noted")
        where = f"{chosen.offer.gpu_name}, {chosen.offer.place}"
        self._tell(f"rented machine {contract.id} ({where}) at ${chosen.usd_hour:.3f}/h")
        with suppress(BridgeError):  # the login also travels with the request
            self._client.attach_key(contract.id, login)
        self._step("key sent")

    def _note(self, **changes: Any) -> None:
        self.rental = self._rentals.put(replace(self._known, **changes))

    @property
    def _known(self) -> Rental:
        assert self.rental is not None, "nothing is rented"
        return self.rental

    @property
    def id(self) -> int:
        """The machine's number."""
        number = self._known.instance
        assert number is not None, "nothing is rented"
        return number

    def look(self) -> Instance | None:
        """The machine as the service tells it now."""
        return self._client.instance(self.id)

    def link(self, found: Instance) -> Link | None:
        """A way to it, directly where that is possible."""
        address = found.direct or found.proxy
        return self._reach(address, f"vast-{self.id}", self._rentals.place(self._known.label)) if address else None

    def wait_until_running(self) -> None:
        """Raises BadMachine when it will not."""
        began, away_since = time.monotonic(), None
        end = began + self.patience.boot_s
        met = False
        while True:
            found = self.look()
            now = time.monotonic()
            met = met or found is not None
            if not met and now - began <= self.patience.unlisted_s:
                self.wait(self.patience.poll_s)
                continue
            found = self._usable(found)
            if found.status == "running":
                return
            away_since = (away_since or now) if found.status in AWAY else None
            if now > end or (away_since and now - away_since > self.patience.away_s):
                raise BadMachine(f"machine {self.id} is {found.status or 'not there'} and does not start")
            self.wait(self.patience.poll_s)

    def wait_for_ssh(self) -> Link:
        """Raises BadMachine when nobody answers, or when nothing would destroy the machine without us."""
        end, dark_since = time.monotonic() + self.patience.ssh_s, None
        unwatched_since: float | None = None
        while True:
            found = self._usable(self.look())
            try:
                link = self.link(found)
                if link is None:
                    raise LinkLost("it has no address", refused=True)
                link.run("true", timeout_s=20)
            except LinkLost as error:
                now = time.monotonic()
                dark_since = None if error.refused else (dark_since or now)
                if now > end or (dark_since and now - dark_since > self.patience.dark_s):
                    raise BadMachine(f"machine {self.id} cannot be reached: {error.message}") from error
            else:
                with suppress(LinkLost):
                    try:
                        link.run(watchdog.CHECK)
                        return link
                    except FatalError:
                        unwatched_since = unwatched_since or time.monotonic()
                # sshd may answer before the watchdog is up
                if unwatched_since and time.monotonic() - unwatched_since > 6 * self.patience.tick_s:
                    raise BadMachine(f"machine {self.id} has no watchdog that could destroy it")
            self.wait(self.patience.poll_s / 5)

    def _usable(self, found: Instance | None) -> Instance:
        why = fate(found)
        if why or found is None:
            raise BadMachine(f"machine {self.id} {why}")
        if found.usd_hour > self._known.usd_hour:  # what is paid is what counts
            self._note(usd_hour=found.usd_hour)
        if found.usd_hour > self._most_usd_hour:
            offered = f"${self._offered_usd_hour:.3f}/h as it was offered"
            raise BadMachine(f"machine {self.id} costs ${found.usd_hour:.3f}/h, not {offered}")
        return found

    @property
    def stuck(self) -> bool:
        """After its end: whether it could not be proved gone, and may cost money until its deadline."""
        return self.rental is not None and self.rental.open and not self.detached

    def end(self) -> None:
        """Destroy and prove it. Without effect when nothing was rented."""
        if self.rental is not None and self.rental.open:
            with unheard(self._tell):
                self._step("ending")
                self.rental = settle(self._client, self._rentals, self.rental, self.patience, threading.Event().wait)
            if self.rental.state == "gone":
                cost = self.rental.cost(time.time())
                self._tell(f"machine {self.rental.instance} is gone; its hours cost about ${cost:.2f}")


def fate(found: Instance | None) -> str:
    """Why a machine is of no use any more; "" while it may be."""
    if found is None:
        return "is gone"
    if found.outbid:
        return "was outbid, or stopped by the service"
    if found.status in _OVER:
        return f"is {found.status}"
    message = found.message.lower()
    if found.status != "running" and (message.startswith("error") or any(word in message for word in _NEVER)):
        return f"cannot start: {found.message}"
    return ""
