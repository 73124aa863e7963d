"""A process without threads that starts children for one that has some: they are copies of what that one was before.

A copy has all imports and is there in milliseconds, where a new interpreter takes a good part of a second; but a process
with threads must not be copied, since a copy has one thread alone and all locks as they happened to be.
"""

import gc
import multiprocessing
import os
import pickle
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.context import set_spawning_popen
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import msgspec

from data_bridge.runtime.process import process_is_ours
from data_bridge.runtime.spawning import KILLED_S, Closable, alone, deaf, settle_in, spawn

_START, _KILL = 1, 2
_ORDER = struct.Struct("<ii")
"""What to do, and the number of the child it is about."""
_MOST_FDS = 64
_DIED_WITH_NURSERY = -9


class ChildProcess(Protocol):
    """What a parent needs of a child, however it was started. Like `multiprocessing.Process`."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    @property
    def sentinel(self) -> int: ...
    def kill(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...


class Nursery:
    """The owner's handle on its nursery, which dies with the thread that made it, as its children do with it."""

    def __init__(self, mine: Sequence[Closable] = ()) -> None:
        """Only while it is `possible`. `mine`: see `spawn`."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._born = 0
        with theirs:
            self._process = spawn(
                _main, (theirs,), name="data-bridge-nursery", needs_main=False, mine=[self._socket, *mine]
            )

    @staticmethod
    def possible() -> bool:
        """Whether this process may be copied at this moment."""
        return process_is_ours() and alone()

    def start(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> ChildProcess | None:
        """A child that calls `target(*args)`; None when the nursery is gone. Connections among the arguments travel with them."""
        letter = _Letter(target, args, name)
        watch, tell = os.pipe()
        self._born += 1
        try:
            socket.send_fds(self._socket, [_ORDER.pack(_START, self._born)], [tell, letter.fd, *letter.enclosed])
            pid = int(self._socket.recv(16) or 0)
        except (BrokenPipeError, ConnectionResetError):
            pid = 0
        finally:
            letter.close()
            os.close(tell)
        if not pid:
            os.close(watch)
            return None
        return _Child(self, self._born, pid, watch)

    def kill(self, number: int) -> None:
        """Kill a child; one that has ended is let be."""
        try:
            self._socket.send(_ORDER.pack(_KILL, number))
        except (BrokenPipeError, ConnectionResetError):
            return

    def end(self) -> None:
        """End it, with all its children."""
        self._process.kill()
        self._process.join(KILLED_S)
        self._socket.close()


class _Child:
    """A child of the nursery as its owner sees it."""

    def __init__(self, nursery: Nursery, number: int, pid: int, watch: int) -> None:
        self._nursery = nursery
        self._number = number
        self.pid = pid
        self._exitcode: int | None = None
        self.sentinel = watch

    @property
    def exitcode(self) -> int | None:
        self.join(0)
        return self._exitcode

    def kill(self) -> None:
        self._nursery.kill(self._number)

    def join(self, timeout: float | None = None) -> None:
        if self._exitcode is None and wait([self.sentinel], timeout):
            told = os.read(self.sentinel, 16)
            self._exitcode = int(told) if told else _DIED_WITH_NURSERY

    def close(self) -> None:
        if self.sentinel >= 0:
            os.close(self.sentinel)
            self.sentinel = -1


_kept: list[Nursery] = []
_enclosed: list[int] = []
"""In a child: the descriptors that came with its letter."""


class _Enclosed:
    """A descriptor that travels with a letter, by its place there."""

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        return _enclosed[self._place]


@contextmanager
def keep_nursery(mine: Sequence[Closable] = ()) -> Generator[None]:
    """Have `start_child` start copies of this process as it is now, where it may be copied."""
    if not Nursery.possible():
        yield
        return
    nursery = Nursery(mine)
    _kept.append(nursery)
    try:
        yield
    finally:
        _kept.remove(nursery)
        nursery.end()


def start_child(
    target: Callable[..., None],
    args: tuple[Any, ...],
    *,
    name: str,
    needs_main: bool,
    nursery: Nursery | None = None,
    mine: Sequence[Closable] = (),
) -> ChildProcess:
    """Start a process that calls `target(*args)`: by the nursery, or the one this process keeps, else as `spawn` does."""
    for able in [nursery] if nursery else _kept:
        if (child := able.start(target, args, name)) is not None:
            return child
    return spawn(target, args, name=name, needs_main=needs_main, mine=mine)


class _Letter:
    """What a child is to call, as an anonymous file, and the descriptors that go with it."""

    DupFd = staticmethod(_Enclosed)

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self.enclosed: list[int] = []
        self.fd = os.memfd_create("data-bridge-child", os.MFD_CLOEXEC)
        set_spawning_popen(self)  # type: ignore[arg-type] # what it asks for are the two names below
        try:
            with os.fdopen(self.fd, "wb", closefd=False) as file:
                ForkingPickler(file, 5).dump((target, args, name))
        except BaseException:
            os.close(self.fd)
            raise
        finally:
            set_spawning_popen(None)

    def duplicate_for_child(self, fd: int) -> int:
        """What `multiprocessing` asks for when a connection is pickled for a child: where the child will find it."""
        self.enclosed.append(fd)
        return len(self.enclosed) - 1

    def close(self) -> None:
        os.close(self.fd)


def _main(orders: socket.socket) -> None:
    """Start and kill children as the owner says, and tell it when one has ended."""
    living: dict[int, _Living] = {}
    while True:
        by_sentinel = {child.process.sentinel: number for number, child in living.items()}
        for ready in wait([orders, *by_sentinel]):
            if isinstance(ready, int):
                living.pop(by_sentinel[ready]).ended()
                continue
            message, fds, flags, _ = socket.recv_fds(orders, _ORDER.size, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            what, number = _ORDER.unpack(message)
            if what == _START:
                born = None
                if flags & socket.MSG_CTRUNC:  # at the limit of descriptors some are lost on the way
                    _close(fds)
                else:
                    born = _birth(fds, [orders, *(child.tell for child in living.values())])
                if born is not None:
                    living[number] = born
                orders.send(str(born.process.pid if born else 0).encode())
            elif number in living:
                living[number].process.kill()


class _Living(msgspec.Struct, frozen=True):
    process: BaseProcess
    tell: int

    def ended(self) -> None:
        self.process.join()
        with suppress(BrokenPipeError):
            os.write(self.tell, str(self.process.exitcode).encode())
        os.close(self.tell)
        self.process.close()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _birth(fds: Sequence[int], not_its: Sequence[socket.socket | int]) -> _Living | None:
    """A child; None where the system gives no more of what it needs."""
    tell, *others = fds
    process = multiprocessing.get_context("fork").Process(target=_child, args=(os.getpid(), others, [tell, *not_its]))
    try:
        with deaf():
            process.start()
    except OSError:
        _close(fds)
        return None
    for fd in others:
        os.close(fd)
    return _Living(process, tell)


def _child(parent: int, fds: Sequence[int], not_its: Sequence[socket.socket | int]) -> None:
    settle_in(parent)
    gc.freeze()
    for held in not_its:
        os.close(held if isinstance(held, int) else held.detach())
    letter, *_enclosed[:] = fds
    with os.fdopen(letter, "rb") as file:
        file.seek(0)
        target, args, name = pickle.load(file)  # noqa: S301 - our owner wrote it
    multiprocessing.current_process().name = name
    target(*args)
