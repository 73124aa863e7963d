"""Stages that wait more than they compute: threads of the slot take pieces through them, ahead of everything else."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby

from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Packer, Packing, Piece
from data_bridge.runtime.flow import Flow, Transit
from data_bridge.runtime.threaded import Threaded

MOST_WAITING = 64
"""Samples in a piece at most: a line with a URL becomes a file, and all files of a piece are held at once."""


@dataclass(slots=True)
class _Underway:
    piece: Piece
    transit: Transit


class Waiting:
    """Takes pieces to behind the last stage that waits. What comes before it is done here, in the slot, too."""

    def __init__(self, packing: Packing, control: Control) -> None:
        self._packer: Packer = packing.packer()
        self._control = control

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
                node.window,
                alive=self._control.beat,
                stopped=lambda: self._control.stopping,
            ) as threads,
            closing(threads.map(arriving(), lambda packet: flow.given(packet.transit))) as landed,
        ):
            for found in landed:
                flow.land(found.packet.transit, found.result, found.busy_s)
                yield found.packet
