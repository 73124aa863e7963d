"""What every engine promises."""

from pathlib import Path

import pytest
from support.engine_works import SAMPLES, SHARDS, Broken, Chatty, Misdeed, Raises, Recorder, Shards

from data_bridge.engine.base import Engine
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.processes import ProcessEngine
from data_bridge.errors import (
    BridgeError,
    BusyError,
    ConfigError,
    DataError,
    DiskFullError,
    FatalError,
    Fenced,
    Interrupted,
    RetryableError,
    SourceError,
    StoreError,
)
from data_bridge.events import (
    Event,
    PartitionClaimed,
    PartitionDone,
    PartitionFailed,
    SamplesPacked,
    ShardCommitted,
    ignore,
)


@pytest.fixture(params=["inline", "processes"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return InlineEngine() if request.param == "inline" else ProcessEngine(2)


def test_every_partition_is_done_once(engine: Engine, tmp_path: Path) -> None:
    report = engine.run(Shards(tmp_path), [0, 1, 2, 3, 4], ignore)

    assert {p: o.kind for p, o in report.outcomes.items()} == dict.fromkeys(range(5), "done")
    assert len(list(tmp_path.glob("p*-shard-*"))) == 5 * SHARDS
    assert len(list(tmp_path.glob("p*-attempt-*"))) == 5
    assert report.error is None
    assert not report.interrupted
    assert report.peak_bytes > 1_000_000


def test_events_of_a_partition_arrive_complete_and_in_order(engine: Engine, tmp_path: Path) -> None:
    seen = Recorder()

    engine.run(Shards(tmp_path), [0, 1, 2], seen)

    shard = [SamplesPacked] * SAMPLES + [ShardCommitted]
    for partition in range(3):
        kinds = [type(e) for e in seen.events if getattr(e, "partition", None) == partition]
        assert kinds == [PartitionClaimed, *shard * SHARDS, PartitionDone]


def test_many_events_from_two_threads_keep_the_order_of_each(engine: Engine) -> None:
    seen = Recorder()

    engine.run(Chatty(5000), [3], seen)

    for sender in (3, -1):
        assert [e.samples for e in seen.of(SamplesPacked) if e.partition == sender] == list(range(5000))


def test_no_partitions_is_no_work(engine: Engine, tmp_path: Path) -> None:
    report = engine.run(Broken(tmp_path, FatalError), [], ignore)

    assert report.outcomes == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("row 9 is not JSON", hint="use on_error: skip"), "permanent"),
        (SourceError("it was cut"), "failed"),
        (RetryableError("the store is down"), "permanent"),
        (Fenced("taken over"), "fenced"),
        (BusyError("process 12 holds it"), "busy"),
        (Interrupted("stopped"), "stopped"),
        (ConfigError("no such bucket", hint="make it"), "permanent"),
        (DiskFullError("no space in /staging"), "permanent"),
        (StoreError("403"), "permanent"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BridgeError) else value,
)
def test_an_error_of_ours_becomes_the_outcome_it_stands_for(engine: Engine, error: BridgeError, kind: str) -> None:
    outcome = engine.run(Raises(error), [5], ignore).outcomes[5]

    assert (outcome.kind, outcome.index, outcome.trace) == (kind, 45, "")
    assert type(outcome.error) is type(error)
    assert (outcome.error.message, outcome.error.hint) == (error.message, error.hint)


def test_a_huge_error_arrives_whole(engine: Engine) -> None:
    message = "x" * 3_000_000

    report = engine.run(Raises(DataError(message, hint="look")), [0], ignore)

    assert report.error is not None
    assert (report.error.message, report.error.hint) == (message, "look")


def test_a_failed_partition_does_not_keep_the_others_from_being_done(engine: Engine, tmp_path: Path) -> None:
    seen = Recorder()

    report = engine.run(Shards(tmp_path, {1: Misdeed("raises", index=10)}), [0, 1, 2], seen)

    assert [report.outcomes[p].kind for p in range(3)] == ["done", "failed", "done"]
    failed = report.outcomes[1]
    assert isinstance(failed.error, FatalError)
    assert failed.error.message == "partition 1 failed: ZeroDivisionError: the ninth row has no width"
    assert failed.index == 10
    assert "_raises" in failed.trace
    assert report.error is failed.error
    assert seen.of(PartitionFailed) == [PartitionFailed(1, failed.error.message)]


def test_a_stage_that_calls_exit_fails_its_partition_alone(engine: Engine, tmp_path: Path) -> None:
    report = engine.run(Shards(tmp_path, {0: Misdeed("leaves")}), [0, 1], ignore)

    assert [report.outcomes[p].kind for p in (0, 1)] == ["failed", "done"]


def test_an_error_all_partitions_share_is_told_once_and_ends_the_run(engine: Engine) -> None:
    seen = Recorder()

    report = engine.run(Raises(StoreError("bucket is gone", hint="make it")), list(range(50)), seen)

    assert isinstance(report.error, StoreError)
    assert len(seen.of(PartitionFailed)) == 1
    assert len(seen.of(PartitionClaimed)) <= 2
    assert report.outcomes[49].kind == "stopped"


def test_a_permanent_error_outranks_an_earlier_failure(engine: Engine, tmp_path: Path) -> None:
    report = engine.run(Shards(tmp_path, {0: Misdeed("raises"), 1: Misdeed("disk full")}), [0, 1, 2, 3], ignore)

    assert isinstance(report.error, DiskFullError)


@pytest.mark.parametrize(
    ("raised", "expected"), [(ConfigError, ConfigError), (ImportError, ConfigError), (RuntimeError, FatalError)]
)
def test_work_that_cannot_be_made_is_one_clear_error(
    engine: Engine, tmp_path: Path, raised: type[Exception], expected: type[BridgeError]
) -> None:
    seen = Recorder()

    report = engine.run(Broken(tmp_path, raised), [0, 1, 2], seen)

    assert type(report.error) is expected
    assert "no module named nothing" in str(report.error)
    assert bool(report.trace) == (raised is not ConfigError)
    assert {o.kind for o in report.outcomes.values()} == {"stopped"}
    assert len(list(tmp_path.glob("made-by-*"))) <= 2
    assert seen.events == []


class _Fails:
    """An observer that breaks at the first committed shard."""

    def __init__(self) -> None:
        self.after = 0
        self.broken = False

    def __call__(self, event: Event, /) -> None:
        self.after += self.broken
        if not isinstance(event, ShardCommitted):
            return
        self.broken = True
        raise LookupError("the screen is gone")


def test_an_observer_that_raises_stops_the_run_with_its_own_exception(engine: Engine, tmp_path: Path) -> None:
    observer = _Fails()
    misdeeds = {p: Misdeed("waits for stop", index=10) for p in range(20)}

    with pytest.raises(LookupError, match="the screen is gone"):
        engine.run(Shards(tmp_path, misdeeds), list(range(20)), observer)

    assert observer.after == 0
    assert len(list(tmp_path.glob("p*-attempt-*"))) <= 2
