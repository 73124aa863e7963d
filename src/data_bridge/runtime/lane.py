"""A child process that applies a function to what its parent puts into shared memory."""

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from data_bridge.runtime.arena import Arena, Spans
from data_bridge.runtime.nursery import start_child
from data_bridge.runtime.process import collect_rarely, keep_freed_memory
from data_bridge.runtime.spawning import KILLED_S

Flight = TypeVar("Flight")


class Done(msgspec.Struct, frozen=True):
    """The result lies behind the item in its box."""

    spans: Spans


class Inline(msgspec.Struct, frozen=True):
    """The result, which the box has no room for."""

    data: bytes


class Failed(msgspec.Struct, frozen=True):
    """The function raised, or its result cannot travel."""


Answer: TypeAlias = Done | Inline | Failed | Literal["ready"]
"""What a child says: first that it is ready, then one answer for each item, in order."""


class Lane(Generic[Flight]):
    """The parent's handle on one child. `flights` are what it was sent and has not answered."""

    def __init__(self, factory: bytes, arena: Arena) -> None:
        self.flights: deque[Flight] = deque()
        self.ready = False
        self.pipe: Connection[tuple[int, Spans], Answer]
        self.pipe, theirs = multiprocessing.Pipe(duplex=True)
        with theirs:
            self._process = start_child(
                lane_main, (theirs, arena, factory), name="data-bridge-lane", needs_main=b"__main__" in factory
            )

    def send(self, flight: Flight, box: int, spans: Spans) -> None:
        """Give it an item; a child that is gone is noticed by `hear`, not here. Never waits: messages are small."""
        self.flights.append(flight)
        try:
            self.pipe.send((box, spans))
        except (BrokenPipeError, ConnectionResetError):
            return

    def hear(self) -> Answer | None:
        """Its next answer; None when it is gone. Waits unless there is known to be one."""
        try:
            answer: Answer = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.ready = True
        return answer

    def end(self) -> None:
        """Kill it: it holds nothing that could be lost."""
        self._process.kill()
        self._process.join(KILLED_S)
        if self._process.exitcode is not None:
            self._process.close()
        self.pipe.close()


def lane_main(pipe: "Connection[Answer, tuple[int, Spans]]", arena: Arena, factory: bytes) -> None:
    """Answer for one item after another until the parent is gone."""
    keep_freed_memory()
    collect_rarely()
    try:
        make: Callable[[], Callable[[Any], Any]] = pickle.loads(factory)  # noqa: S301 - our own parent wrote it
        function = make()
    except Exception:  # noqa: BLE001 - the parent made the same function, and does without this child
        return
    try:
        pipe.send("ready")
        while True:
            box, spans = pipe.recv()
            pipe.send(_answer(arena, function, box, spans))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(arena: Arena, function: Callable[[Any], Any], box: int, spans: Spans) -> Answer:
    try:
        result = function(arena.get(box, spans))
        written = arena.put(box, result, spans[-1][1])
        return Done(written) if written is not None else Inline(pickle.dumps(result, protocol=5))
    except Exception:  # noqa: BLE001 - the parent applies the function itself, and meets the same
        return Failed()
