"""The end of a rental: destroyed, and proved to be gone."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from data_bridge.clients.vast import VastClient
from data_bridge.compute.rentals import Rentals
from data_bridge.errors import BridgeError, FatalError
from data_bridge.model.rental import Instance, Rental


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a session waits for what; seconds."""

    poll_s: float = 10.0
    boot_s: float = 1200.0
    ssh_s: float = 300.0
    dark_s: float = 60.0
    """Of connections that time out, rather than being refused."""
    away_s: float = 300.0
    """Of a machine whose host says nothing."""
    unlisted_s: float = 60.0
    """A new machine may be missing from the list for so long."""
    destroy_s: float = 600.0
    idle_s: float = 900.0
    """A machine to which nobody submits work destroys itself after so long."""
    linger_s: float = 180.0
    """It stays for so long after its work, so that the log can be read."""
    tick_s: float = 5.0


def settle(
    client: VastClient, rentals: Rentals, rental: Rental, patience: Patience, wait: Callable[[float], object]
) -> Rental:
    """Destroy what a rental may have rented, and prove that nothing of it is left. Raises FatalError when it cannot."""
    end = time.monotonic() + patience.destroy_s
    while True:
        try:
            done = _settled(client, rental, patience)
            if done is not None:
                return rentals.put(done)
            last = "it is still there, or not listed yet"
        except BridgeError as error:  # a key that is refused now may be let in again
            last = error.message
        if time.monotonic() > end:
            raise FatalError(
                f"MACHINE {rental.instance or rental.label} MAY STILL COST MONEY: {last}",
                hint=f"destroy it at {client.api_url}/instances/ or with `data-bridge vast reap --yes`",
            )
        wait(min(patience.poll_s, 3.0))


def _settled(client: VastClient, rental: Rental, patience: Patience) -> Rental | None:
    """None: not yet."""
    now = time.time()
    number = rental.instance
    if number is None:
        mine = _made_by(rental, client.instances())
        if not mine:
            return replace(rental, state="never", ended=now) if now - rental.created > patience.unlisted_s else None
        number = mine[0].id
    client.destroy(number)
    if client.instance(number) is not None or any(i.id == number for i in client.instances()):
        return None
    return replace(rental, state="gone", ended=now, instance=number)


def _made_by(rental: Rental, found: Iterable[Instance]) -> list[Instance]:
    """What an answer that was lost may have rented: by its label, or where the service lost that, by the machine."""

    def is_mine(one: Instance) -> bool:
        if one.label:
            return one.label == rental.label
        return one.machine_id == rental.machine_id and (one.started is None or one.started >= rental.created - 60)

    return [one for one in found if is_mine(one)]
