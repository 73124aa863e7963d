"""Stages that lead to no writer, while a partition is in work: each branch in a thread of the slot, beside everything else."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from data_bridge.config import PipelineSettings, stages_folder
from data_bridge.events import Notice
from data_bridge.model.changes import Change
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.flows import Flows
from data_bridge.pipelines.metering import Metering
from data_bridge.pipelines.packing import Packed, Piece
from data_bridge.rows.picking import size_of
from data_bridge.runtime.flow import Lot
from data_bridge.runtime.graph import Branch, Graph
from data_bridge.runtime.pool import Pool
from data_bridge.runtime.side import Side
from data_bridge.runtime.stage import SideStage, reason
from data_bridge.stages.build import build

FEW = 64
"""Samples that a branch looks at first; more at a time where that is quick."""
LONG_S = 0.25

Offered = tuple[Lot, tuple[Change, ...]]


class Beside:
    """Gives every branch what it looks at, in order. Nothing that happens there changes a byte of the dataset or ends the
    run. `folder` is where each stage may have one of its own; `pool` gives a pool by its name."""

    def __init__(
        self,
        settings: PipelineSettings,
        prefix: str,
        control: Control,
        metering: Metering,
        *,
        pool: Callable[[str], Pool],
        folder: Path | None,
    ) -> None:
        self._control = control
        self._sides: list[Side[Offered]] = []
        for number, branch in enumerate(build(settings).branches):
            flows = Flows(settings, prefix, {}, part=partial(_part, number, folder))
            side = Side[Offered](
                branch.name,
                partial(_look, flows, branch, metering),
                flows.close,
                pool=pool(branch.pool),
                capacity=branch.capacity,
                overflow=branch.overflow,
                alive=control.beat,
                stopped=lambda: control.stopping,
                tell=lambda text: control.emit(Notice(text)),
                hang_s=settings.hang_timeout_s,
            )
            metering.with_queue(branch.name, side.queue)
            self._sides.append(side)

    def __enter__(self) -> "Beside":
        for side in self._sides:
            side.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for side in self._sides:
            ended = side.cancel() if kind or self._control.stopping else side.close()
            if not ended:
                self._control.emit(Notice(f"{side.name} is still at work and is left to it: nothing depends on it"))
            elif side.error is not None:
                self._control.emit(
                    Notice(f"{side.name} ended early, which changes nothing in the dataset: {reason(side.error)}")
                )

    def offer(self, piece: Piece, packed: Packed) -> None:
        """What of a piece the branches look at."""
        source = piece.index + piece.skip, piece.index + piece.end
        for side, lot in zip(self._sides, packed.beside, strict=True):
            side.offer((lot.kept(), piece.changes), source, len(lot), size_of(lot.rows))


def _part(number: int, folder: Path | None, graph: Graph) -> Graph:
    """One branch alone, with a place for its files."""
    branch = graph.branches[number]
    for node in branch.nodes:
        if isinstance(node.stage, SideStage) and folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)  # samples are nobody else's business
            node.stage.folder = folder / node.name
    return Graph(branch.nodes, ())


def _look(flows: Flows, branch: Branch, metering: Metering, offered: Offered) -> Iterator[None]:
    """In parts that are the smaller the longer one takes: each is a sign that nothing hangs."""
    lot, changes = offered
    names = {node.name for node in branch.nodes}
    flow = flows(tuple(change for change in changes if change.stage in names))  # others must not have it made again
    size, at = FEW, 0
    while at < len(lot) or at == 0:
        end = lot.edge(at + size)
        began_s = time.monotonic()
        metering.packed(flow.rest(flow.begin(lot.slice(at, end), port=branch.port)).work)
        size = FEW if time.monotonic() - began_s > LONG_S else size * 4
        at = max(end, 1)
        yield


def looking_folder(run: str) -> Path | None:
    """Where stages leave what is for a person, on this machine; None where nothing is kept of the run: it is only
    measured, or its user has no home."""
    with suppress(RuntimeError):
        folder = stages_folder(run)
        return folder if folder.parent.is_dir() else None
    return None
