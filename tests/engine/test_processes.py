"""What the process engine promises beyond the others: it survives its workers."""

import multiprocessing
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.engine_works import (
    SHARDS,
    Broken,
    DiesTwiceEverywhere,
    Misdeed,
    Polite,
    Recorder,
    Shards,
    Together,
    attempts,
    wait_for,
)

from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.engine.processes import ProcessEngine
from data_bridge.errors import ConfigError, FatalError
from data_bridge.events import Event, PartitionClaimed, PartitionFailed, SamplesPacked, SlotLost, ignore


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("killed", "was killed by SIGKILL"),
        ("segfault", "was killed by SIGSEGV"),
        ("exits", "ended with exit code 3"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_partition_resumed(tmp_path: Path, deed: str, why: str) -> None:
    seen = Recorder()

    report = ProcessEngine(2).run(Shards(tmp_path, {1: Misdeed(deed, index=10)}), [0, 1, 2], seen)

    assert {o.kind for o in report.outcomes.values()} == {"done"}
    assert [(lost.partition, lost.why) for lost in seen.of(SlotLost)] == [(1, why)]
    assert [e.index for e in seen.of(PartitionClaimed) if e.partition == 1] == [0, 10]
    assert len(list(tmp_path.glob("p*-shard-*"))) == 3 * SHARDS
    assert seen.of(PartitionFailed) == []


def test_all_workers_dying_at_once_is_survived(tmp_path: Path) -> None:
    misdeeds = {p: Misdeed("killed", index=10 * (p % SHARDS)) for p in range(6)}

    report = ProcessEngine(3).run(Shards(tmp_path, misdeeds), list(range(6)), ignore)

    assert {o.kind for o in report.outcomes.values()} == {"done"}


@dataclass(frozen=True)
class WaitsToBeHeard:
    """Tells how far it is twice in a row, and does nothing more before that was heard."""

    heard: Path

    def __call__(self) -> Work:
        def work(partition: int, control: SlotControl) -> Outcome:
            control.emit(SamplesPacked(partition, 7, 7))
            control.emit(SamplesPacked(partition, 8, 8))
            wait_for(self.heard.exists, "being heard")
            return Outcome(partition, "done")

        return work


def test_what_was_done_before_something_long_is_told_meanwhile(tmp_path: Path) -> None:
    heard = tmp_path / "heard"

    def hear(event: Event) -> None:
        if event == SamplesPacked(0, 8, 8):
            heard.touch()

    report = ProcessEngine(1).run(WaitsToBeHeard(heard), [0], hear)

    assert report.outcomes[0].kind == "done"


@pytest.mark.parametrize("deed", ["hangs", "freezes"])
def test_a_worker_that_gives_no_sign_of_life_is_killed_and_replaced(tmp_path: Path, deed: str) -> None:
    seen = Recorder()

    report = ProcessEngine(1, hang_timeout_s=1.0).run(Shards(tmp_path, {0: Misdeed(deed, index=20)}), [0], seen)

    assert report.outcomes[0].kind == "done"
    (lost,) = seen.of(SlotLost)
    assert lost.partition == 0
    assert "no sign of life" in lost.why
    assert not psutil.pid_exists(int((tmp_path / "p0-attempt-0").read_text()))


def test_a_slow_worker_that_beats_is_left_alone(tmp_path: Path) -> None:
    seen = Recorder()

    report = ProcessEngine(1, hang_timeout_s=1.6).run(Shards(tmp_path, {0: Misdeed("beats slowly")}), [0], seen)

    assert report.outcomes[0].kind == "done"
    assert seen.of(SlotLost) == []


def test_a_slow_observer_does_not_make_workers_look_hung(tmp_path: Path) -> None:
    released = threading.Event()
    lost: list[Event] = []

    def observer(event: Event, /) -> None:
        if isinstance(event, PartitionClaimed):
            released.wait(1.5)
            released.set()
        if isinstance(event, SlotLost):
            lost.append(event)

    report = ProcessEngine(2, hang_timeout_s=1.0).run(Shards(tmp_path), [0, 1], observer)

    assert {o.kind for o in report.outcomes.values()} == {"done"}
    assert lost == []


def test_a_crash_loop_fails_its_partition_naming_the_position_and_the_others_go_on(tmp_path: Path) -> None:
    seen = Recorder()

    report = ProcessEngine(2).run(
        Shards(tmp_path, {1: Misdeed("segfault", index=20, times=99)}), [0, 1, 2], seen, poison=lambda p: f"rows of {p}"
    )

    assert [report.outcomes[p].kind for p in range(3)] == ["done", "failed", "done"]
    failed = report.outcomes[1]
    assert isinstance(failed.error, FatalError)
    assert failed.error.message == (
        "partition 1 killed its worker 3 times at sample 20 (rows of 1); the last one was killed by SIGSEGV"
    )
    assert failed.index == 20
    assert attempts(tmp_path, 1) == 3
    assert [e.partition for e in seen.of(PartitionFailed)] == [1]


def test_deaths_with_progress_in_between_are_no_crash_loop(tmp_path: Path) -> None:
    # two deaths at each of three positions: six in all, never three at one
    seen = Recorder()
    report = ProcessEngine(1).run(DiesTwiceEverywhere(tmp_path), [0], seen)

    assert report.outcomes[0].kind == "done"
    assert len(seen.of(SlotLost)) == 2 * SHARDS


def test_slots_work_at_the_same_time(tmp_path: Path) -> None:
    report = ProcessEngine(3).run(Together(tmp_path, 3), [0, 1, 2], ignore)

    assert {o.kind for o in report.outcomes.values()} == {"done"}
    assert len({p.name.rsplit("-", 1)[1] for p in tmp_path.glob("here-*")}) == 3


def test_no_more_workers_than_partitions_are_started(tmp_path: Path) -> None:
    most = 0

    def observer(event: Event, /) -> None:
        nonlocal most
        most = max(most, len(multiprocessing.active_children()))

    ProcessEngine(8).run(Shards(tmp_path), [0, 1], observer)

    assert 1 <= most <= 2


def test_a_worker_that_dies_while_starting_is_not_restarted_for_ever(tmp_path: Path) -> None:
    seen = Recorder()

    report = ProcessEngine(2, crash_limit=3).run(Broken(tmp_path), [0, 1, 2, 3], seen)

    assert isinstance(report.error, FatalError)
    assert "before it could start" in report.error.message
    assert len(list(tmp_path.glob("made-by-*"))) <= 4
    assert {o.kind for o in report.outcomes.values()} == {"stopped"}


def test_signals_to_a_worker_are_left_to_the_driver(tmp_path: Path) -> None:
    seen = Recorder()

    report = ProcessEngine(1).run(Shards(tmp_path, {0: Misdeed("survives signals")}), [0], seen)

    assert report.outcomes[0].kind == "done"
    assert not report.interrupted
    assert seen.of(SlotLost) == []


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    me = psutil.Process()
    ProcessEngine(1).run(Shards(tmp_path), [0], ignore)  # the resource tracker of `multiprocessing` stays
    before = (me.num_fds(), len(me.children(recursive=True)), threading.active_count())

    ProcessEngine(3).run(Shards(tmp_path, {2: Misdeed("killed")}), [1, 2, 3], ignore)

    assert (me.num_fds(), len(me.children(recursive=True)), threading.active_count()) == before


def test_workers_end_in_good_order_when_there_is_nothing_more_to_do(tmp_path: Path) -> None:
    ProcessEngine(1).run(Polite(tmp_path), [0, 1, 2], ignore)

    assert len(list(tmp_path.glob("left-*"))) == 1


def test_it_runs_outside_the_main_thread(tmp_path: Path) -> None:
    reports = []
    thread = threading.Thread(target=lambda: reports.append(ProcessEngine(1).run(Shards(tmp_path), [0], ignore)))

    thread.start()
    thread.join()

    assert reports[0].outcomes[0].kind == "done"


def test_work_that_cannot_be_pickled_is_a_config_error_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="cannot be sent to worker processes") as caught:
        ProcessEngine(1).run(lambda: lambda p, c: None, [0], ignore)  # type: ignore[arg-type, return-value]

    assert "workers: 0" in caught.value.hint
    assert multiprocessing.active_children() == []
