"""The status of a stage follows from ledger, metrics and whether the run is at work."""

import pytest

from data_bridge.model.metrics import Count, Load, MetricRecord, Statistics
from data_bridge.model.report import StageCommitted, StatusReport
from data_bridge.monitor.snapshot import Snapshot
from data_bridge.monitor.stages import stage_statuses
from data_bridge.runtime.flow import StageWork
from data_bridge.runtime.metrics import SlotMetrics


def report(**more: object) -> StatusReport:
    values: dict[str, object] = {"complete": False, "partitions_done": 0, "partitions_failed": 0, "partitions_held": 0}
    values |= {
        "samples": 0,
        "failed": 0,
        "stages": (StageCommitted("clean", "map", 0), StageCommitted("ask", "map", 2)),
    }
    fixed = {"run": "r", "destination": "d", "partitions": 3, "shards": 0, "bytes": 0, "samples_expected": None}
    return StatusReport(**(fixed | {"errors": ()} | values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "running", "paused", "statuses"),
    [
        ({}, False, False, ["not_started"] * 2),
        ({}, True, False, ["processing"] * 2),
        ({"samples": 5}, True, True, ["paused"] * 2),
        ({"samples": 5}, False, False, ["paused"] * 2),
        ({"partitions_held": 1}, False, False, ["paused"] * 2),
        ({"partitions_failed": 1}, False, False, ["failed"] * 2),
        ({"partitions_failed": 1}, True, False, ["processing"] * 2),
        ({"complete": True, "failed": 2}, False, False, ["completed", "completed_with_failures"]),
    ],
)
def test_a_status_follows_from_what_is_committed_and_who_works(
    said: dict[str, object], running: bool, paused: bool, statuses: list[str]
) -> None:
    found = stage_statuses(report(**said), None, running=running, paused=paused)

    assert [stage.status for stage in found] == statuses
    assert [(stage.failed, stage.processed) for stage in found] == [(0, None), (2, None)]


def slot(rows: list[tuple[int, float]], scores: list[float]) -> tuple[MetricRecord, ...]:
    """What a slot says in which packets of so many rows took so many seconds."""
    metrics = SlotMetrics()
    for count, seconds in rows:
        metrics.add_work([(StageWork("clean", count, count, 0, 0, seconds, bypassed=3), "map")])
    for score in scores:
        metrics.part("clean", "map").statistics("score", score)
    return metrics.flush(now=True) or ()


def test_quantiles_are_those_of_all_slots_together() -> None:
    total = [*slot([(90, 0.9), (5, 0.5)], [1, 2, 3]), *slot([(5, 50)], [100])]
    told = Snapshot("r", "d", "ended", 1, 0, 1, 1, (), (total[0].then(total[1]),), ())

    clean = stage_statuses(report(), told, running=False, paused=False)[0]

    assert (clean.processed, clean.bypassed) == (100, 9)
    assert clean.row_seconds == {"p50": pytest.approx(0.01, rel=0.03), "p95": pytest.approx(0.1, rel=0.03)}
    assert clean.statistics == {
        "score": {"count": 4, "mean": 26.5, "min": 1, "max": 100, "p50": pytest.approx(2, rel=0.03), "p95": 100}
    }


def test_values_that_nobody_has_sorted_have_no_quantiles() -> None:
    record = MetricRecord("clean", "map", (Count("rows_in", 1), Load(), Statistics("score", 1, 3, 4, 2, 3)))
    told = Snapshot("r", "d", "ended", 1, 0, 1, 1, (), (record,), ())

    clean = stage_statuses(report(), told, running=False, paused=False)[0]

    assert clean.row_seconds == {}
    assert clean.statistics["score"] == {"count": 2, "mean": 2, "min": 1, "max": 3, "p50": None, "p95": None}


@pytest.mark.parametrize(
    ("complete", "running", "written", "status"),
    [
        (False, True, {}, "processing"),
        (True, True, {}, "generating_report"),
        (True, True, {"clean": "/x/report.csv"}, "completed"),
        (True, False, {}, "completed"),
    ],
)
def test_a_report_that_is_not_written_yet_is_a_phase_of_its_own(
    complete: bool, running: bool, written: dict[str, str], status: str
) -> None:
    stage = StageCommitted("clean", "map", 0, total_cost_usd=0.5, report_rows=7)
    said = report(complete=complete, stages=(stage,), samples_expected=10, samples_done=7)

    (found,) = stage_statuses(said, None, written, running=running, paused=False)

    assert found.status == status
    assert (found.total_cost_usd, found.total, found.remaining, found.report_rows) == (0.5, 10, 3, 7)
    assert found.report == written.get("clean")
