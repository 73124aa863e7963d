"""Looking without touching: what a run would do, and what the ledger of a destination says."""

from collections.abc import Mapping, Sequence

from data_bridge.config import PipelineSettings, Settings
from data_bridge.errors import ConfigError
from data_bridge.model.manifest import MANIFEST_KEY, Manifest
from data_bridge.model.partition_log import PartitionLog, failures_by_stage, totals
from data_bridge.model.plan import Plan
from data_bridge.model.report import PlanReport, SliceStatus, StageCommitted, StatusReport
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning
from data_bridge.pipelines.base import Pipeline
from data_bridge.pipelines.journal import paid_for
from data_bridge.pipelines.notes import costs_by_stage, rows_by_stage
from data_bridge.pipelines.sinks import SinkPlan, sink_plans
from data_bridge.pipelines.slices import noted, slice_statuses
from data_bridge.stages.build import build
from data_bridge.utils.progress import Ledger, parsed

LARGE_SHARD = 2_000_000_000
"""Readers stream shards up to about this size comfortably."""


def plan_report(settings: Settings, pipeline: Pipeline, *, anew: bool = False) -> PlanReport:
    """What a run of the pipeline would do, `anew` one that starts over; writes nothing."""
    plan, _ = pipeline.preview(anew=anew)
    store, options = pipeline.store, settings.pipeline
    logs = Ledger(store, plan.run).load_all(plan.partitions) if plan.run else {}
    samples = sum(p.samples or 0 for p in plan.from_source) if plan.first.counted or not plan.partitions else None
    done = [p for p in plan.partitions if p.index in logs and logs[p.index].done is not None]
    samples_done = sum(logs[p.index].cursor.index for p in plan.from_source if p.index in logs)
    if samples is None and len(done) == len(plan.partitions):
        samples = samples_done
    size = _total([f.size for f in plan.files])
    found = pipeline.sample_bytes
    per_sample = found.source if found is not None else None
    estimate = round(size / per_sample) if samples is None and size and per_sample else None
    if estimate is not None and options.limit is not None:
        estimate = min(estimate, options.limit)
    known = samples if samples is not None else estimate
    sinks = sink_plans(options, build(options), plan.first)
    committed = _committed_sample_bytes(logs)
    packed = found.packed() if found is not None else {sink.name: committed for sink in sinks}
    shards = _shards(known, packed, sinks)
    shard_bytes = _mean_bytes(shards, packed, sinks)
    return PlanReport(
        run=plan.run or None,
        source=planning.shown(options.input_uri),
        source_format=plan.first.format,
        destination=store.uri,
        format=sinks[0].settings.name,
        files=len(plan.files),
        source_bytes=size,
        partitions=len(plan.partitions),
        partitions_done=len(done),
        samples=samples,
        samples_estimated=estimate,
        samples_done=samples_done,
        shards=_shards_counted(samples, sinks),
        shards_estimated=sum(shards.values()) if shards is not None else None,
        shards_done=totals(logs.values()).shards,
        shard_bytes_estimated=shard_bytes,
        fields=tuple((f["name"], f["type"]) for f in plan.first.fields),
        writer=dict(plan.first.writer) or dict(plan.first.writers),
        warnings=tuple(_warnings(plan, shard_bytes, settings)),
        complete=bool(plan.run) and len(done) == len(plan.partitions) and _published(store, logs),
        writers={sink.name: sink.settings.name for sink in sinks if sink.name},
    )


def slices_at(store: ObjectStore, of: int) -> tuple[SliceStatus, ...] | None:
    """How each of so many slices of the run at a destination stands; None where there is no plan yet."""
    identity = planning.read_identity(store)
    plan = planning.read_plan(store, identity.run) if identity is not None else None
    return slice_statuses(plan, Ledger(store, plan.run).load_all(plan.partitions), of) if plan is not None else None


def committed(store: ObjectStore) -> dict[int, int]:
    """How many samples of each partition are in finished shards of every writer; nothing where there is no plan."""
    identity = planning.read_identity(store)
    plan = planning.read_plan(store, identity.run) if identity is not None else None
    if plan is None:
        return {}
    logs = Ledger(store, plan.run).load_all(plan.partitions)
    sinks = list(plan.first.writers) or [""]
    return {index: min(log.cursor_of(sink).index for sink in sinks) for index, log in logs.items()}


def _total(sizes: Sequence[int | None]) -> int | None:
    return None if any(s is None for s in sizes) else sum(s or 0 for s in sizes)


def _committed_sample_bytes(logs: Mapping[int, PartitionLog]) -> float | None:
    committed = totals(logs.values())
    return committed.bytes / committed.samples if committed.samples else None


def _shards_counted(samples: int | None, sinks: Sequence[SinkPlan]) -> int | None:
    """How many all writers make, where source and settings alone decide that."""
    if samples is None or not all(sink.counted and not sink.settings.max_shard_bytes for sink in sinks):
        return None
    return sum(-(-samples // sink.settings.samples_per_shard) for sink in sinks)


def _shards(
    samples: int | None, packed: Mapping[str, float | None], sinks: Sequence[SinkPlan]
) -> dict[str, int] | None:
    """About how many each writer makes, if no stage leaves samples out or divides them. `packed` are bytes of a sample, by writer."""
    if samples is None:
        return None
    return {sink.name: -(-samples // _together(sink.settings, packed[sink.name])) for sink in sinks}


def _together(options: PipelineSettings, sample_bytes: float | None) -> int:
    """About how many samples a shard has."""
    if options.max_shard_bytes is None or not sample_bytes:
        return options.samples_per_shard
    return max(1, min(options.samples_per_shard, int(options.max_shard_bytes / sample_bytes)))


def _mean_bytes(
    shards: Mapping[str, int] | None, packed: Mapping[str, float | None], sinks: Sequence[SinkPlan]
) -> int | None:
    """About how large a full shard is, over all writers' shards; of the first writer's where their number is not known."""
    full = {sink.name: (packed[sink.name] or 0) * _together(sink.settings, packed[sink.name]) for sink in sinks}
    if not all(full.values()):
        return None
    numbers = shards if shards and sum(shards.values()) else {sinks[0].name: 1}
    return round(sum(full[name] * number for name, number in numbers.items()) / sum(numbers.values()))


def _warnings(plan: Plan, shard_bytes: int | None, settings: Settings) -> list[str]:
    frozen = [plan.first.writer, *plan.first.writers.values()]
    said = [str(warning) for writer in frozen for warning in writer.get("warnings", [])]
    if shard_bytes is not None and shard_bytes > LARGE_SHARD and settings.pipeline.max_shard_bytes is None:
        said.append(
            f"shards would be about {shard_bytes / 1e9:.1f} GB; set max_shard_bytes (for example 1GB) or a smaller samples_per_shard"
        )
    if plan.first.format == "files" and len(plan.files) == 1 and settings.pipeline.input_format == "auto":
        said.append(
            f"{plan.files[0].uri} would be one sample as it stands; if it holds many, name their format in pipeline.input_format"
        )
    return said


def status_report(store: ObjectStore) -> StatusReport:
    """What the ledger at a destination says. Raises ConfigError when there is no dataset."""
    plan = plan_at(store)
    logs = Ledger(store, plan.run).load_all(plan.partitions)
    planned = plan.from_source
    counted = all(p.samples is not None for p in planned)
    committed = totals(logs.values())
    by_stage = failures_by_stage(logs.values())
    paid = paid_for(store, plan.run, logs)
    divisions = noted(store, plan.run)
    costs = costs_by_stage(logs.values()) | {stage: bill.cost_usd for stage, bill in paid.items()}
    rows = rows_by_stage(logs[p.index] for p in planned)
    return StatusReport(
        run=plan.run,
        destination=store.uri,
        complete=all(log.done for log in logs.values()) and _published(store, logs),
        partitions=len(plan.partitions),
        partitions_done=_count(logs, "done"),
        partitions_failed=_count(logs, "failed"),
        partitions_held=_count(logs, "claim"),
        samples=committed.samples,
        failed=committed.failed,
        shards=committed.shards,
        bytes=committed.bytes,
        samples_expected=sum(p.samples or 0 for p in planned) if counted else None,
        errors=tuple(f"partition {i}: {log.failed.error}" for i, log in logs.items() if log.failed),
        samples_done=sum(logs[p.index].cursor.index for p in planned),
        stages=tuple(
            StageCommitted(
                s["name"],
                s["kind"],
                by_stage[s["name"]],
                paid.get(s["name"]),
                costs.get(s["name"], 0.0),
                rows.get(s["name"]),
            )
            for s in plan.first.config.get("stages", [])
        ),
        slices=slice_statuses(plan, logs, divisions[-1]) if divisions else (),
    )


def _published(store: ObjectStore, logs: Mapping[int, PartitionLog]) -> bool:
    """Whether the manifest is there and speaks of all that the ledger has."""
    data = store.get(MANIFEST_KEY)
    if data is None:
        return False
    told, committed = parsed(Manifest, data, MANIFEST_KEY).totals, totals(logs.values())
    return (told.samples, told.failed) == (committed.samples, committed.failed)


def _count(logs: Mapping[int, PartitionLog], what: str) -> int:
    return sum(1 for log in logs.values() if getattr(log, what) is not None)


def plan_at(store: ObjectStore) -> Plan:
    """What the run at a destination was planned to do. Raises ConfigError when there is none."""
    identity = planning.read_identity(store)
    plan = planning.read_plan(store, identity.run) if identity else None
    if plan is None:
        raise ConfigError(f"no dataset at {store.uri}", hint="give the destination that `data-bridge run` printed")
    return plan
