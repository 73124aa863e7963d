"""How many samples may fail: `max_failures`, of a run and of each of its stages."""

from collections.abc import Mapping

from data_bridge.config import PipelineSettings, Settings, share
from data_bridge.errors import DataError
from data_bridge.events import Event, Observer, PartitionDone, SamplesPacked, ShardCommitted
from data_bridge.model.partition_log import PartitionLog, failures_by_stage, totals
from data_bridge.model.plan import Plan

FEW = 1_000
"""A share of samples nobody has counted is one of so many at least, until all are read: the first one that fails is no 100 %."""


class FailuresLimited:
    """Passes events on, and stops the run with DataError when more samples failed than a `max_failures` allows."""

    def __init__(
        self, observer: Observer, pipeline: PipelineSettings, plan: Plan, logs: Mapping[int, PartitionLog]
    ) -> None:
        self._observer = observer
        self._pipeline = pipeline
        before = totals(logs.values())
        self._failed, self._by_stage = before.failed, failures_by_stage(logs.values())
        self._expected, self._read, self._recorded = _expected(plan), _read(plan, logs), before.samples + before.failed

    def __call__(self, event: Event, /) -> None:
        self._observer(event)
        if isinstance(event, SamplesPacked):
            self._read += event.samples
        elif isinstance(event, (ShardCommitted, PartitionDone)):
            self._failed += event.failed
            # shards are recorded before the batch that fills them is told
            self._recorded += event.failed + (event.samples if isinstance(event, ShardCommitted) else 0)
            self._by_stage.update(event.failed_by)
            samples = self._expected if self._expected is not None else max(self._read, self._recorded, FEW)
            _refuse_more_than(self._pipeline, self._failed, self._by_stage, samples)


def refuse_too_many_failures(settings: Settings, plan: Plan, logs: Mapping[int, PartitionLog]) -> None:
    """Raise DataError when the ledger holds more failed samples than a `max_failures` allows, of the run or of a stage."""
    samples = _expected(plan)
    if samples is None:
        samples = _read(plan, logs)
        samples = samples if all(log.done for log in logs.values()) else max(samples, FEW)
    _refuse_more_than(settings.pipeline, totals(logs.values()).failed, failures_by_stage(logs.values()), samples)


def _expected(plan: Plan) -> int | None:
    """The samples of the source, where the plan has them."""
    counts = [partition.samples for partition in plan.from_source]
    return None if None in counts else sum(count or 0 for count in counts)


def _read(plan: Plan, logs: Mapping[int, PartitionLog]) -> int:
    """The samples of the source that are behind a cursor: each once, however often it was tried again."""
    return sum(logs[p.index].cursor.index for p in plan.from_source if p.index in logs)


def _refuse_more_than(pipeline: PipelineSettings, failed: int, by_stage: Mapping[str, int], samples: int) -> None:
    limits = [("", pipeline.max_failures, failed, "pipeline.max_failures")]
    limits += [
        (f" in stage {s.name}", s.max_failures, by_stage.get(s.name, 0), f"pipeline.stages.{s.name}.max_failures")
        for s in pipeline.stages
    ]
    for where, most, found, name in limits:
        if most is None or found <= (most if isinstance(most, int) else share(most) * samples):
            continue
        of = "" if isinstance(most, int) else f" of {samples:,} samples"
        raise DataError(
            f"{found} samples failed{where}, more than {name} = {most}{of}",
            hint="look at the failures under _bridge/ at the destination; mend the source or raise the limit",
        )
