"""Turns SIGINT and SIGTERM into a count: once = finish what is in hand, again = stop now."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec

from data_bridge.runtime.spawning import SIGNALS

ECHO_S = 0.25
"""One key press may arrive twice, from the terminal and from a wrapper that forwards it."""

STOPPING = "stopping: what is in hand is being finished; interrupt again to stop at once"


class StopSignals(msgspec.Struct):
    """How often the user asked to stop. While `deaf`, signals are counted and raise nothing."""

    count: int = 0
    deaf: bool = False


@contextmanager
def handle_signals(clock: Callable[[], float] = time.monotonic) -> Generator[StopSignals]:
    """Count signals for the length of the block; from the second on they also raise KeyboardInterrupt.

    Outside the main thread and in a notebook nothing is installed: KeyboardInterrupt comes as ever. A signal
    the process was started to ignore (`nohup`, a background job) stays ignored. Handlers are put back.
    """
    stop = StopSignals()
    last = float("-inf")

    def handler(_signum: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = clock()
        if now - last < ECHO_S:
            return
        last = now
        stop.count += 1
        if stop.count > 1 and not stop.deaf:
            raise KeyboardInterrupt

    before = _install(handler)
    try:
        yield stop
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread() or _in_notebook():
        return {}
    # None = set by C code: it could not be put back
    owned = [s for s in SIGNALS if signal.getsignal(s) not in (None, signal.SIG_IGN)]
    return {s: signal.signal(s, handler) for s in owned}


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
