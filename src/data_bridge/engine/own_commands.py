"""Commands that a stage's own code understands: answered here, recorded, and done by all its instances."""

from collections.abc import Callable
from typing import Any

from data_bridge.config import is_secret_name, public_value
from data_bridge.engine.orders import Orders
from data_bridge.model.changes import SET, Change
from data_bridge.runtime.commands import RefusedError, said, told
from data_bridge.runtime.control import Reply, Request
from data_bridge.runtime.stage import Stage
from data_bridge.utils.claims import new_token

BUILT_IN = (SET, "pause", "resume", "drain", "stop", "bypass", "enable", "describe", "export-config")
"""What no stage can take for itself."""


class OwnCommands:
    """Asks an instance of the stage that was told all that the others were told. What it accepts is ordered as a change:
    recorded with the sample from which it is in force, and told to every instance that gets samples from there on.
    """

    def __init__(self, name: str, kind: type[Stage[Any]], make: Callable[[], Stage[Any]], orders: Orders) -> None:
        """`make` makes an instance with the present options."""
        self._name = name
        self._kind = kind
        self._make = make
        self._orders = orders

    @property
    def described(self) -> dict[str, str]:
        """What each of them does."""
        own = {**self._kind.commands, **self._kind.questions}
        return {command: own[command] for command in own if command not in BUILT_IN}

    def __call__(self, request: Request, *, refusal: Callable[[], str]) -> Reply | None:
        """The reply; None where the stage does not understand. `refusal` is why nothing of it may change now, or nothing."""
        if request.command not in self.described:
            return None
        change = Change(
            number=self._orders.made,
            id=new_token(),
            stage=self._name,
            key=request.key or "",
            value=request.value,
            command=request.command,
        )
        asks = request.command not in self._kind.commands
        if not asks and (why := refusal() or _secret(change)):
            return Reply(accepted=False, reason=why)
        stage = self._make()
        told(stage, self._name, self._orders.standing.changes)
        try:
            answer = said(stage, Request(request.command, self._name, request.key or None, request.value))
        except RefusedError as error:
            return Reply(accepted=False, reason=str(error))
        if answer is None:
            return None
        if not asks:
            self._orders.change(change)
        return Reply(accepted=True, data=answer or None)


def _secret(change: Change) -> str:
    """Why a command must not be written down at the destination."""
    if is_secret_name(change.key) or public_value(change.value) != change.value:
        return f"{change.command}: it holds what sounds like a secret, and a command is written down at the destination"
    return ""
