"""What is rented by anybody of this product on an account, and ending what nobody needs."""

import threading
import time
from dataclasses import dataclass, replace

from data_bridge.clients.vast import VastClient
from data_bridge.compute.rentals import PREFIX, Rentals
from data_bridge.compute.settling import Patience, settle
from data_bridge.model.rental import Instance, Rental

RENTING_S = 120.0
"""A rental this young may just be under way."""


@dataclass(frozen=True, slots=True)
class Held:
    """A machine, what this computer's ledger knows of it, or both."""

    instance: Instance | None
    rental: Rental | None
    overdue: bool
    """Nobody may need it any more: its deadline is over, or the ledger cannot say that anybody does."""

    @property
    def name(self) -> str:
        return str(self.instance.id if self.instance else self.rental.label if self.rental else "?")


def held(client: VastClient, rentals: Rentals) -> list[Held]:
    """Everything of ours. Raises what a list that fails raises: it is never taken for empty."""
    now = time.time()
    machines = list(client.instances())
    known = rentals.open(client.api_url, client.account())
    found = []
    for rental in known:
        mine = next((i for i in machines if i.id == rental.instance or i.label == rental.label), None)
        if mine is not None:
            machines.remove(mine)
        lost = now - rental.created > RENTING_S and (mine is None or rental.state == "intended")
        found.append(Held(mine, rental, overdue=lost or now >= rental.deadline))
    found += [
        Held(i, None, overdue=i.deadline is None or now >= i.deadline) for i in machines if i.label.startswith(PREFIX)
    ]
    return found


def end(client: VastClient, rentals: Rentals, one: Held, patience: Patience | None = None) -> None:
    """Destroy it and prove it. Raises FatalError when that cannot be done."""
    rental = one.rental or _unknown(client, one)
    if one.instance is not None and rental.instance is None:
        rental = replace(rental, instance=one.instance.id)
    settle(client, rentals, rental, patience or Patience(), threading.Event().wait)


def _unknown(client: VastClient, one: Held) -> Rental:
    """A rental of another computer, which gets a line here for its end."""
    assert one.instance is not None
    found, now = one.instance, time.time()
    return Rental(
        label=found.label, state="rented", api_url=client.api_url, account=client.account(), offer=0, machine_id=found.machine_id,
        usd_hour=found.usd_hour, created=found.started or now, deadline=now, config="", destination="", instance=found.id,
    )  # fmt: skip
