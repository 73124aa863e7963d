"""Ctrl-C, SIGTERM and a closed terminal as one exception; and none of them while a machine is being given back."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Told(KeyboardInterrupt):
    """By somebody who will not answer a question: SIGTERM, or a terminal that is gone."""


@contextmanager
def heard() -> Generator[None]:
    """SIGINT raises KeyboardInterrupt, the others Told, for the length of the block and in the main thread."""

    def handler(signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt if signum == signal.SIGINT else Told

    with _installed(handler):
        yield


@contextmanager
def unheard(tell: Callable[[str], None]) -> Generator[None]:
    """Whoever asks to stop is told why it takes a moment."""

    def handler(_signum: int, _frame: FrameType | None) -> None:
        with suppress(OSError):  # a terminal that was closed must not end what this block does
            tell("a moment: the machine is being destroyed")

    with _installed(handler):
        yield


@contextmanager
def _installed(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    for each in ALL:
        if signal.getsignal(each) not in (None, signal.SIG_IGN):  # `nohup` stays in force
            before[each] = signal.signal(each, handler)
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)
