"""Samples on their way together, with the place in the source they came from. One owner at a time: sending hands it on."""

import time
from typing import Generic, TypeVar

import msgspec

from data_bridge.errors import FatalError
from data_bridge.runtime.pool import Lease
from data_bridge.runtime.queue import Cancelled, Overflow, Producer, Queue, QueueClosed, Stop

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True):
    """What is known of a packet without looking into it."""

    seq: int
    """Packets of one origin are numbered without gaps."""
    source_start: int
    source_end: int
    """It holds what became of source samples [source_start, source_end)."""
    batch_size: int
    nbytes: int
    timestamp: float
    """When it was made, in seconds since 1970."""
    origin: str
    """The stage or source that made it."""


class _Content(msgspec.Struct, Generic[T], frozen=True):
    payload: T
    lease: Lease | None


class Packet(Generic[T]):
    """A payload and its header, maybe with a lease on a pool that ends with it.

    Whoever sent or released a packet must not touch it again: that raises RuntimeError.
    """

    __slots__ = ("_content", "_gone", "header")

    def __init__(self, payload: T, header: Header, lease: Lease | None = None) -> None:
        self._content: _Content[T] | None = _Content(payload, lease)
        self._gone = ""
        self.header = header

    @property
    def payload(self) -> T:
        """What it carries."""
        return self._mine().payload

    @property
    def alive(self) -> bool:
        """Whether it was neither sent nor released."""
        return self._content is not None

    def borrow(self, lease: Lease | None) -> None:
        """From now on it has this lease, which ends with it; the one it had ends now."""
        content = self._mine()
        if content.lease is not None:
            content.lease.release()
        self._content = _Content(content.payload, lease)

    def send(self, to: "Producer[Packet[T]]", timeout_s: float | None = None) -> bool:
        """Hand it on: what arrives is another packet, this one must not be used again. False and raises as
        `Producer.put`; what does not arrive is released, except that it is still here when no room came in time."""
        content = self._give_up("sent")
        moved = Packet(content.payload, self.header, content.lease)
        try:
            arrived = to.put(moved, timeout_s)
        except (QueueClosed, Cancelled):
            moved.release()
            raise
        if not arrived and moved.alive:
            self._content = content
        return arrived

    def release(self) -> None:
        """Nobody needs it any more: its lease goes back to its pool."""
        lease = self._give_up("released").lease
        if lease is not None:
            lease.release()

    def __enter__(self) -> "Packet[T]":
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.release()

    def _give_up(self, how: str) -> _Content[T]:
        content, self._content, self._gone = self._mine(), None, how
        return content

    def _mine(self) -> _Content[T]:
        if self._content is None:
            raise RuntimeError(f"packet {self.header.seq} of {self.header.origin} was {self._gone}: it is not ours")
        return self._content


def packet_queue(
    capacity: int, *, name: str = "output", overflow: Overflow = "BLOCK", stop: Stop | None = None
) -> "Queue[Packet[T]]":
    """A queue of packets; one that is dropped in it is released."""
    return Queue(capacity, name=name, overflow=overflow, stop=stop, on_drop=Packet.release)


class Numbering:
    """Makes the packets of one origin, numbered, and stamps them."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._next = 0

    def packet(
        self, payload: T, source: tuple[int, int], batch_size: int, nbytes: int, lease: Lease | None = None
    ) -> Packet[T]:
        """The next packet, of source samples [source[0], source[1])."""
        header = Header(self._next, *source, batch_size, nbytes, time.time(), self._origin)
        self._next += 1
        return Packet(payload, header, lease)


class InOrder:
    """Watches that the packets of every origin arrive in order, and without a gap where nothing may be lost."""

    def __init__(self, *, lossy: bool = False) -> None:
        self._lossy = lossy
        self._next: dict[str, int] = {}

    def check(self, header: Header) -> None:
        """Raises FatalError when a packet comes twice, or is missing where none may be."""
        expected = self._next.get(header.origin, 0)
        if header.seq < expected or (header.seq > expected and not self._lossy):
            raise FatalError(
                f"packet {header.seq} of {header.origin} arrived where {expected} was expected",
                hint="this is an error of the program: nothing of it was committed, please report it",
            )
        self._next[header.origin] = header.seq + 1
