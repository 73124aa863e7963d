"""A wired graph as its outline."""

from collections.abc import Mapping

from data_bridge.model.outline import Box
from data_bridge.runtime.graph import SOURCE, Graph

WRITER = "writer"


def writer_part(sink: str) -> str:
    """The name of a writer's part: of several, each has its own behind it. No stage can have such a name but the first."""
    return f"{WRITER} {sink}" if sink else WRITER


def outline(graph: Graph, source: str, writers: Mapping[str, str]) -> tuple[Box, ...]:
    """Source, stages and writers; `source` and `writers` are formats, of writers by name."""
    alone = {node.outputs[0]: node.name for node in graph.every if len(node.outputs) == 1}
    return (
        Box(SOURCE, source, (), (SOURCE,)),
        *(
            Box(
                node.name,
                node.kind,
                tuple(alone.get(port, port) for port in node.inputs),
                tuple(alone.get(port, port) for port in node.outputs),
                node.enabled,
                node.names,
            )
            for node in graph.every
        ),
        *(Box(writer_part(s.name), writers[s.name], (alone.get(s.input, s.input),)) for s in graph.sinks),
    )
