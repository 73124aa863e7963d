"""How each stage of a run stands: failures from the ledger, the rest from what the run has said on this machine."""

from data_bridge.model import spread
from data_bridge.model.metrics import Load, MetricRecord, Statistics
from data_bridge.model.report import StageFailures, StageState, StageStatus, StatusReport
from data_bridge.monitor.snapshot import Snapshot

QUANTILES = (50, 95)
"""Of values, in percent."""


def stage_statuses(
    report: StatusReport, told: Snapshot | None, *, running: bool, paused: bool
) -> tuple[StageStatus, ...]:
    """One for each stage on the way to a writer. `told` is what the run said last on this machine; totals are its own."""
    found = {record.part: record for record in told.total} if told else {}
    return tuple(
        _status(
            stage, found.get((stage.name, stage.kind)), _state(report, stage.failed, running=running, paused=paused)
        )
        for stage in report.stages
    )


def _status(stage: StageFailures, record: MetricRecord | None, state: StageState) -> StageStatus:
    paid = stage.paid.model_dump() if stage.paid is not None else None
    if record is None:
        return StageStatus(
            stage.name, stage.kind, state, stage.failed, processed=None, skipped=None, seconds=None, paid=paid
        )
    seconds = sum(metric.busy_s for metric in record.metrics if isinstance(metric, Load))
    return StageStatus(
        stage.name,
        stage.kind,
        state,
        stage.failed,
        processed=record.count("rows_in"),
        skipped=record.count("dropped"),
        seconds=round(seconds, 3),
        bypassed=record.count("bypassed"),
        row_seconds=_row_seconds(record),
        statistics={m.name: _spread(m) for m in record.metrics if isinstance(m, Statistics) and m.count},
        paid=paid,
    )


def _row_seconds(record: MetricRecord) -> dict[str, float]:
    load = record.get(Load, "load")
    found = {f"p{share}": spread.quantile(load.row_s if load else {}, share / 100) for share in QUANTILES}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _spread(seen: Statistics) -> dict[str, float | None]:
    whole = {"count": seen.count, "mean": seen.sum / seen.count, "min": seen.min, "max": seen.max}
    return {**whole, **{f"p{share}": seen.quantile(share / 100) for share in QUANTILES}}


def _state(report: StatusReport, failed: int, *, running: bool, paused: bool) -> StageState:
    if report.complete:
        return "completed_with_failures" if failed else "completed"
    if running:
        return "paused" if paused else "processing"
    if report.partitions_failed:
        return "failed"
    begun = report.partitions_done or report.partitions_held or report.samples or report.failed
    return "paused" if begun else "not_started"
