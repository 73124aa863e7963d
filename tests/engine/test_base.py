from support.engine_works import Recorder

from data_bridge.engine.base import Audience, Outcome, Results
from data_bridge.errors import DataError, StoreError
from data_bridge.events import Notice, PartitionFailed


def test_a_permanent_error_of_several_partitions_is_told_once() -> None:
    seen = Recorder()
    results = Results([0, 1, 2, 3], Audience(seen))

    results.add(Outcome(0, "failed", DataError("bad row")))
    results.add(Outcome(1, "permanent", StoreError("no bucket", hint="make it")))
    results.add(Outcome(2, "permanent", StoreError("still no bucket")))

    assert seen.events == [PartitionFailed(0, "bad row"), PartitionFailed(1, "no bucket", "make it")]
    report = results.report(interrupted=False)
    assert str(report.error) == "no bucket"
    assert [o.kind for o in report.outcomes.values()] == ["failed", "permanent", "permanent", "stopped"]


def test_a_failure_without_an_error_still_says_something() -> None:
    results = Results([7], Audience(Recorder()))

    results.add(Outcome(7, "failed"))

    assert str(results.report(interrupted=False).error) == "partition 7 failed without saying why"


def test_an_observer_that_failed_is_left_in_peace() -> None:
    calls = []

    def observer(event: object, /) -> None:
        calls.append(event)
        raise LookupError

    audience = Audience(observer)
    audience(Notice("one"))
    audience(Notice("two"))

    assert calls == [Notice("one")]
    assert isinstance(audience.error, LookupError)
