"""Commands to a run on a rented machine: they go to its socket there, over the ssh that is pinned to it."""

import shlex
from collections.abc import Callable

import msgspec

from data_bridge.clients.vast import VastClient
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.said import ONCE
from data_bridge.compute.session import Reach, VastSession, fate
from data_bridge.compute.ssh import Link, LinkLost, Ssh
from data_bridge.errors import BusyError, ConfigError, FatalError
from data_bridge.model.rental import Rental
from data_bridge.runtime.control import PATIENCE_S, Request, Response, RunControl, line

_RELAY = """import sys
from data_bridge.config import socket_folders
from data_bridge.errors import BridgeError
from data_bridge.runtime import control
try:
    answer = control.RunControl(sys.argv[1], socket_folders()).send(control.request_from(sys.stdin.buffer.read()))
except BridgeError as error:
    answer = control.Response(error=error.message, hint=error.hint)
sys.stdout.buffer.write(control.line(answer))
"""
_ASK = 'cd / && exec "$HOME/.data-bridge/venv/bin/python" -c {} {}'


class FarControl(RunControl):
    """A `RunControl` of a run that works on a machine that this computer rented. `hear` takes what that run says of itself;
    `kept` = somebody keeps it already."""

    def __init__(self, run: str, link: Link, hear: Callable[[bytes], None], *, kept: bool) -> None:
        super().__init__(run, ())
        self.link, self.hear, self.kept = link, hear, kept

    def send(self, request: Request) -> Response:
        """As that of any run. Raises BusyError when the machine cannot be reached."""
        script = _ASK.format(shlex.quote(_RELAY), shlex.quote(self.run))
        try:
            answer = self.link.run(script, line(request), timeout_s=PATIENCE_S + 30)
        except LinkLost as error:
            raise BusyError(
                f"the machine of run {self.run} cannot be reached: {error.message}", hint="ask again"
            ) from error
        except FatalError as error:
            raise ConfigError(
                f"run {self.run} takes no commands: {error.message}", hint="is it installed yet?"
            ) from error
        try:
            return msgspec.json.decode(answer, type=Response)
        except (ValueError, RecursionError) as error:
            raise BusyError(f"run {self.run} answered what is no response: {error}", hint="ask again") from error


def link_to(client: VastClient, rentals: Rentals, rental: Rental, *, reach: Reach = Ssh) -> Link | None:
    """A way to a machine that was rented from this computer; None when it does not work any more."""
    session = VastSession(client, rentals, rental.account, tell=lambda _: None, reach=reach)
    session.adopt(rental)
    found = session.look() if rental.instance is not None else None
    return session.link(found) if found is not None and not fate(found) else None


def latest_of(link: Link) -> list[bytes]:
    """The shape of the run there and how it stands, as lines; none while it has not begun."""
    return link.run(ONCE).splitlines()


def at_work(rentals: Rentals) -> list[Rental]:
    """Machines that were rented from this computer, as far as its ledger knows."""
    return [r for r in rentals.all() if r.open and r.instance is not None]
