"""Memory for packets, by name: a lease holds some of a pool's bytes and gives them back to that pool, whatever happens."""

import threading
import traceback

from data_bridge.runtime.queue import Cancelled, Stop
from data_bridge.utils.budget import Account, ByteBudget


class Pool:
    """Bytes of one budget for any number of users, first come first served. A user that holds nothing gets its next lease
    whatever its size and whatever others hold, so that no two of them wait for each other.

    `traced` remembers where each lease was taken: `outstanding` then names the line, for tests that look for leaks.
    """

    def __init__(self, name: str, budget: ByteBudget, *, traced: bool = False) -> None:
        self.name = name
        self.budget = budget
        self._traced = traced
        self._lock = threading.Lock()
        self._leases: dict[int, str] = {}
        self._leaked = 0

    def user(self, name: str, *, stop: Stop | None = None) -> "PoolUser":
        """One more user. It gets nothing more once `stop` is told."""
        return PoolUser(self, self.budget.account(name), stop or Stop())

    @property
    def leaked(self) -> int:
        """Leases that nobody gave back: their bytes came back when the last reference to them went."""
        return self._leaked

    @property
    def outstanding(self) -> list[str]:
        """One line for each lease that is out: its bytes, and where it was taken if the pool is traced."""
        with self._lock:
            return list(self._leases.values())

    def lent(self, lease: "Lease") -> None:
        """What a user tells of a lease that begins."""
        where = ""
        if self._traced:
            taker = next(frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__)
            where = f" at {taker.filename}:{taker.lineno} in {taker.name}"
        with self._lock:
            self._leases[id(lease)] = f"{lease.nbytes} bytes{where}"

    def came_back(self, lease: "Lease", *, leaked: bool) -> None:
        """The same of one that ends."""
        with self._lock:
            self._leases.pop(id(lease), None)
            self._leaked += leaked


class PoolUser:
    """One activity that takes leases on a pool, from any thread."""

    def __init__(self, pool: Pool, account: Account, stop: Stop) -> None:
        self.pool = pool
        self._account = account
        stop.then(account.close)

    @property
    def held(self) -> int:
        """Bytes it has out now."""
        return self._account.held

    def acquire(self, nbytes: int) -> "Lease":
        """Wait until that many bytes are free. Raises Cancelled when the work is stopped."""
        lease = self.acquire_within(nbytes, None)
        if lease is None:
            raise Cancelled(self.pool.name)
        return lease

    def acquire_within(self, nbytes: int, timeout_s: float | None) -> "Lease | None":
        """The same for so long at most: None when there was no room in time, or the work is stopped."""
        return self._lease(nbytes) if self._account.acquire(nbytes, timeout_s) else None

    def try_acquire(self, nbytes: int) -> "Lease | None":
        """The same without waiting: None where it would have to."""
        return self._lease(nbytes) if self._account.try_acquire(nbytes) else None

    def _lease(self, nbytes: int) -> "Lease":
        lease = Lease(self, nbytes)
        self.pool.lent(lease)
        return lease

    def take_back(self, lease: "Lease", *, leaked: bool) -> None:
        """What a lease calls when it ends."""
        self.pool.came_back(lease, leaked=leaked)
        self._account.release(lease.nbytes)


class Lease:
    """Some bytes of a pool, until `release` or the end of a `with` block. Releasing twice is one release."""

    __slots__ = ("_out", "_user", "nbytes")

    def __init__(self, user: PoolUser, nbytes: int) -> None:
        self._user = user
        self.nbytes = nbytes
        self._out = True

    @property
    def pool(self) -> Pool:
        """Where it came from and goes back to."""
        return self._user.pool

    def release(self) -> None:
        """Give the bytes back."""
        if self._out:
            self._out = False
            self._user.take_back(self, leaked=False)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self._out:
            self._out = False
            self._user.take_back(self, leaked=True)
