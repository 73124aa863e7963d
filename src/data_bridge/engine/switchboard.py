"""Answers commands to a running run: what may be changed, to what, and what each part is like now."""

import difflib
from collections.abc import Callable
from typing import TypeAlias

from data_bridge.config import (
    Settings,
)
from data_bridge.engine.orders import Orders
from data_bridge.engine.run_part import RunPart
from data_bridge.engine.stage_part import StagePart
from data_bridge.runtime.control import Reply, Request, Response
from data_bridge.runtime.stage import Fields

ENGINE = "engine"
"""Whom commands address that concern the run and no stage."""
Answer: TypeAlias = Callable[[Request], Reply | None]


class Switchboard:
    """Passes a request to whom it addresses, or to everybody, and collects what they say.

    Nothing waits for the run: an order is given, and followed between two packets. Called from one thread.
    """

    def __init__(self, settings: Settings, run: str, orders: Orders, fields: Fields = ()) -> None:
        """`fields` are those of the source; empty = nobody knows them."""
        self._settings = settings.pipeline
        self._orders = orders
        self._parts: dict[str, Answer] = {ENGINE: RunPart(settings.pipeline, run, orders)}
        for stage in settings.pipeline.stages:
            self._parts[stage.name] = StagePart(stage, settings.pipeline, orders, fields)

    def answer(self, request: Request) -> Response:
        """The replies; an error when nobody is there or understands."""
        if request.stage is not None and request.stage not in self._parts:
            close = difflib.get_close_matches(request.stage, self._parts, 1)
            guess = f"did you mean `{close[0]}`? " if close else ""
            return Response(
                request.id,
                error=f"there is no stage {request.stage!r}",
                hint=f"{guess}there is {', '.join(self._parts)}",
            )
        addressed = [request.stage] if request.stage is not None else list(self._parts)
        replies = {name: self._parts[name](request) for name in addressed}
        if all(reply is None for reply in replies.values()):
            whom = f"{request.stage} does not understand" if request.stage else "nobody understands"
            return Response(
                request.id, replies, f"{whom} {request.command!r}", "`describe` lists the commands of each part"
            )
        return Response(request.id, replies)
