"""The programmatic face: run, plan, look, verify. No prints, no exits; errors are `BridgeError`s."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_bridge.config import Settings, load_settings
from data_bridge.engine.base import Engine, EngineReport
from data_bridge.engine.cores import usable_cores
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.partitions import PartitionWork
from data_bridge.engine.processes import ProcessEngine
from data_bridge.errors import BusyError, DataError, RetryableError
from data_bridge.events import (
    Event,
    ItemFailed,
    Notice,
    Observer,
    PartitionDone,
    RunFinalized,
    RunPlanned,
    ShardCommitted,
    ignore,
)
from data_bridge.model.plan import Plan
from data_bridge.model.report import PlanReport, RunReport, StatusReport, VerifyReport
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import OpenStore, Pipeline, Takeover
from data_bridge.pipelines.destination import output_uri
from data_bridge.pipelines.fresh import made_here, start_over
from data_bridge.pipelines.looking import plan_report, status_report
from data_bridge.pipelines.verify import verify_dataset
from data_bridge.storage import open_store
from data_bridge.utils import claims
from data_bridge.utils.progress import PartitionLog

__all__ = ["load_settings", "plan", "run_from_file", "run_pipeline", "status", "verify"]

INLINE_BYTES = 64_000_000
"""A source smaller than this costs less in this process than starting others."""


def run_from_file(path: str | Path, *, observer: Observer = ignore, workers: int | None = None) -> RunReport:
    """Run the pipeline of a config file; see `run_pipeline`."""
    return run_pipeline(load_settings(Path(path)), observer=observer, workers=workers)


def run_pipeline(
    settings: Settings,
    *,
    observer: Observer = ignore,
    workers: int | None = None,
    prefix: str | None = None,
    fresh: bool = False,
    steal: bool = False,
    open_destination: OpenStore | None = None,
) -> RunReport:
    """Bring the source to finished, verified shards at the destination; call it again after any crash to go on.

    `workers` overrides the settings (0 = in this process); `prefix` names the dataset at the destination; `fresh`
    deletes what an earlier run made there; `steal` takes partitions over from a run on another machine that only seems
    alive. `open_destination` opens the store in every process instead of the settings' own destination (picklable).

    Returns when the manifest is published, or when a signal stopped the run (status `interrupted`). Raises ConfigError
    before any work, DataError for a bad sample under `on_error: fail`, and other `BridgeError`s with progress kept.
    """
    started = time.monotonic()
    opener = open_destination or _Destination(output_uri(settings, prefix))
    store = opener(settings)
    if fresh:
        start_over(store)
    store.probe("_bridge/probe")
    pipeline = Pipeline(settings, store)
    run_plan = pipeline.prepare()
    logs = pipeline.logs()
    engine, slots = _engine(settings, run_plan, workers)
    todo = [p.index for p in run_plan.partitions if logs[p.index].done is None]
    observer(_planned(run_plan, store, logs))
    report = EngineReport({})
    if todo:
        report = _work(
            pipeline, engine, slots, opener, todo, logs, _Counting(observer, settings, logs), Takeover(steal=steal)
        )
    if report.interrupted and not _finished(pipeline):
        return _report(pipeline, "interrupted", started, resumed=len(todo) < len(logs))
    if report.error is not None:
        raise report.error
    manifest = pipeline.finalize()
    totals = manifest.totals
    observer(RunFinalized(_manifest_uri(store), totals.samples, totals.failed, totals.shards, totals.bytes))
    return RunReport(
        run=run_plan.run,
        status=manifest.status,
        destination=store.uri,
        manifest=_manifest_uri(store),
        format=manifest.format,
        samples=totals.samples,
        failed=totals.failed,
        shards=totals.shards,
        bytes=totals.bytes,
        seconds=time.monotonic() - started,
        resumed=any(log.shards or log.done for log in logs.values()),
        peak_bytes=report.peak_bytes,
    )


def plan(settings: Settings, *, prefix: str | None = None, open_destination: OpenStore | None = None) -> PlanReport:
    """What a run would do and what is already done; writes nothing. Raises ConfigError as `run_pipeline` would."""
    opener = open_destination or _Destination(output_uri(settings, prefix))
    return plan_report(settings, Pipeline(settings, opener(settings)))


def made_there(settings: Settings, *, prefix: str | None = None) -> int:
    """How many objects `fresh` would delete. Raises what `run_pipeline(fresh=True)` would, before anything is deleted."""
    return len(made_here(open_store(output_uri(settings, prefix), settings)))


def status(destination: str, settings: Settings | None = None) -> StatusReport:
    """What the ledger of a destination says. Raises ConfigError when there is no dataset."""
    return status_report(open_store(destination, settings or _no_settings(destination)))


def verify(destination: str, settings: Settings | None = None, *, deep: bool = False) -> VerifyReport:
    """Check a finished dataset: every object exists with its size; `deep` also reads every shard whole:
    SHA-256, counts, the format's own structure, keys unique over the dataset."""
    return verify_dataset(open_store(destination, settings or _no_settings(destination)), deep=deep)


def _no_settings(destination: str) -> Settings:
    """Settings for looking at a destination without a config: credentials come from where the vendors keep them."""
    return Settings.model_validate({"pipeline": {"input_uri": destination}})


class _Destination:
    """Opens the settings' destination in any process."""

    def __init__(self, uri: str) -> None:
        # relative folders must mean the same in every process
        self._uri = uri if "://" in uri else str(Path(uri).expanduser().absolute())

    def __call__(self, settings: Settings) -> ObjectStore:
        return open_store(self._uri, settings)


def _engine(settings: Settings, run_plan: Plan, workers: int | None) -> tuple[Engine, int]:
    """The engine that fits: in this process when asked or when the source is small, else one slot per usable core."""
    chosen = workers if workers is not None else settings.pipeline.workers
    if chosen is None:
        small = (
            len(run_plan.partitions) == 1 or sum(p.bytes or INLINE_BYTES for p in run_plan.partitions) <= INLINE_BYTES
        )
        chosen = 0 if small else usable_cores()
    if chosen == 0:
        return InlineEngine(), 1
    return ProcessEngine(chosen, settings.pipeline.hang_timeout_s), chosen


def _planned(run_plan: Plan, store: ObjectStore, logs: Mapping[int, PartitionLog]) -> RunPlanned:
    counted = all(p.samples is not None for p in run_plan.partitions)
    sized = all(p.bytes is not None for p in run_plan.partitions)
    done = [p for p in run_plan.partitions if logs[p.index].done is not None]
    return RunPlanned(
        run=run_plan.run,
        destination=store.uri,
        partitions=len(run_plan.partitions),
        done=len(done),
        samples=sum(p.samples or 0 for p in run_plan.partitions) if counted else None,
        bytes=sum(p.bytes or 0 for p in run_plan.partitions) if sized else None,
        samples_done=sum(log.cursor.index for log in logs.values()),
        bytes_done=sum(p.bytes or 0 for p in done),
    )


def _work(
    pipeline: Pipeline,
    engine: Engine,
    slots: int,
    opener: OpenStore,
    todo: list[int],
    logs: Mapping[int, PartitionLog],
    observer: Observer,
    takeover: Takeover,
) -> EngineReport:
    """Hand the unfinished partitions to the engine; those held elsewhere last, once their holder is known to be dead."""
    driver = claims.new_token()
    watch = claims.Watch(pipeline.store, pipeline.plan.run)
    held = set() if takeover.steal else {i for i in todo if (c := logs[i].claim) and claims.liveness(c) == "elsewhere"}
    here = {i: log for i, log in logs.items() if i in todo and i not in held}
    pipeline.refuse_live_claims({**logs, **{i: PartitionLog() for i in logs if i not in here}}, takeover)
    holders = {c.driver: c for i in held if (c := logs[i].claim)}
    for name in holders:
        watch.look(name)

    def factory(dead: frozenset[str]) -> PartitionWork:
        return PartitionWork(
            pipeline.settings, pipeline.plan, opener, driver, slots, replace(takeover, dead_drivers=dead)
        )

    with claims.Heartbeat(pipeline.store, pipeline.plan.run, driver):
        report = engine.run(factory(frozenset()), sorted(set(todo) - held), observer, poison=_Poison(pipeline))
        if held and not report.interrupted and report.error is None:
            observer(
                Notice(f"{len(held)} partitions are held by runs on other machines; waiting to see whether they live")
            )
            dead = _dead(watch, holders)
            report = engine.run(factory(dead), sorted(held), observer, poison=_Poison(pipeline))
    return _with_unfinished(report)


def _dead(watch: claims.Watch, holders: Mapping[str, object]) -> frozenset[str]:
    """Wait until it is known of every holder elsewhere whether it lives. Raises BusyError when one does."""
    dead: set[str] = set()
    while True:
        looks = {name: watch.look(name) for name in set(holders) - dead}
        if "alive" in looks.values():
            raise BusyError(
                "another machine is working on this dataset", hint="run again later, or take over with --steal"
            )
        dead |= {name for name, look in looks.items() if look == "gone"}
        if len(dead) == len(holders):
            return frozenset(dead)
        watch.pause()


def _with_unfinished(report: EngineReport) -> EngineReport:
    """A partition that another run took over or holds is not done: say so instead of finishing."""
    if report.error is not None or report.interrupted:
        return report
    for outcome in report.outcomes.values():
        if outcome.kind in ("fenced", "busy"):
            error = (
                outcome.error
                if isinstance(outcome.error, RetryableError)
                else BusyError(
                    f"partition {outcome.partition} was taken over by another run",
                    hint="let that run finish, then run again: it verifies and completes what is left",
                )
            )
            return EngineReport(report.outcomes, report.interrupted, error, report.trace, report.peak_bytes)
    return report


class _Poison:
    """Where a partition stands, in words, when it keeps killing its slots."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, partition: int, /) -> str:
        return self._pipeline.position(partition)


class _Counting:
    """Passes events on, and stops the run when more samples failed than `max_failures`."""

    def __init__(self, observer: Observer, settings: Settings, logs: Mapping[int, PartitionLog]) -> None:
        self._observer = observer
        self._most = settings.pipeline.max_failures
        self._failed = sum(log.failed_samples for log in logs.values())

    def __call__(self, event: Event, /) -> None:
        self._observer(event)
        if isinstance(event, (ShardCommitted, PartitionDone)):
            self._failed += event.failed
        if self._most is not None and self._failed > self._most and not isinstance(event, ItemFailed):
            raise DataError(
                f"{self._failed} samples failed, more than pipeline.max_failures = {self._most}",
                hint="look at the failures under _bridge/ at the destination; mend the source or raise the limit",
            )


def _finished(pipeline: Pipeline) -> bool:
    return all(log.done is not None for log in pipeline.logs().values())


def _report(pipeline: Pipeline, state: str, started: float, *, resumed: bool) -> RunReport:
    logs = pipeline.logs().values()
    assert state == "interrupted"
    return RunReport(
        run=pipeline.plan.run,
        status="interrupted",
        destination=pipeline.store.uri,
        manifest=None,
        format=pipeline.settings.pipeline.name,
        samples=sum(log.samples for log in logs),
        failed=sum(log.failed_samples for log in logs),
        shards=sum(len([s for s in log.shards if s.key]) for log in logs),
        bytes=sum(log.bytes for log in logs),
        seconds=time.monotonic() - started,
        resumed=resumed,
    )


def _manifest_uri(store: ObjectStore) -> str:
    return f"{store.uri.rstrip('/')}/manifest.json"
