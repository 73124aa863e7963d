"""The status of a stage follows from ledger, metrics and whether the run is at work."""

import pytest

from data_bridge.model.report import StageFailures, StatusReport
from data_bridge.monitor.stages import stage_statuses


def report(**more: object) -> StatusReport:
    values: dict[str, object] = {"complete": False, "partitions_done": 0, "partitions_failed": 0, "partitions_held": 0}
    values |= {"samples": 0, "failed": 0, "stages": (StageFailures("clean", "map", 0), StageFailures("ask", "map", 2))}
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
