"""Memory as a budget in bytes: what is in flight waits until it fits, and the waits are counted.

A slot has one budget. Each activity (a stream being read, the uploads, …) draws on it through an account of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import msgspec

SLOT_BYTES = 512_000_000
"""What a slot has in flight at most, unless told otherwise."""
_LEAST_BYTES = 1 << 20
_UNKNOWN_BYTES = 4 << 30


def slot_bytes(total: int | None, slots: int, usable: int) -> int:
    """The budget of each of `slots` slots out of `total` for all, by default out of a quarter of the usable memory."""
    share = (usable // 4 if total is None else total) // slots
    return max(_LEAST_BYTES, share if total is not None else min(SLOT_BYTES, share))


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory this process may use: the machine's, or fewer when a cgroup limits it."""
    lines = (root / "proc/meminfo").read_text().splitlines() if (root / "proc/meminfo").is_file() else []
    machine = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")), _UNKNOWN_BYTES)
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Generator[int]:
    """Memory limits of our cgroup and the ones above it, in every hierarchy that may hold one."""
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            tops, name = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"], "memory.max"
        elif "memory" in controllers.split(","):
            tops, name = [root / "sys/fs/cgroup/memory"], "memory.limit_in_bytes"
        else:
            continue
        # inside a container the path may be the host's, so only the top of it exists
        path = PurePosixPath(group.lstrip("/"))
        for file in (top / part / name for top in tops for part in (path, *path.parents)):
            text = file.read_text().strip() if file.is_file() else ""
            if text.isdigit():
                yield int(text)


class Usage(msgspec.Struct, frozen=True):
    """What the accounts of one name took together since the last look."""

    name: str
    peak_bytes: int
    waits: int
    waited_s: float


class ByteBudget:
    """At most `total` bytes in flight, over all accounts, first come first served. Safe for any number of threads.

    An account that holds nothing gets its next request whatever its size and whatever others hold: a request larger
    than the budget passes, and no activity waits for ever for one that waits for it. So an account must ask in the
    order in which it will be able to give back, and the bytes in flight exceed `total` by one request of each account
    at most.
    """

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if total <= 0:
            raise ValueError(f"a budget of {total} bytes")
        self.total = total
        self._pool = _Pool(total, clock)
        self._tallies: dict[str, _Tally] = {}

    def __reduce__(self) -> tuple[type["ByteBudget"], tuple[int]]:
        return ByteBudget, (self.total,)  # a copy in another process counts what is in flight there

    def resize(self, total: int) -> None:
        """Let `total` bytes be in flight from now on; what is held beyond is waited for."""
        with self._pool.changed:
            self.total = self._pool.total = total
            self._pool.changed.notify_all()

    @property
    def held(self) -> int:
        """Bytes in flight now."""
        return self._pool.held

    def account(self, name: str) -> "Account":
        """A new account; accounts of one name are reported together."""
        with self._pool.changed:
            return Account(self._pool, self._tallies.setdefault(name, _Tally()))

    def usage(self) -> list[Usage]:
        """What each name took, and starts counting anew: peaks from what is held now."""
        with self._pool.changed:
            found = [Usage(name, t.peak, t.waits, t.waited_s) for name, t in sorted(self._tallies.items()) if t.peak]
            for tally in self._tallies.values():
                tally.peak, tally.waits, tally.waited_s = tally.held, 0, 0.0
            return found


@runtime_checkable
class Budgeted(Protocol):
    """What can be told which budget to draw on."""

    def draw_on(self, budget: ByteBudget) -> None: ...


class Account:
    """One activity's hold on a budget, for any number of threads. Closing it wakes those who wait in it."""

    def __init__(self, pool: "_Pool", tally: "_Tally") -> None:
        self._pool = pool
        self._tally = tally
        self._held = 0
        self._line: deque[object] = deque()
        self._closed = False
        self._refused_at_s: float | None = None

    @property
    def held(self) -> int:
        """Bytes this account has in flight."""
        return self._held

    def acquire(self, size: int, timeout_s: float | None = None) -> bool:
        """Wait until `size` bytes fit, and hold them. False when the account is or gets closed, or when they do not fit in
        time: nothing is held then."""
        with self._pool.changed:
            if not self._closed and (self._held or self._line) and (self._pool.line or not self._pool.fits(size)):
                return self._wait(size, timeout_s) and self._take(size)
            return self._take(size)

    def try_acquire(self, size: int) -> bool:
        """Hold `size` bytes if that needs no waiting. From a refusal to the next success counts as one wait."""
        pool = self._pool
        with pool.changed:
            if (self._held or self._line) and (pool.line or not pool.fits(size)):
                if self._refused_at_s is None and not self._closed:
                    self._refused_at_s = pool.clock()
                    self._tally.waits += 1
                return False
            return self._take(size)

    def release(self, size: int) -> None:
        """Give back `size` of the bytes held; an account that is closed has given them back."""
        with self._pool.changed:
            if not self._closed:
                self._give(size)

    @contextmanager
    def holding(self, size: int) -> Generator[bool]:
        """Hold `size` bytes during the block; yields what `acquire` says."""
        got = self.acquire(size)
        try:
            yield got
        finally:
            if got:
                self.release(size)

    def close(self) -> None:
        """Give back everything; who waits in this account, and whoever comes later, gets False."""
        with self._pool.changed:
            self._give(self._held)
            self._closed = True

    def __enter__(self) -> "Account":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, size: int, timeout_s: float | None) -> bool:
        pool, ticket = self._pool, object()
        began_s = pool.clock()
        for line in (pool.line, self._line):
            line.append(ticket)
        come = pool.changed.wait_for(
            lambda: (
                self._closed
                or (not self._held and self._line[0] is ticket)
                or (pool.line[0] is ticket and pool.fits(size))
            ),
            timeout_s,
        )
        for line in (pool.line, self._line):
            line.remove(ticket)
        pool.changed.notify_all()
        self._tally.waits += 1
        self._tally.waited_s += pool.clock() - began_s
        return come

    def _take(self, size: int) -> bool:
        if self._closed:
            return False
        if self._refused_at_s is not None:
            self._tally.waited_s += self._pool.clock() - self._refused_at_s
            self._refused_at_s = None
        self._held += size
        self._pool.held += size
        self._tally.held += size
        self._tally.peak = max(self._tally.peak, self._tally.held)
        return True

    def _give(self, size: int) -> None:
        if size > self._held:
            raise ValueError(f"{size} bytes are given back, {self._held} are held")
        self._held -= size
        self._pool.held -= size
        self._tally.held -= size
        self._pool.changed.notify_all()


class _Pool(msgspec.Struct):
    """What the accounts share. `line` holds who waits, in order."""

    total: int
    clock: Callable[[], float]
    held: int = 0
    line: deque[object] = msgspec.field(default_factory=deque)
    changed: threading.Condition = msgspec.field(default_factory=threading.Condition)

    def fits(self, size: int) -> bool:
        return self.held + size <= self.total


class _Tally(msgspec.Struct):
    """Figures of the accounts of one name."""

    held: int = 0
    peak: int = 0
    waits: int = 0
    waited_s: float = 0.0
