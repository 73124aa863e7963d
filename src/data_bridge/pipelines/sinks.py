"""The writers of a pipeline: what each of them gets, and what the plan froze for it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from data_bridge.config import FOREIGN, PipelineSettings
from data_bridge.model.plan import Generation
from data_bridge.pipelines.notes import Columns, columns_of
from data_bridge.pipelines.writer import ShardWriter
from data_bridge.pipelines.writers import writer_class
from data_bridge.runtime.graph import Graph, Sink


class SinkPlan(msgspec.Struct, frozen=True):
    """A writer as the plan has it. `name` is "" for the only one, else also the folder of its shards."""

    name: str
    port: str
    settings: PipelineSettings
    frozen: Mapping[str, Any]
    counted: bool
    """Whether shard k holds the source indices [k·n, (k+1)·n)."""
    multiplies: bool
    """Whether several of its samples may come from one of the source."""
    block: int
    """Source samples that come together in another order; 0 = all come in source order."""
    waits: bool
    """Whether its samples pass stages whose rows go through threads."""
    remembers: bool
    """Whether what becomes of a sample depends on those before it."""
    row_bytes: int
    """What those may add to one row at most; 0 = not much."""
    noted: Columns | None
    """The reports that are kept with its records; None for all writers but the first."""

    def writer(self) -> ShardWriter:
        return writer_class(self.settings.name)(self.settings, self.frozen)

    def key(self, name: str) -> str:
        """Where a shard is at the destination."""
        return f"{self.name}/{name}" if self.name else name


def sink_settings(settings: PipelineSettings, name: str) -> PipelineSettings:
    """The pipeline's settings as one of its writers has them."""
    own = next((w for w in settings.writers if w.name == name), None)
    if own is None and len(settings.writers) == 1:
        own = settings.writers[0]
    if own is None:
        return settings
    given = own.model_dump(exclude={"name", "input", "format"}, exclude_none=True)
    if own.format is not None:
        given["name"] = own.format
    others = {*given, *FOREIGN[own.format or settings.name], "writers"}
    kept = {k: getattr(settings, k) for k in settings.model_fields_set - others}
    return PipelineSettings.model_validate({**kept, **given})


def sink_plans(settings: PipelineSettings, graph: Graph, generation: Generation) -> list[SinkPlan]:
    """All writers of a pipeline with what the plan froze for them."""
    return [
        SinkPlan(
            sink.name,
            sink.input,
            sink_settings(settings, sink.name),
            generation.frozen(sink.name),
            _counted(settings, graph, sink) and generation.counted,
            graph.multiplies(sink.input),
            graph.block_before(sink.input),
            graph.waits,
            graph.remembers,
            sum(node.stage.row_bytes for node in graph.nodes if node.waits),
            columns_of(graph) if number == 0 else None,
        )
        for number, sink in enumerate(graph.sinks)
    ]


def all_counted(settings: PipelineSettings, graph: Graph) -> bool:
    """Whether every shard of a source whose samples are counted is one range of indices."""
    return all(_counted(settings, graph, sink) for sink in graph.sinks)


def _counted(settings: PipelineSettings, graph: Graph, sink: Sink) -> bool:
    # partitions end at multiples of the pipeline's own samples_per_shard
    same = sink_settings(settings, sink.name).samples_per_shard == settings.samples_per_shard
    return same and graph.keeps_counts(sink.input)
