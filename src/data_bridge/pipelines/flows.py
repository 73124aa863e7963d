"""The stages of a config as live changes have them, made where they are needed."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from data_bridge.config import PipelineSettings, with_changes
from data_bridge.model.changes import Change
from data_bridge.runtime.commands import told
from data_bridge.runtime.flow import Flow
from data_bridge.runtime.graph import Graph, Node
from data_bridge.runtime.stage import StatefulStage, Surveying
from data_bridge.stages.build import build

Prepare = Callable[[Node, tuple[Change, ...]], None]
"""Readies a stage that was just made, for a packet with these changes."""


def _told(node: Node, changes: tuple[Change, ...]) -> None:
    if node.enabled and not isinstance(node.stage, StatefulStage):  # whoever gives those their samples tells them
        told(node.stage, node.name, changes)


class Flows:
    """The stages, all on the way to writers or a `part` of them: made when the first packet comes, and again when a packet has others."""

    def __init__(
        self,
        settings: PipelineSettings,
        prefix: str,
        marked: Mapping[str, NDArray[np.int64]],
        *,
        keep_raw: bool = False,
        part: Callable[[Graph], Graph] = lambda graph: graph,
    ) -> None:
        self._settings = settings
        self._prefix = prefix
        self._marked = marked
        self._keep_raw = keep_raw
        self._part = part
        self._changes: tuple[Change, ...] = ()
        self._flow: Flow | None = None

    def __call__(self, changes: tuple[Change, ...], prepare: Prepare = _told) -> Flow:
        if self._flow is not None and changes != self._changes:
            self._flow.close()
            self._flow = None
        if self._flow is None:
            graph = self._part(build(with_changes(self._settings, changes)))
            for node in graph.nodes:
                if isinstance(node.stage, Surveying):
                    node.stage.marked = self._marked.get(node.name)
                prepare(node, changes)
            self._flow, self._changes = Flow(graph, self._prefix, keep_raw=self._keep_raw), changes
            self._flow.setup()
        return self._flow

    def close(self) -> None:
        """Let go of what the stages opened."""
        if self._flow is not None:
            self._flow.close()
            self._flow = None
