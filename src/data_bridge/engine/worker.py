"""The driver's handle on one worker process."""

import multiprocessing
import os
import pickle
import signal
import socket
import struct
from multiprocessing.connection import Connection
from typing import Literal

from data_bridge.engine.base import WorkFactory, last_line
from data_bridge.engine.orders import Standing
from data_bridge.engine.slot import Message, Order, slot_main
from data_bridge.errors import ConfigError
from data_bridge.runtime.nursery import Nursery, start_child
from data_bridge.runtime.spawning import KILLED_S

TAKEN_S = 5.0
"""How long a worker may take to take an order: a thread of it waits for little else."""


def pickled(factory: WorkFactory) -> bytes:
    """The factory as it travels to the slots. Raises ConfigError when it cannot."""
    try:
        return pickle.dumps(factory)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the work cannot be sent to worker processes: {last_line(error)}",
            hint="define functions and classes at the top of a module, or run with `workers: 0`",
        ) from error


class Worker:
    """A slot's process with its pipe. It starts on construction, from the nursery where there is one, and holds at most
    one partition."""

    def __init__(self, number: int, factory: bytes, nursery: Nursery | None = None) -> None:
        self.number = number
        self.state: Literal["starting", "idle", "working", "leaving"] = "starting"
        self.partition: int | None = None
        self.cores = 1
        self.told = Standing()
        self.silent_s = 0.0
        self.pipe: Connection[Order, Message]
        self.pipe, theirs = multiprocessing.Pipe(duplex=True)
        _limit_sends(self.pipe)
        with theirs:
            self._process = start_child(
                slot_main,
                (theirs, factory),
                name=f"data-bridge-slot-{number}",
                needs_main=b"__main__" in factory,
                nursery=nursery,
                mine=[self.pipe],
            )
        self.sentinel = self._process.sentinel

    def tell(self, order: Order) -> None:
        """Send an order; a worker that is gone is noticed by `ended`, not here. One that takes nothing is ended: all others
        would wait with it."""
        try:
            self.pipe.send(order)
        except (BrokenPipeError, ConnectionResetError):
            return
        except BlockingIOError:
            self.kill()

    def keep_to(self, standing: Standing) -> None:
        """Tell it what it was not told yet."""
        if standing is not self.told:
            self.told = standing
            self.tell(standing)

    def hear(self) -> Message | None:
        """The next message; None when the worker can send no more. Waits unless one is known to be there."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.silent_s = 0.0
        return message

    def ended(self) -> str | None:
        """How the process ended, in words; None while it lives."""
        code = self._process.exitcode
        if code is None:
            return None
        if code >= 0:
            return f"ended with exit code {code}"
        known = {s.value: s.name for s in signal.Signals}
        return f"was killed by {known.get(-code, f'signal {-code}')}"

    @property
    def raised(self) -> bool:
        """Whether the process ended by an exception of Python's own (exit code 1)."""
        return self._process.exitcode == 1

    def kill(self) -> None:
        """End the process now; returns when it is gone. One stuck in the kernel is left behind: the ledger fences it."""
        self._process.kill()
        self._process.join(KILLED_S)

    def join(self, timeout_s: float) -> None:
        self._process.join(timeout_s)

    def bury(self) -> None:
        """Release what is left of an ended process."""
        self.pipe.close()
        if self._process.exitcode is not None:
            self._process.join()
            self._process.close()


def _limit_sends(pipe: "Connection[Order, Message]") -> None:
    """Have a send that makes no progress for `TAKEN_S` raise BlockingIOError."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(TAKEN_S), 0))
