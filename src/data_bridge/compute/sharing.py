"""What the machines of one command have in common: money, hosts, and somebody who may stop them all."""

import threading
from collections.abc import Callable, Collection, Generator
from pathlib import Path

from data_bridge.compute.session import Reach
from data_bridge.compute.ssh import Link
from data_bridge.model.rental import Address


class Purse:
    """One budget and one list of hosts for several machines, each of which asks under the name of its slice.

    Each has an equal share of the budget, and what one leaves over goes to whoever asks next: however they fare, together
    they never have more than the budget.
    """

    def __init__(self, budget_usd: float | None, names: Collection[str]) -> None:
        self._lock = threading.Lock()
        self._shares = None if budget_usd is None else dict.fromkeys(names, budget_usd / len(names))
        self._over = 0.0
        self._hosts: dict[str, int] = {}
        self._at_work = set(names)
        self._waiting: set[str] = set()
        self.bad: set[int] = set()
        """Hosts that failed one of them: none takes them again."""

    def left(self, name: str) -> float | None:
        """Dollars it may spend yet; None = there is no limit."""
        with self._lock:
            if self._shares is None:
                return None
            self._shares[name] += self._over
            self._over = 0.0
            return self._shares[name]

    def pay(self, name: str, usd: float) -> None:
        with self._lock:
            if self._shares is not None:
                self._shares[name] -= usd

    def take(self, name: str, host: int) -> bool:
        """Have a host for oneself; False where another has it: what takes one machine away would take both."""
        with self._lock:
            if host in self._others(name):
                return False
            self._hosts[name] = host
            self._waiting.discard(name)
            return True

    def taken(self, name: str) -> Collection[int]:
        """Hosts that others have."""
        with self._lock:
            return self._others(name)

    def _others(self, name: str) -> set[int]:
        return {host for other, host in self._hosts.items() if other != name}

    def leave(self, name: str) -> None:
        """It has ended, and needs nothing more."""
        with self._lock:
            self._hosts.pop(name, None)
            self._at_work.discard(name)
            self._waiting.discard(name)
            if self._shares is not None:
                self._over += max(0.0, self._shares[name])
                self._shares[name] = 0.0

    def in_vain(self, name: str) -> bool:
        """It finds nothing to rent. Whether all others that have not ended wait as well: then no end of theirs is to come."""
        with self._lock:
            self._waiting.add(name)
            return self._at_work <= self._waiting


class Stopped(KeyboardInterrupt):
    """Whoever runs all of them wants this one to end."""


class Halt:
    """Ends several threads, each of which works on a machine, wherever they wait."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.how = "destroy"
        """Or "detach": what is to become of the machine of a run that works."""

    def ask(self, how: str) -> None:
        self.how = how
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises Stopped when asked."""
        if self._asked.wait(seconds):
            raise Stopped

    def heeding(self, reach: Reach) -> Reach:
        """The same ways to machines, on which the thread that made one stops when asked."""

        def reached(address: Address, name: str, folder: Path) -> Link:
            return _Heeding(reach(address, name, folder), self.wait)

        return reached


class _Heeding:
    def __init__(self, inner: Link, wait: Callable[[float], None]) -> None:
        self._inner, self._wait = inner, wait
        self._owner = threading.get_ident()

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        self._heed()
        return self._inner.run(script, stdin, timeout_s=timeout_s)

    def stream(self, script: str) -> Generator[bytes]:
        for block in self._inner.stream(script):
            self._heed()
            yield block

    def _heed(self) -> None:
        # other threads that listen on the same way are ended by the one that made it
        if threading.get_ident() == self._owner:
            self._wait(0)
