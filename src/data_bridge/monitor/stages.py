"""How each stage of a run stands: failures from the ledger, the rest from what the run has said on this machine."""

from collections.abc import Mapping
from dataclasses import replace

from data_bridge.model import spread
from data_bridge.model.metrics import Load, MetricRecord, Statistics
from data_bridge.model.report import StageCommitted, StageState, StageStatus, StatusReport
from data_bridge.monitor.snapshot import Snapshot

QUANTILES = (50, 95)
"""Of values, in percent."""


def stage_statuses(
    report: StatusReport, told: Snapshot | None, reports: Mapping[str, str] = {}, *, running: bool, paused: bool
) -> tuple[StageStatus, ...]:
    """One for each stage. `told` is what the run said last on this machine; totals are its own. `reports` says by stage where
    a whole report is on this machine."""
    found = {record.part: record for record in told.total} if told else {}
    return tuple(
        _status(
            report,
            stage,
            found.get((stage.name, stage.kind)),
            _state(report, stage, reports, running=running, paused=paused),
            reports.get(stage.name),
        )
        for stage in report.stages
    )


def _status(
    report: StatusReport, stage: StageCommitted, record: MetricRecord | None, state: StageState, file: str | None
) -> StageStatus:
    total = report.samples_expected
    known = StageStatus(
        stage.name,
        stage.kind,
        state,
        stage.failed,
        processed=None,
        skipped=None,
        seconds=None,
        total_cost_usd=stage.total_cost_usd,
        total=total,
        remaining=None if total is None else total - report.samples_done,
        report_rows=stage.report_rows,
        report=file,
        paid=stage.paid.model_dump() if stage.paid is not None else None,
    )
    if record is None:
        return known
    return replace(
        known,
        processed=record.count("rows_in"),
        skipped=record.count("dropped"),
        seconds=round(sum(metric.busy_s for metric in record.metrics if isinstance(metric, Load)), 3),
        bypassed=record.count("bypassed"),
        row_seconds=_row_seconds(record),
        statistics={m.name: _spread(m) for m in record.metrics if isinstance(m, Statistics) and m.count},
    )


def _row_seconds(record: MetricRecord) -> dict[str, float]:
    load = record.get(Load, "load")
    found = {f"p{share}": spread.quantile(load.row_s if load else {}, share / 100) for share in QUANTILES}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _spread(seen: Statistics) -> dict[str, float | None]:
    whole = {"count": seen.count, "mean": seen.sum / seen.count, "min": seen.min, "max": seen.max}
    return {**whole, **{f"p{share}": seen.quantile(share / 100) for share in QUANTILES}}


def _state(
    report: StatusReport, stage: StageCommitted, reports: Mapping[str, str], *, running: bool, paused: bool
) -> StageState:
    if report.complete:
        if running and stage.report_rows is not None and stage.name not in reports:
            return "generating_report"
        return "completed_with_failures" if stage.failed else "completed"
    if running:
        return "paused" if paused else "processing"
    if report.partitions_failed:
        return "failed"
    begun = report.partitions_done or report.partitions_held or report.samples or report.failed
    return "paused" if begun else "not_started"
