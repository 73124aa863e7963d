"""The shape of a pipeline, from its settings alone."""

from data_bridge.config import PipelineSettings
from data_bridge.io.sources.registry import detect
from data_bridge.model.outline import Box
from data_bridge.pipelines.sinks import sink_settings
from data_bridge.runtime.outline import outline
from data_bridge.stages.build import build


def shape(settings: PipelineSettings) -> tuple[Box, ...]:
    """Source, stages and writers as they are wired. Reads nothing and starts nothing; raises ConfigError as a plan
    would for stages that do not go together."""
    uris = (settings.input_uri,) if isinstance(settings.input_uri, str) else settings.input_uri
    source = detect(uris) if settings.input_format == "auto" else settings.input_format
    graph = build(settings)
    return outline(graph, source, {sink.name: sink_settings(settings, sink.name).name for sink in graph.sinks})
