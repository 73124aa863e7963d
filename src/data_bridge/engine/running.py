"""A run from its plan to what is left of it: everything published, a slice of it done, or stopped on the way."""

import time
from collections.abc import Callable, Mapping
from typing import Literal

from data_bridge.engine.base import EngineReport
from data_bridge.engine.drive import drive
from data_bridge.engine.limits import refuse_too_many_failures
from data_bridge.errors import FatalError
from data_bridge.events import BudgetUsed, Event, Observer, RunFinalized, RunPlanned
from data_bridge.model.partition_log import PartitionLog, totals
from data_bridge.model.plan import Plan
from data_bridge.model.report import RunReport
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Pipeline, Takeover
from data_bridge.pipelines.hooks import after_all, before_all
from data_bridge.pipelines.journal import paid_for
from data_bridge.pipelines.reporting import Reporting, write_reports
from data_bridge.pipelines.slices import Slice


def run(
    pipeline: Pipeline,
    prepare: Callable[[], Plan],
    observer: Observer,
    *,
    workers: int | None,
    steal: bool,
    part: Slice | None = None,
    asked: bool = False,
) -> RunReport:
    started = time.monotonic()
    settings, store = pipeline.settings, pipeline.store
    run_plan = prepare()
    mine = part.partitions(run_plan) if part is not None else frozenset(p.index for p in run_plan.partitions)
    logs = pipeline.logs()
    resumed = any(logs[i].shards or logs[i].done for i in mine)
    refuse_too_many_failures(settings, run_plan, logs)
    observer(_planned(run_plan, store, logs, mine))
    report = EngineReport({})
    waits = _Waits(observer)
    if part is not None:
        part.note(store, run_plan.run)
    if not _finished(logs, mine):
        if not asked:
            before_all(pipeline, observer)
        name = part.of_run(run_plan.run) if part is not None else run_plan.run
        takeover = Takeover(steal=steal)
        with Reporting(pipeline, waits) as told:
            report = drive(pipeline, logs, told, workers=workers, takeover=takeover, mine=mine, name=name)
            logs = pipeline.logs()
            told.finished = _finished(logs, frozenset(logs))
    ours = {i: logs[i] for i in mine}
    # a run that was overtaken by another, or told to stop, may find everything done all the same
    if not _finished(logs, mine):
        if not report.interrupted:
            raise report.error or FatalError("partitions are left undone", hint="run the same command again")
        return _unpublished(pipeline, "interrupted", ours, started, resumed=resumed, part=part)
    refuse_too_many_failures(settings, run_plan, logs)
    if part is not None:
        failed = totals(ours.values()).failed
        state: Literal["complete", "completed_with_failures"] = "completed_with_failures" if failed else "complete"
        return _unpublished(pipeline, state, ours, started, resumed=resumed, part=part)
    return publish(pipeline, logs, started, observer, report, waited_s=waits.seconds, resumed=resumed)


def publish(
    pipeline: Pipeline,
    logs: Mapping[int, PartitionLog],
    started: float,
    observer: Observer,
    report: EngineReport | None = None,
    *,
    waited_s: float = 0.0,
    resumed: bool = True,
) -> RunReport:
    """The end of a run: everything is done and has to be published."""
    refuse_too_many_failures(pipeline.settings, pipeline.plan, logs)
    store = pipeline.store
    manifest = pipeline.finalize(logs)
    made = manifest.totals
    observer(RunFinalized(_manifest_uri(store), made.samples, made.failed, made.shards, made.bytes))
    write_reports(pipeline, logs, observer)
    after_all(pipeline, logs, manifest, observer)
    return RunReport(
        run=pipeline.plan.run,
        status=manifest.status,
        destination=store.uri,
        manifest=_manifest_uri(store),
        format=manifest.format,
        samples=made.samples,
        failed=made.failed,
        shards=made.shards,
        bytes=made.bytes,
        seconds=time.monotonic() - started,
        resumed=resumed,
        peak_bytes=report.peak_bytes if report is not None else 0,
        memory_waited_s=waited_s,
        writers={name: writer.format for name, writer in manifest.writers.items()},
        paid={stage: paid.model_dump() for stage, paid in manifest.paid.items()},
    )


def _planned(run_plan: Plan, store: ObjectStore, logs: Mapping[int, PartitionLog], mine: frozenset[int]) -> RunPlanned:
    source = [p for p in run_plan.from_source if p.index in mine]
    partitions = [p for p in run_plan.partitions if p.index in mine]
    counted = all(p.samples is not None for p in source)
    sized = all(p.bytes is not None for p in partitions)
    done = [p for p in partitions if logs[p.index].done is not None]
    return RunPlanned(
        run=run_plan.run,
        destination=store.uri,
        partitions=len(partitions),
        done=len(done),
        samples=sum(p.samples or 0 for p in source) if counted else None,
        bytes=sum(p.bytes or 0 for p in partitions) if sized else None,
        samples_done=sum(logs[p.index].cursor.index for p in source),
        bytes_done=sum(p.bytes or 0 for p in done),
    )


def _finished(logs: Mapping[int, PartitionLog], mine: frozenset[int]) -> bool:
    return all(logs[i].done is not None for i in mine)


class _Waits:
    """Passes events on, and adds up how long slots waited for memory."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seconds = 0.0

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, BudgetUsed):
            self.seconds += event.waited_s
        self._observer(event)


def _unpublished(
    pipeline: Pipeline,
    status: Literal["complete", "completed_with_failures", "interrupted"],
    ours: Mapping[int, PartitionLog],
    started: float,
    *,
    resumed: bool,
    part: Slice | None,
) -> RunReport:
    """Of a run that was stopped, or is one slice of several."""
    committed = totals(ours.values())
    return RunReport(
        run=pipeline.plan.run,
        status=status,
        destination=pipeline.store.uri,
        manifest=None,
        format=pipeline.settings.pipeline.name,
        samples=committed.samples,
        failed=committed.failed,
        shards=committed.shards,
        bytes=committed.bytes,
        seconds=time.monotonic() - started,
        resumed=resumed,
        slice=str(part) if part is not None else None,
        paid={stage: paid.model_dump() for stage, paid in paid_for(pipeline.store, pipeline.plan.run, ours).items()},
    )


def _manifest_uri(store: ObjectStore) -> str:
    return f"{store.uri.rstrip('/')}/manifest.json"
