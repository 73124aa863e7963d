"""Commands of a stage's own: what an instance says to one, and how it is told those that were accepted."""

from collections.abc import Iterable
from typing import Any

import msgspec

from data_bridge.errors import BridgeError, FatalError
from data_bridge.model.changes import SET, Change
from data_bridge.runtime.control import Request
from data_bridge.runtime.stage import Stage, reason


class RefusedError(Exception):
    """A stage does not want what it was told: the message is its reason."""


def said(stage: Stage[Any], request: Request) -> dict[str, Any] | None:
    """What a stage says to a command; None = it does not understand. Raises RefusedError for whatever it raises, and for
    an answer that cannot be passed on."""
    try:
        answer = stage.control(request)
    except Exception as error:
        plain = isinstance(error, (BridgeError, ValueError)) and str(error)
        raise RefusedError(str(error) if plain else reason(error)) from error
    if answer is None:
        return None
    try:
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer), type=dict[str, Any])
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise RefusedError(f"its `control` gave what is no dictionary of plain JSON values: {error}") from error
    return found


def told(stage: Stage[Any], name: str, changes: Iterable[Change]) -> None:
    """Let an instance do what all of its stage were told. Raises FatalError where it does not do as the one did that
    accepted: what it makes would be other than what they make."""
    for change in changes:
        if change.stage != name or change.command == SET:
            continue
        try:
            if said(stage, Request(change.command, name, change.key or None, change.value)) is not None:
                continue
            why = "it does not understand it any more"
        except RefusedError as error:
            why = str(error)
        raise FatalError(
            f"stage {name} accepted `{change.words}` and does not do it now: {why}",
            hint="the command is recorded, and samples are made by it: what `control` says must follow from the options, the "
            "commands before it and the request alone",
        )
