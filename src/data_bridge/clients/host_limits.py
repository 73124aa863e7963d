"""How hard one host is asked at a time: connections, requests a second, and its own wish to be left alone."""

import threading
import time
from collections.abc import Callable

import msgspec

_MOST_IDLE = 4096


class _Gate(msgspec.Struct):
    changed: threading.Condition
    waiting: int = 0
    inside: int = 0
    next_s: float = 0.0
    """When the next request may start."""


class HostLimits:
    """At most `at_once` requests at a time to any one host, `per_s` of them started a second. Safe for threads."""

    def __init__(
        self, at_once: int, per_s: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._gates: dict[str, _Gate] = {}
        self._stopped = threading.Event()

    def enter(self, host: str) -> bool:
        """Wait until the host may be asked. False = stopped: nobody entered."""
        with self._lock:
            gate = self._gates.get(host)
            if gate is None:
                gate = self._new(host)
            gate.waiting += 1
            while gate.inside >= self._at_once and not self._stopped.is_set():
                gate.changed.wait()
            gate.waiting -= 1
            if self._stopped.is_set():
                return False
            gate.inside += 1
            now = self._clock()
            starts = max(now, gate.next_s)
            if self._per_s is not None:
                gate.next_s = starts + 1 / self._per_s
        if starts > now and self._stopped.wait(starts - now):
            self.leave(host)
            return False
        return True

    def leave(self, host: str) -> None:
        """The request is over."""
        with self._lock:
            gate = self._gates[host]
            gate.inside -= 1
            if gate.waiting:
                gate.changed.notify()

    def spare(self, host: str, seconds: float) -> None:
        """No request to the host is started for so long: it asked for that."""
        with self._lock:
            gate = self._gates.get(host) or self._new(host)
            gate.next_s = max(gate.next_s, self._clock() + seconds)

    def wait(self, seconds: float) -> None:
        """Wait, less when stopped."""
        self._stopped.wait(seconds)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Wake everybody who waits, and let nobody in any more."""
        self._stopped.set()
        with self._lock:
            for gate in self._gates.values():
                gate.changed.notify_all()

    def _new(self, host: str) -> _Gate:
        if len(self._gates) >= _MOST_IDLE:
            now = self._clock()
            self._gates = {h: g for h, g in self._gates.items() if g.waiting or g.inside or g.next_s > now}
        gate = self._gates[host] = _Gate(threading.Condition(self._lock))
        return gate
