"""Stages that wait more than they compute: threads of the slot take pieces through them, ahead of everything else."""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from data_bridge.errors import Interrupted
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Packer, Packing, Piece
from data_bridge.runtime.flow import Flow, Transit
from data_bridge.runtime.threaded import Threaded

MOST_WAITING = 64
"""Samples in a piece at most: a line with a URL becomes a file, and all files of a piece are held at once."""


def most_waiting(row_bytes: int, total: int) -> int:
    """Samples in a piece at most where a stage may add `row_bytes` to each: a piece must fit into `total` bytes."""
    return min(MOST_WAITING, max(1, total // row_bytes)) if row_bytes else MOST_WAITING


@dataclass(slots=True)
class _Underway:
    piece: Piece
    transit: Transit


class Waiting:
    """Takes pieces to behind the last stage that waits. What comes before it is done here, in the slot, too.

    Once rows of `total` bytes have come in, none but those of the first piece are begun. `split` pieces are what would
    be one, had it not to fit into memory: so many times as many are on their way.
    """

    def __init__(self, packing: Packing, control: Control, total: int, split: int = 1) -> None:
        self._packer: Packer = packing.packer()
        self._control = control
        self._total = total
        self._split = split
        self._active: list[Threaded[_Underway]] = []
        self._halted = False
        self._changing = threading.Lock()

    def halt(self) -> None:
        """Wait for nobody any more: who draws from `through` gets Interrupted soon. From any thread, and for good."""
        with self._changing:
            self._halted = True
            active = [*self._active]
        for threads in active:
            threads.close()

    def close(self) -> None:
        """Let go of what the stages opened."""
        self._packer.close()

    def through(self, pieces: Iterator[Piece]) -> Generator[Piece]:
        """The pieces, in order. Rows of several of them are in the threads at a time."""
        for changes, alike in groupby(pieces, key=lambda piece: piece.changes):
            flow = self._packer.flow(changes)
            packets: Iterator[_Underway] = (_Underway(piece, self._packer.begin(piece)) for piece in alike)
            for place in flow.waiting:
                packets = self._past(flow, place, packets)
            for packet in packets:
                yield replace(packet.piece, transit=packet.transit)

    def _past(self, flow: Flow, place: int, packets: Iterable[_Underway]) -> Generator[_Underway]:
        node = flow.node(place)

        def arriving() -> Iterator[_Underway]:
            for packet in packets:
                wanted = self._control.threads(node.name) or node.threads
                if wanted != threads.workers:
                    threads.workers = wanted
                flow.advance(packet.transit, place)
                yield packet

        with (
            Threaded[_Underway](
                node.stage,
                node.threads,
                node.window * self._split,
                total=self._total if node.stage.row_bytes else None,
                alive=self._control.beat,
                stopped=lambda: self._control.stopping,
            ) as threads,
            self._haltable(threads),
            closing(threads.map(arriving(), lambda packet: flow.given(packet.transit))) as landed,
        ):
            for found in landed:
                flow.land(found.packet.transit, found.result, found.busy_s)
                yield found.packet

    @contextmanager
    def _haltable(self, threads: Threaded[_Underway]) -> Generator[None]:
        with self._changing:
            if self._halted:
                raise Interrupted("the stage was stopped while samples were on their way")
            self._active.append(threads)
        try:
            yield
        finally:
            with self._changing:
                self._active.remove(threads)
