"""Looking at the whole source for stages that must know it, before anything is packed."""

from collections.abc import Sequence, Set

from data_bridge.engine.base import Engine, EngineReport
from data_bridge.engine.listening import listening
from data_bridge.engine.orders import Orders
from data_bridge.engine.partitions import Parts, SurveyWork
from data_bridge.events import Notice, Observer
from data_bridge.pipelines.base import Pipeline


def survey(
    pipeline: Pipeline,
    engine: Engine,
    slots: int,
    orders: Orders,
    observer: Observer,
    *,
    mine: Set[int],
    name: str,
) -> EngineReport | None:
    """Make the surveys that are not made yet, taking commands meanwhile; None when all of them are, else how the engine ended.

    A slice of a run looks at partitions that are `mine` first, and then at what the others have not come to: it waits for
    nobody. What two of them look at is the same.
    """
    partitions = pipeline.plan.partitions
    for one in pipeline.surveys():
        work = SurveyWork(pipeline.settings, Parts(pipeline.plan), pipeline.store, one.stage, slots)
        while one.result(len(partitions)) is None:
            now = _next(one.missing(partitions), mine, slots)
            observer(Notice(f"{one.stage}: looks at {len(now)} of {len(partitions)} partitions before any is packed"))
            with engine.ready(work, now), listening(pipeline, orders, observer, name):
                report = engine.run(work, now, observer)
                missing = one.missing(partitions)
                if report.interrupted or report.error is not None or not set(missing).isdisjoint(now):
                    return report
                if not missing:
                    found = pipeline.resolve(one)
                    observer(Notice(f"{one.stage}: {found.marked:,} samples repeat an earlier one"))
            pipeline.refuse_another_run(pipeline.plan.run)
    return None


def _next(missing: Sequence[int], mine: Set[int], slots: int) -> Sequence[int]:
    """What to look at now. Others look at theirs from the front, so help comes from the back, and little by little."""
    return [i for i in missing if i in mine] or missing[: -slots - 1 : -1]
