import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from support.engine_works import Recorder

from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.signals import handle_signals
from data_bridge.errors import Interrupted
from data_bridge.events import Notice, ignore
from data_bridge.runtime.spawning import SIGNALS


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    # a test run in the background is started with SIGINT ignored
    before = {s: signal.signal(s, signal.default_int_handler) for s in SIGNALS}
    yield
    for signum, old in before.items():
        signal.signal(signum, old)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_counted_and_the_second_interrupts(signum: signal.Signals) -> None:
    clock = Clock()

    with handle_signals(clock) as stop:
        signal.raise_signal(signum)
        assert stop.count == 1
        clock.now += 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signum)

    assert stop.count == 2


def test_an_echo_of_the_first_signal_is_not_a_second_one() -> None:
    clock = Clock()

    with handle_signals(clock) as stop:
        signal.raise_signal(signal.SIGINT)
        clock.now += 0.01
        signal.raise_signal(signal.SIGTERM)

    assert stop.count == 1


def test_a_deaf_block_counts_without_interrupting() -> None:
    clock = Clock()

    with handle_signals(clock) as stop:
        stop.deaf = True
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            clock.now += 1

    assert stop.count == 3


def test_handlers_are_put_back_even_after_an_exception() -> None:
    def mine(signum: int, frame: FrameType | None) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    with pytest.raises(LookupError), handle_signals():
        raise LookupError

    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    with handle_signals() as stop:
        signal.raise_signal(signal.SIGINT)

    assert stop.count == 0


def test_another_thread_leaves_the_handlers_alone() -> None:
    seen = []

    def inside() -> None:
        with handle_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()

    assert seen == [signal.default_int_handler]


def _signals_itself(partition: int, control: SlotControl) -> Outcome:
    signal.raise_signal(signal.SIGINT)
    return Outcome(partition, "stopped" if control.stopping else "done", index=3)


def _never_stops(partition: int, control: SlotControl) -> Outcome:
    while True:
        signal.raise_signal(signal.SIGINT)


def test_inline_one_signal_ends_the_run_after_what_is_in_hand(tmp_path: Path) -> None:
    seen = Recorder()

    report = InlineEngine().run(lambda: _signals_itself, [0, 1, 2], seen)

    assert report.interrupted
    assert [(o.kind, o.index) for o in report.outcomes.values()] == [("stopped", 3), ("stopped", 0), ("stopped", 0)]
    assert report.error is None
    assert len(seen.of(Notice)) == 1


def test_inline_the_second_signal_stops_at_once() -> None:
    def factory() -> Work:
        return _never_stops

    with pytest.raises(Interrupted, match="stopped at once"):
        InlineEngine().run(factory, [0, 1], ignore)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
