import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from data_bridge.engine.base import Outcome
from data_bridge.engine.slot import Finished, PipeControl, Signs
from data_bridge.events import Event, PartitionClaimed, SamplesPacked, ShardCommitted


@contextmanager
def heard() -> Iterator[tuple[PipeControl, list[Any]]]:
    """A control, and the messages it sent once the block has ended."""
    ours, theirs = multiprocessing.Pipe()
    messages: list[Any] = []

    def listen() -> None:
        while (message := ours.recv()) is not None:
            messages.append(message)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield PipeControl(theirs), messages
    finally:
        theirs.send(None)
        listener.join()
        ours.close()
        theirs.close()


def test_events_travel_in_batches() -> None:
    sent = [SamplesPacked(1, n, n) for n in range(20_000)]

    with heard() as (control, messages):
        for event in sent:
            control.emit(event)
        control.say(Finished(Outcome(1, "done"), 0))

    events = [e for m in messages if isinstance(m, Signs) for e in m.events]
    assert events == sent
    assert len(messages) < 300
    assert isinstance(messages[-1], Finished)


@pytest.mark.parametrize("event", [PartitionClaimed(1, 5), ShardCommitted(1, "000000.tar", 7, 1, 9)])
def test_how_far_a_partition_is_is_told_at_once(event: Event) -> None:
    with heard() as (control, messages):
        control.emit(SamplesPacked(1, 1, 1))
        control.emit(event)

    assert [e for m in messages for e in m.events] == [SamplesPacked(1, 1, 1), event]


def test_what_waits_can_be_told_from_beside_the_work() -> None:
    with heard() as (control, messages):
        control.tell_late()
        control.emit(SamplesPacked(1, 1, 1))
        control.tell_late()
        control.tell_late()

    assert [e for m in messages for e in m.events] == [SamplesPacked(1, 1, 1)]
    assert len(messages) == 1


def test_beats_are_cheap() -> None:
    with heard() as (control, messages):
        for _ in range(50_000):
            control.beat()

    assert len(messages) <= 2


def test_the_index_follows_claims_and_commits() -> None:
    with heard() as (control, _):
        control.emit(PartitionClaimed(1, 100))
        control.emit(ShardCommitted(1, None, 0, 8, 0))
        control.emit(ShardCommitted(1, "000002.tar", 7, 1, 9))

    assert control.index == 116
