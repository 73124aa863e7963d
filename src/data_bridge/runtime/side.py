"""A thread beside the way to the writers: packets reach it through a queue of its own, some of them or all."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Generic, TypeVar

from data_bridge.runtime.packet import InOrder, Numbering, Packet, packet_queue
from data_bridge.runtime.pool import Lease, Pool
from data_bridge.runtime.queue import Cancelled, Overflow, Queue, QueueClosed, Stop

PATIENCE_S = 5.0
"""How long the end of a run waits for a thread that may miss packets, and every stop for any."""
LOOK_S = 0.5
"""How often who waits for it says that it waits, and asks whether it is still to."""

T = TypeVar("T")


class Side(Generic[T]):
    """Has a thread do something with each packet that is offered, in order. With another overflow than BLOCK, `offer`
    never waits: what finds no room in the queue or no memory in the pool is dropped, and counted by the queue.

    `apply` and then `end` are called in the thread; what is done with a packet in parts may yield behind each. What they raise ends it, and nothing else: later packets are dropped,
    and `error` says why. `alive` is called while somebody waits; once `stopped()`, nobody waits any more. Of one that has
    been at one packet, or part of it, for long `tell` is told while somebody waits for it; after `hang_s` it is left to itself.
    """

    def __init__(
        self,
        name: str,
        apply: Callable[[T], Iterable[None] | None],
        end: Callable[[], None],
        *,
        pool: Pool,
        capacity: int,
        overflow: Overflow = "BLOCK",
        alive: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = lambda _: None,
        hang_s: float = math.inf,
    ) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._apply = apply
        self._end = end
        self._lossy = overflow != "BLOCK"
        self._evicts = overflow == "KEEP_NEWEST"
        self._alive = alive
        self._stopped = stopped
        self._tell = tell
        self._hang_s = hang_s
        self._told = False
        self._done_s = 0.0
        self._stop = Stop()
        self._memory = pool.user(f"beside {name}", stop=self._stop)
        self.queue: Queue[Packet[T]] = packet_queue(capacity, name="input", overflow=overflow, stop=self._stop)
        self._producer = self.queue.producer()
        self._numbering = Numbering(name)
        self._order = InOrder(lossy=self._lossy)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"beside {name}", daemon=True)

    def start(self) -> None:
        """Begin; `offer` and `close` come behind it."""
        self._thread.start()

    def offer(self, payload: T, source: tuple[int, int], batch_size: int, nbytes: int) -> None:
        """A packet of source samples [source[0], source[1])."""
        lease = self._lease(nbytes)
        packet = self._numbering.packet(payload, source, batch_size, nbytes, lease)
        if lease is None:
            self.queue.refuse()
            return
        began_s = time.monotonic()
        try:
            while not packet.send(self._producer, LOOK_S) and packet.alive:
                if not self._patient(began_s):
                    packet.release()
                    self.queue.refuse()
                    return
        except (QueueClosed, Cancelled):
            self.queue.refuse()

    def close(self) -> bool:
        """Let it finish what it has, as long as may be waited; False when it is left behind at work."""
        self._producer.close()
        began_s = time.monotonic()
        while not self._ended.wait(LOOK_S):
            if not self._patient(began_s) or (self._lossy and time.monotonic() - began_s > PATIENCE_S):
                return self.cancel()
        return True

    def cancel(self) -> bool:
        """End it without what is queued; False when it is left behind at work."""
        self._stop.set()
        self.queue.discard()
        began_s = time.monotonic()
        while not self._ended.wait(LOOK_S) and time.monotonic() - began_s < PATIENCE_S:
            self._alive()
        return self._ended.is_set()

    def _lease(self, nbytes: int) -> Lease | None:
        """Memory for a packet; None where it has to be dropped."""
        if not self._lossy:
            began_s = time.monotonic()
            while (lease := self._memory.acquire_within(nbytes, LOOK_S)) is None:
                if not self._patient(began_s) or self.queue.closed:
                    return None
            return lease
        while (lease := self._memory.try_acquire(nbytes)) is None and self._evicts and self.queue.evict():
            pass
        return lease

    def _patient(self, since_s: float) -> bool:
        """Whether to wait on for what one has been waiting for since then."""
        self._alive()
        if self._stopped():
            return False
        idle_s = time.monotonic() - max(since_s, self._done_s)
        if not self._lossy and not self._told and idle_s > PATIENCE_S:
            self._told = True
            self._tell(f"the run waits for {self.name}, which has been at one packet for {idle_s:.0f} s")
        if idle_s <= self._hang_s:
            return True
        self._stop.set()
        self.queue.discard()
        return False

    def _work(self) -> None:
        try:
            with ExitStack() as stack:
                stack.callback(self._end)
                stack.enter_context(suppress(Cancelled))
                for packet in self.queue:
                    with packet:
                        self._order.check(packet.header)
                        for _ in self._apply(packet.payload) or ():
                            self._done_s = time.monotonic()
                    self._done_s = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - foreign code may raise anything, an exit too: it ends this thread, not the run
            self.error = error
        finally:
            self.queue.discard()
            self._ended.set()
