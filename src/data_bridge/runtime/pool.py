"""Memory for packets, by name: a lease holds some of a pool's bytes and gives them back to that pool, whatever happens."""

import threading
import traceback

from data_bridge.model.metrics import Gauge
from data_bridge.runtime.queue import Cancelled, Stop
from data_bridge.utils.budget import ByteBudget


class Pool:
    """Leases of together at most `max_bytes`, first come first served; one lease alone may be larger.

    `traced` remembers where each lease was taken: `outstanding` then names the line, for tests that look for leaks.
    """

    def __init__(self, name: str, max_bytes: int, *, stop: Stop | None = None, traced: bool = False) -> None:
        self.name = name
        self._budget = ByteBudget(max_bytes)
        self._account = self._budget.account(name)
        self._traced = traced
        self._lock = threading.Lock()
        self._leases: dict[int, str] = {}
        self._leaked = 0
        (stop or Stop()).then(self._account.close)

    def acquire(self, nbytes: int) -> "Lease":
        """Wait until that many bytes are free. Raises Cancelled when the work is stopped."""
        if not self._account.acquire(nbytes):
            raise Cancelled(self.name)
        return self._lease(nbytes)

    def try_acquire(self, nbytes: int) -> "Lease | None":
        """The same without waiting: None where it would have to."""
        return self._lease(nbytes) if self._account.try_acquire(nbytes) else None

    @property
    def held(self) -> int:
        """Bytes that are out now."""
        return self._account.held

    @property
    def leaked(self) -> int:
        """Leases that nobody gave back: their bytes came back when the last reference to them went."""
        return self._leaked

    @property
    def outstanding(self) -> list[str]:
        """One line for each lease that is out: its bytes, and where it was taken if the pool is traced."""
        with self._lock:
            return list(self._leases.values())

    def flush(self) -> Gauge:
        """How full it is."""
        return Gauge(f"{self.name}_bytes", self.held, self._budget.total)

    def _lease(self, nbytes: int) -> "Lease":
        lease = Lease(self, nbytes)
        where = f" at {traceback.format_stack(limit=3)[0].strip()}" if self._traced else ""
        with self._lock:
            self._leases[id(lease)] = f"{nbytes} bytes{where}"
        return lease

    def take_back(self, lease: "Lease", *, leaked: bool) -> None:
        """What a lease calls when it ends."""
        with self._lock:
            self._leases.pop(id(lease), None)
            self._leaked += leaked
        self._account.release(lease.nbytes)


class Lease:
    """Some bytes of a pool, until `release` or the end of a `with` block. Releasing twice is one release."""

    __slots__ = ("_out", "_pool", "nbytes")

    def __init__(self, pool: Pool, nbytes: int) -> None:
        self._pool = pool
        self.nbytes = nbytes
        self._out = True

    @property
    def pool(self) -> Pool:
        """Where it came from and goes back to."""
        return self._pool

    def release(self) -> None:
        """Give the bytes back."""
        if self._out:
            self._out = False
            self._pool.take_back(self, leaked=False)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self._out:
            self._out = False
            self._pool.take_back(self, leaked=True)
