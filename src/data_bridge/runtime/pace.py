"""How many things begin a second."""

import threading
import time
from collections.abc import Callable

LOOK_S = 0.2
"""How often who waits looks whether the rate is another one."""


class Pace:
    """Lets at most `rate()` things a second begin, evenly spaced; None = any number. It is asked again and again, so that a
    rate that changes holds for those who wait. Safe for threads."""

    def __init__(self, rate: Callable[[], float | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._turn = threading.Condition()
        self._last: float | None = None
        self._stopped = False

    def wait(self) -> bool:
        """Wait for the next beginning. False = stopped: nothing begins any more."""
        with self._turn:
            while not self._stopped:
                rate, now = self._rate(), self._clock()
                due = now if rate is None or self._last is None else self._last + 1 / rate
                if due <= now:
                    # who comes a little late does not slow down all that follow
                    self._last = max(due, now - LOOK_S)
                    return True
                self._turn.wait(min(due - now, LOOK_S))
            return False

    def stop(self) -> None:
        """Wake all who wait. From any thread, and for good."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
