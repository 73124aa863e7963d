"""Rates come from the time in which all slots work, and a measurement ends when its rate is known."""

from dataclasses import dataclass

import pytest

from data_bridge.errors import BridgeError
from data_bridge.events import Event, Notice, PartitionClaimed, PartitionDone, SamplesPacked, ShardFinished
from data_bridge.measure.packing import Enough, Watching
from data_bridge.measure.window import Window


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def window(clock: Clock) -> Window:
    return Window(clock, lambda: clock.now / 2, lambda: clock.now / 4)


def work(found: Window, clock: Clock, *steps: tuple[float, int]) -> None:
    for seconds, samples in steps:
        clock.now += seconds
        found.add(samples, 10 * samples)


def test_the_first_mark_opens_the_time_and_its_own_work_does_not_count(clock: Clock) -> None:
    found = window(clock)
    work(found, clock, (5, 1000), (1, 10), (1, 20))

    rate = found.rate(slots=3)

    assert rate is not None
    assert (rate.samples, rate.bytes, rate.seconds, rate.cpu_s, rate.queued_s, rate.slots) == (30, 300, 2, 1, 0.5, 3)
    assert (rate.samples_s, rate.cores, rate.ready) == (15, 0.5, 0.75)


def test_what_was_done_while_others_started_or_had_nothing_to_do_does_not_count(clock: Clock) -> None:
    found = window(clock)
    work(found, clock, (1, 7), (1, 7))
    found.open()
    work(found, clock, (1, 100), (1, 100))
    found.close()
    work(found, clock, (10, 1))

    rate = found.rate()

    assert rate is not None
    assert rate.samples_s == 100


def test_there_is_no_rate_of_nothing(clock: Clock) -> None:
    found = window(clock)
    assert found.rate() is None
    found.add(10, 10)
    assert found.rate() is None
    work(found, clock, (1, 0))
    assert found.rate() is None


@pytest.mark.parametrize(
    ("steps", "steady"),
    [([100] * 6, True), ([100] * 3, False), ([100, 900, 100, 101, 99, 100], True), ([100, 100, 100, 100, 100, 130], False)],
)  # fmt: skip
def test_a_rate_is_steady_when_the_last_seconds_agree(clock: Clock, steps: list[int], steady: bool) -> None:
    found = window(clock)
    found.add(0, 0)
    work(found, clock, *((1.0, samples) for samples in steps))

    assert found.steady() is steady


def test_slots_are_measured_from_the_moment_all_have_work_until_one_finds_none(clock: Clock) -> None:
    heard: list[Event] = []
    watching = Watching(2, 3, 60, heard.append)
    watching.window.clock = clock

    def at(seconds: float, event: Event) -> None:
        clock.now += seconds
        watching(event)

    at(0, PartitionClaimed(0, 0))
    at(1, PartitionClaimed(1, 0))
    at(1, SamplesPacked(0, 1, 10))
    at(1, SamplesPacked(1, 1, 10))
    for samples in (50, 150) * 5:
        at(1, SamplesPacked(0, samples, 10 * samples))
    at(0, PartitionDone(0, 1001, 0))
    at(0, PartitionClaimed(2, 0))
    at(0, PartitionDone(1, 0, 0))
    at(1, SamplesPacked(2, 3, 30))
    at(0, Notice("hello"))

    rate = watching.rate()

    assert rate is not None
    assert (rate.samples, rate.seconds, rate.slots) == (1000, 10, 2)
    assert heard == [Notice("hello")]


def test_it_is_enough_when_the_time_is_up(clock: Clock) -> None:
    watching = Watching(1, 1, 2, lambda event: None)
    watching.window.clock = clock
    watching(PartitionClaimed(0, 0))
    clock.now += 1
    watching(SamplesPacked(0, 10, 100))
    clock.now += 2.5

    with pytest.raises(Enough):
        watching(SamplesPacked(0, 20, 200))
    assert not issubclass(Enough, BridgeError)


def test_bytes_of_a_sample_are_those_of_finished_shards_as_soon_as_there_is_one(clock: Clock) -> None:
    watching = Watching(1, 1, 60, lambda event: None)
    watching(PartitionClaimed(0, 0))
    watching(SamplesPacked(0, 10, 100))
    assert watching.sample_bytes == 10

    watching(ShardFinished(0, "000000.tar.gz", 10, 30))

    assert watching.sample_bytes == 3
