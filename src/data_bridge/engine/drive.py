"""Driving a run: who may work on what, which engine does it, and when it has to stop."""

from collections.abc import Mapping, Set

from msgspec.structs import replace

from data_bridge.config import Settings
from data_bridge.engine.base import Engine, EngineReport
from data_bridge.engine.cores import usable_cores
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.limits import FailuresLimited
from data_bridge.engine.listening import listening, ordered
from data_bridge.engine.orders import Orders
from data_bridge.engine.partitions import PartitionWork, Parts
from data_bridge.engine.processes import ProcessEngine
from data_bridge.engine.surveying import survey
from data_bridge.errors import BusyError, DataError, FatalError, RetryableError, SourceError
from data_bridge.events import Notice, Observer
from data_bridge.io.codecs import is_compressed
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Plan
from data_bridge.model.shards import Claim
from data_bridge.pipelines.base import Pipeline, Takeover
from data_bridge.pipelines.single_writer import single_writer
from data_bridge.utils import claims

INLINE_BYTES = 64_000_000
"""A source smaller than this costs less in this process than starting others."""
ALONE_BYTES = 4 * INLINE_BYTES
"""The same for a source of one partition, unless it is compressed: a second core can take only a part of the work."""


def drive(
    pipeline: Pipeline,
    logs: Mapping[int, PartitionLog],
    observer: Observer,
    *,
    workers: int | None,
    takeover: Takeover,
    mine: Set[int],
    name: str,
) -> EngineReport:
    """Bring every unfinished partition that is `mine` to its end, as far as that is possible now. `name` is what the run,
    or this slice of it, listens to.

    Partitions that a run on another machine holds come last, once it is known to be dead. Raises BusyError before any
    work when a living process of this machine holds one, DataError when more samples failed than `max_failures`.
    """
    unfinished = {i: log for i, log in logs.items() if log.done is None and i in mine}
    elsewhere = (
        {} if takeover.steal else {i: log.claim for i, log in unfinished.items() if log.claim and _far(log.claim)}
    )
    if not takeover.steal:
        for index, log in unfinished.items():
            if log.claim is not None and index not in elsewhere:
                claims.refuse_if_held(pipeline.store, pipeline.plan.run, index, log.claim)
    watch = claims.Watch(pipeline.store, pipeline.plan.run)
    holders = {claim.driver for claim in elsewhere.values()}
    for holder in holders:
        watch.look(holder)
    orders = Orders(ordered(logs.values()))
    engine, slots = engine_for(pipeline.settings, pipeline.plan, workers, orders)
    orders.workers = slots if isinstance(engine, ProcessEngine) else 0
    driver = claims.new_token()
    pipeline.probe()
    looking = engine_for(pipeline.settings, pipeline.plan, workers, orders)[0]
    if (stopped := survey(pipeline, looking, slots, orders, observer, mine=mine, name=name)) is not None:
        return stopped
    work = PartitionWork(pipeline.settings, Parts(pipeline.plan), pipeline.store, driver, slots, takeover)
    counting = FailuresLimited(observer, pipeline.settings.pipeline, pipeline.plan, logs)
    todo = sorted(set(unfinished) - set(elsewhere))
    with (
        engine.ready(work, todo),
        claims.Heartbeat(pipeline.store, pipeline.plan.run, driver),
        single_writer(pipeline.store, watch, driver, counting, steal=takeover.steal),
        listening(pipeline, orders, counting, name),
    ):
        report = engine.run(work, todo, counting, poison=pipeline.position)
        if elsewhere and not report.interrupted and report.error is None:
            counting(
                Notice(f"{len(elsewhere)} partitions are held by runs elsewhere; waiting to see whether they live")
            )
            dead = _wait_until_dead(watch, holders)
            again = replace(work, takeover=Takeover(dead_drivers=dead))
            later = engine.run(again, sorted(elsewhere), counting, poison=pipeline.position)
            report = replace(later, outcomes={**report.outcomes, **later.outcomes})
        for outcome in report.outcomes.values():
            if isinstance(outcome.error, (DataError, SourceError)) or outcome.kind == "failed":
                pipeline.give_up(outcome.partition, outcome.error or FatalError("failed without saying why"), driver)
    return _unfinished_as_error(report)


def _far(claim: Claim) -> bool:
    return claims.liveness(claim) == "elsewhere"


def engine_for(settings: Settings, plan: Plan, workers: int | None, orders: Orders | None = None) -> tuple[Engine, int]:
    """The engine that fits: in this process when asked or when the source is small, else one slot per usable core."""
    chosen = workers if workers is not None else settings.pipeline.workers
    if chosen is None:
        cores = usable_cores()
        alone = len(plan.partitions) == 1
        small = sum(p.bytes or INLINE_BYTES for p in plan.partitions) <= (_alone_bytes(plan) if alone else INLINE_BYTES)
        chosen = 0 if small or (alone and cores == 1) else cores
    if chosen == 0:
        return InlineEngine(orders), 1
    return ProcessEngine(chosen, settings.pipeline.hang_timeout_s, orders=orders), chosen


def _alone_bytes(plan: Plan) -> int:
    """Up to what size the only partition of a plan costs less in this process."""
    compressed = any(is_compressed(plan.files[piece.file].uri) for piece in plan.partitions[0].pieces)
    return INLINE_BYTES if compressed else ALONE_BYTES


def _wait_until_dead(watch: claims.Watch, holders: set[str]) -> frozenset[str]:
    """All holders, once each is known to be dead. Raises BusyError when one lives."""
    for holder in holders:
        if not watch.is_dead(holder):
            raise BusyError(
                "another machine is working on this dataset", hint="run again later, or take over with --steal"
            )
    return frozenset(holders)


def _unfinished_as_error(report: EngineReport) -> EngineReport:
    """A partition that another run took over or holds is not done: say so instead of finishing."""
    if report.error is not None or report.interrupted:
        return report
    for outcome in report.outcomes.values():
        if outcome.kind in ("fenced", "busy"):
            taken = BusyError(
                f"partition {outcome.partition} was taken over by another run",
                hint="let that run finish, then run again: it verifies and completes what is left",
            )
            return replace(report, error=outcome.error if isinstance(outcome.error, RetryableError) else taken)
    return report
