"""Looking at the whole source for stages that must know it, before anything is packed."""

from data_bridge.engine.base import Engine, EngineReport
from data_bridge.engine.listening import listening
from data_bridge.engine.orders import Orders
from data_bridge.engine.partitions import Parts, SurveyWork
from data_bridge.events import Notice, Observer
from data_bridge.pipelines.base import Pipeline


def survey(pipeline: Pipeline, engine: Engine, slots: int, orders: Orders, observer: Observer) -> EngineReport | None:
    """Make the surveys that are not made yet, taking commands meanwhile; None when all of them are, else how the engine ended."""
    partitions = pipeline.plan.partitions
    for one in pipeline.surveys():
        if one.result(len(partitions)) is not None:
            continue
        missing = one.missing(partitions)
        observer(Notice(f"{one.stage}: looks at {len(missing)} of {len(partitions)} partitions before any is packed"))
        work = SurveyWork(pipeline.settings, Parts(pipeline.plan), pipeline.store, one.stage, slots)
        with engine.ready(work, missing), listening(pipeline, orders, observer):
            report = engine.run(work, missing, observer)
            if report.interrupted or report.error is not None or one.missing(partitions):
                return report
            found = pipeline.resolve(one)
        observer(Notice(f"{one.stage}: {found.marked:,} samples repeat an earlier one"))
        pipeline.refuse_another_run()
    return None
