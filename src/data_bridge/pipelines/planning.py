"""The plan log: fixed before the first shard, read on resume, never recomputed.

`plan/000000.json` holds the first generation; a later one adds partitions (the source grew) and changes none.
What is read on resume is compared with the config and the source as they are now; a difference is refused.
"""

import difflib
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from data_bridge.config import PipelineSettings, Settings, byte_settings, changed_values, config_hash, public_uri
from data_bridge.errors import ConfigError, ConflictError, IntegrityError
from data_bridge.io.sources.stream import Listing, SampleStream
from data_bridge.model.batch import DictRows
from data_bridge.model.plan import LAYOUT_VERSION, Generation, Part, Partition, Plan
from data_bridge.model.source import Document, Probe, SourceFile
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.observing import probes
from data_bridge.pipelines.sinks import SinkPlan, all_counted, sink_plans, sink_settings
from data_bridge.pipelines.staging import PROBES, SCRATCH
from data_bridge.pipelines.writers import writer_class
from data_bridge.runtime.graph import Graph
from data_bridge.stages.build import build
from data_bridge.utils.claims import TOKEN
from data_bridge.utils.progress import dump, parsed

IDENTITY_KEY = "_bridge/dataset.json"
NEXT_STEP = "write to a new destination (pipeline.output_uri), or start this one over with --fresh"


class Identity(Document, frozen=True, kw_only=True):
    """The first object of a destination: which dataset it holds."""

    v: int = 1
    run: str
    layout_version: int = LAYOUT_VERSION


def is_dataset(store: ObjectStore) -> bool:
    """Whether there is a dataset of ours, of whatever version. Raises ConflictError where there is something else than what a
    killed run or measurement left aside."""
    if store.get(IDENTITY_KEY) is not None:
        return True
    found = next((key for key in store.list_keys() if not key.startswith((PROBES, SCRATCH))), None)
    if found is None or store.get(IDENTITY_KEY) is not None:  # somebody may have begun one meanwhile
        return found is not None
    raise ConflictError(
        f"{store.uri} already holds something that data-bridge did not make (first: {found})",
        hint="name an empty destination in pipeline.output_uri, or empty this one yourself",
    )


def read_identity(store: ObjectStore) -> Identity | None:
    """Which dataset the destination holds, or None. Raises ConflictError for a layout this version cannot continue."""
    data = store.get(IDENTITY_KEY)
    if data is None:
        return None
    identity = parsed(Identity, data, IDENTITY_KEY)
    if TOKEN.fullmatch(identity.run) is None:  # folders of this machine are named after it
        raise IntegrityError(
            f"{IDENTITY_KEY} at {store.uri} names the run {identity.run[:40]!r}, which is no id of a run",
            hint="data-bridge did not write that: do not use this destination",
        )
    if identity.layout_version != LAYOUT_VERSION:
        raise ConflictError(
            f"{store.uri} was written with layout version {identity.layout_version}, this version writes {LAYOUT_VERSION}",
            hint=NEXT_STEP,
        )
    return identity


def read_plan(store: ObjectStore, run: str) -> Plan | None:
    """All generations, or None when the run died before its first one."""
    bodies = {key: store.get(key) for key in store.list_keys(_prefix(run))}
    if None in bodies.values():
        raise IntegrityError(f"a plan record vanished from {store.uri}", hint="restore it, or start over with --fresh")
    generations = tuple(parsed(Generation, body, key) for key, body in bodies.items() if body is not None)
    return Plan(run=run, generations=generations) if generations else None


def append_generation(store: ObjectStore, run: str, generation: Generation) -> bool:
    """Write the next generation; False when another run has just written one."""
    return store.put_if_absent(f"{_prefix(run)}{generation.number:06d}.json", dump(generation))


def is_plan(key: str) -> bool:
    """Whether a key is of a generation, of whatever run."""
    return re.match(r"_bridge/[^/]+/plan/", key) is not None


def _prefix(run: str) -> str:
    return f"_bridge/{run}/plan/"


class SampleBytes(msgspec.Struct, frozen=True):
    """Mean bytes of a sample in the source, and as each writer packs it, by the samples of a probe; None where they do not tell."""

    source: float | None
    packed: Callable[[], Mapping[str, float | None]]


def first_generation(settings: Settings, stream: SampleStream) -> tuple[Generation, SampleBytes]:
    """Plan a source from nothing; beside it, for estimates, what a sample takes.

    Raises ConfigError for an empty source unless `allow_empty`.
    """
    pipeline = settings.pipeline
    graph = build(pipeline, check=True)
    listing = stream.listing()
    probe = stream.probe(listing)
    if pipeline.schema_:
        from data_bridge.pipelines import schema  # with pyarrow, which lines of JSON go without

        probe = schema.apply(pipeline, probe, listing.format)
    partitions = stream.partitions(listing, order=_source_order(graph))
    if not pipeline.allow_empty and stream.is_empty(listing, partitions, probe):
        raise ConfigError(
            f"pipeline.input_uri: {shown(pipeline.input_uri)} holds no samples",
            hint="check the path and input_format, or pass --allow-empty if that is right",
        )
    values = byte_settings(_writing(settings, graph))
    seen = probes(graph, probe, stream, listing, partitions)
    frozen = {sink.name: _frozen(sink_settings(pipeline, sink.name), seen[sink.input]) for sink in graph.sinks}
    counted = bool(partitions) and all(p.samples is not None for p in partitions)
    if counted and len(partitions) > 1 and not all_counted(pipeline, graph):
        partitions = [_prefixed(p) for p in partitions]
    total = sum(p.samples or 0 for p in partitions)
    generation = Generation(
        number=0,
        config_hash=config_hash(values),
        config=values,
        libraries=libraries_now(settings, graph),
        format=listing.format,
        counted=counted,
        key_digits=max(10, len(str(total))),
        shard_digits=max(6, len(str(total // pipeline.samples_per_shard))),
        files=_public_files(listing),
        partitions=tuple(partitions),
        fields=tuple(f.model_dump() for f in probe.fields),
        writer=frozen.pop("", {}),
        writers=frozen,
    )

    def packed() -> dict[str, float | None]:  # only who asks packs them: a run does not
        return {plan.name: _packed_bytes(plan, seen[plan.port]) for plan in sink_plans(pipeline, graph, generation)}

    return generation, SampleBytes(probe.mean_sample_bytes, packed)


def _packed_bytes(plan: SinkPlan, probe: Probe) -> float | None:
    """What a writer makes of a sample, by those of the probe."""
    keys = [f"{number:010d}" for number in range(len(probe.rows))]
    ends = plan.writer().encode(DictRows(probe.rows), keys).ends
    return int(ends[-1]) / len(ends) if len(ends) else None


def _writing(settings: Settings, graph: Graph) -> Settings:
    """The settings without stages that lead to no writer: those may come and go while a dataset is made."""
    names = {node.name for branch in graph.branches for node in branch.nodes}
    if not names:
        return settings
    kept = tuple(stage for stage in settings.pipeline.stages if stage.name not in names)
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update={"stages": kept})})


def _source_order(graph: Graph) -> Callable[[int], Sequence[int]] | None:
    """In which order the source's runs are read, where a stage says so."""

    def ordered(runs: int) -> Sequence[int]:
        order = graph.source_order(runs)
        return range(runs) if order is None else order.tolist()

    return None if graph.source_order(0) is None else ordered


def _frozen(settings: PipelineSettings, probe: Probe) -> dict[str, Any]:
    return writer_class(settings.name).freeze(settings, probe)


def _prefixed(partition: Partition) -> Partition:
    """A partition whose shards are numbered by themselves, since nobody knows beforehand how many there will be."""
    return partition.model_copy(update={"shard_prefix": f"{partition.index:05d}-"})


def shown(uri: str | Sequence[str]) -> str:
    return ", ".join(public_uri(u) for u in ([uri] if isinstance(uri, str) else uri))


def libraries_now(settings: Settings, graph: Graph) -> dict[str, str]:
    """Versions of the libraries whose output is part of our bytes under these settings."""
    pipeline = settings.pipeline
    used = {"orjson": version("orjson"), "pyarrow": version("pyarrow")}
    writers = [sink_settings(pipeline, sink.name) for sink in graph.sinks]
    if any(w.name == "webdataset" and w.output_format == "tar.gz" for w in writers):
        used["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    if any(w.output_format == "tar.zst" or w.compression == "zstd" for w in writers):
        used["zstd"] = version("backports-zstd") if sys.version_info < (3, 14) else "stdlib"
    return used | graph.libraries()


def check_unchanged(settings: Settings, plan: Plan, *, mended: Callable[[], bool] = lambda: False) -> None:
    """Refuse a config or a byte-making library that differs from the plan's, with the difference. Where `mended()`, which is
    asked if need be, code of the user's own may differ."""
    recorded, graph = plan.generations[-1].libraries, check_config(settings, plan)
    libraries = libraries_now(settings, graph)
    if libraries != recorded and not (libraries == _but_code(recorded, libraries, graph.code()) and mended()):
        raise ConflictError(
            "libraries that make bytes of the shards differ from those of the first run:\n"
            + _diff(recorded, libraries),
            hint=f"install the first run's versions, or {NEXT_STEP}",
        )


def check_config(settings: Settings, plan: Plan) -> Graph:
    """The graph of the settings. Refuses those that differ from the plan's in a value that makes bytes, with the difference."""
    graph = build(settings.pipeline, check=True)
    now = changed_values(plan.first.config, _writing(settings, graph))
    if now is not None:
        raise ConflictError(
            "the config differs from the one this destination was made with:\n" + _diff(plan.first.config, now),
            hint=NEXT_STEP,
        )
    return graph


def _but_code(recorded: Mapping[str, str], now: Mapping[str, str], code: dict[str, str]) -> dict[str, str]:
    """What is recorded, with the user's own code as it is now; a digest of what is gone was of code too."""
    kept = {name: told for name, told in recorded.items() if name in now or not told.startswith("sha256:")}
    return {name: told for name, told in kept.items() if name not in code} | code


def _diff(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    import yaml

    lines = difflib.unified_diff(
        yaml.safe_dump(dict(before)).splitlines(),
        yaml.safe_dump(dict(now)).splitlines(),
        "recorded",
        "now",
        lineterm="",
        n=0,
    )
    return "\n".join(line for line in lines if not line.startswith("@@"))


def grown_generation(settings: Settings, stream: SampleStream, plan: Plan) -> Generation | None:
    """Compare the source with the plan: None when it is the same, a generation of what is new when it only grew.

    Raises ConflictError that names every file that changed or vanished.
    """
    known = plan.latest
    if all(_is_pinned(f) for f in known.values()) and known:
        return None
    listing = stream.listing()
    now = {public_uri(f.uri): f for f in listing.files}
    problems = [f"{uri}: gone" for uri in known if uri not in now]
    longer: dict[str, SourceFile] = {}
    for uri, file in known.items():
        if uri not in now:
            continue
        recorded = file.model_copy(update={"uri": now[uri].uri})
        change = stream.transport.changed(recorded)
        if change is None:
            continue
        grown = stream.transport.grew(recorded)
        if grown is None:
            problems.append(f"{uri}: {change}")
        else:
            longer[uri] = grown
    if problems:
        shown = "\n".join(problems[:10]) + (f"\n… and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ConflictError(f"the source differs from the one this destination was made from:\n{shown}", hint=NEXT_STEP)
    fresh = [longer.get(uri, file) for uri, file in now.items() if uri not in known or uri in longer]
    if not fresh or settings.pipeline.limit is not None:
        return None
    if _source_order(build(settings.pipeline)) is not None:
        raise ConflictError(
            "the source has grown, but this destination holds it shuffled as a whole: new samples could only come last",
            hint=NEXT_STEP,
        )
    start = {longer[uri].uri: known[uri].size or 0 for uri in longer}
    return _next_generation(stream, plan, Listing(listing.format, tuple(fresh)), start)


def _next_generation(stream: SampleStream, plan: Plan, listing: Listing, start: dict[str, int]) -> Generation | None:
    partitions = stream.partitions(listing, first_file=len(plan.files), start=start)
    if not partitions:
        return None
    first = plan.first
    if listing.format != first.format:
        raise ConflictError(
            f"the source's new files are {listing.format}, the recorded ones {first.format}", hint=NEXT_STEP
        )
    return Generation(
        number=len(plan.generations),
        kind="grown",
        config_hash=first.config_hash,
        config=first.config,
        libraries=plan.generations[-1].libraries,
        format=first.format,
        counted=first.counted,
        key_digits=first.key_digits,
        shard_digits=first.shard_digits,
        files=_public_files(listing),
        partitions=tuple(_behind(plan, partitions)),
        fields=first.fields,
        writer=first.writer,
        writers=first.writers,
    )


def _behind(plan: Plan, partitions: Sequence[Partition]) -> list[Partition]:
    """Renumber partitions so that they come after all that the plan has."""
    number = len(plan.partitions)
    if not plan.first.counted:
        return [
            p.model_copy(
                update={"index": number + i, "key_prefix": f"{number + i:05d}-", "shard_prefix": f"{number + i:05d}-"}
            )
            for i, p in enumerate(partitions)
        ]
    per_shard = plan.first.config["samples_per_shard"]
    samples = sum(p.samples or 0 for p in plan.partitions)
    shards = max((p.first_shard + -(-(p.samples or 0) // per_shard) for p in plan.partitions), default=0)
    return [
        _prefixed(
            p.model_copy(
                update={
                    "index": number + i,
                    "first_index": samples + p.first_index,
                    "first_shard": shards + p.first_shard,
                }
            )
        )
        for i, p in enumerate(partitions)
    ]


def files_to_read(part: Part, stream: SampleStream) -> dict[int, SourceFile]:
    """By number in the plan's table, the files of one partition. Signatures of web addresses are not kept in the plan;
    they come from the config.
    """
    signed = {public_uri(uri): uri for uri in stream.named_uris()}
    return {n: f.model_copy(update={"uri": signed[f.uri]}) if f.uri in signed else f for n, f in part.files.items()}


def _public_files(listing: Listing) -> tuple[SourceFile, ...]:
    """The files as they are recorded: the transport has refused two that only a secret tells apart."""
    return tuple(f.model_copy(update={"uri": public_uri(f.uri)}) for f in listing.files)


def _is_pinned(file: SourceFile) -> bool:
    return file.uri.startswith("hf://") and "@" in file.uri
