"""The end of a rental: destroyed, and proved to be gone."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from data_bridge.clients.vast import VastClient
from data_bridge.compute.rentals import Rentals
from data_bridge.errors import BridgeError, FatalError
from data_bridge.model.rental import Instance, Rental

CALL_S = 60.0
"""A rental's answer comes within so long, or not at all."""


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
    settling = _Settling(client, rental, patience)
    while True:
        try:
            done = settling.tried()
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


class _Settling:
    """One rental on its way to an end."""

    def __init__(self, client: VastClient, rental: Rental, patience: Patience) -> None:
        self._client, self._rental, self._patience = client, rental, patience
        self._began = time.monotonic()
        self._met = False
        """Whether the service has owned to the machine: only then is its absence a proof."""

    def tried(self) -> Rental | None:
        """None: not yet."""
        rental, client = self._rental, self._client
        number = rental.instance
        if number is None:
            mine = _made_by(rental, client.instances())
            if not mine:
                return replace(rental, state="never", ended=time.time()) if self._would_be_known() else None
            number = mine[0].id
        self._met = client.destroy(number) or self._met
        if client.instance(number) is not None or any(i.id == number for i in client.instances()):
            self._met = True
            return None
        if not self._met and not self._would_be_known():
            return None
        return replace(rental, state="gone", ended=time.time(), instance=number)

    def _would_be_known(self) -> bool:
        """Whether a machine would have come to the service's knowledge by now, had there been one."""
        since_answer = time.time() - self._rental.created - CALL_S
        return max(since_answer, time.monotonic() - self._began) > self._patience.unlisted_s


def _made_by(rental: Rental, found: Iterable[Instance]) -> list[Instance]:
    """What an answer that was lost may have rented: by its label, or where the service lost that, by the machine."""

    def is_mine(one: Instance) -> bool:
        if one.label:
            return one.label == rental.label
        return one.machine_id == rental.machine_id and (one.started is None or one.started >= rental.created - 60)

    return [one for one in found if is_mine(one)]
