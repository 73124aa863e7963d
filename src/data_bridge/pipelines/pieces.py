"""What is behind a partition's cursor, as the packets that go through the graph."""

from collections.abc import Iterator
from itertools import pairwise

from data_bridge.model.batch import Batch
from data_bridge.model.shards import Cursor
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Piece


class Pieces(Iterator[Piece]):
    """What is behind a cursor; a re-opened reader may cut its batches elsewhere than it did before.

    With `block`, each piece is one block of so many samples, counted from the partition's start; without, it has at most
    `most` samples. `end` is the number of samples of the partition once all were seen.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        start: Cursor,
        limit: int | None,
        block: int,
        control: Control,
        most: int | None = None,
    ) -> None:
        self.end: int | None = None
        self._most = most
        plain = self._plain(batches, start, limit, control)
        self._found = self._blocks(plain, block) if block else plain

    def __next__(self) -> Piece:
        return next(self._found)

    def _plain(self, batches: Iterator[Batch], start: Cursor, limit: int | None, control: Control) -> Iterator[Piece]:
        index, skip = start.index - start.skip, start.skip
        for batch in batches:
            end = batch.count if limit is None else min(batch.count, limit - index)
            for at in range(skip, end, self._most or max(end, 1)):
                yield Piece(batch, index, at, min(end, at + self._most) if self._most else end)
            control.beat()
            index, skip = index + end, max(0, skip - end)
            if limit == index:
                break
        self.end = index

    def _blocks(self, pieces: Iterator[Piece], block: int) -> Iterator[Piece]:
        waiting: list[Piece] = []
        for given in pieces:
            piece = given
            while True:
                at = piece.index + piece.skip
                edge = (at // block + 1) * block
                if piece.index + piece.end < edge:
                    waiting.append(piece)
                    break
                cut = edge - piece.index
                yield _one([*waiting, Piece(piece.batch, piece.index, piece.skip, cut)])
                waiting = []
                if cut == piece.end:
                    break
                piece = Piece(piece.batch, piece.index, cut, piece.end)
        if waiting and self.end is not None:
            yield _one(waiting)


def _one(pieces: list[Piece]) -> Piece:
    """Pieces that follow one another as one, which stands where the first does."""
    first, last = pieces[0], pieces[-1]
    end = last.index + last.end - first.index
    more = tuple(piece.batch for before, piece in pairwise(pieces) if piece.batch is not before.batch)
    return Piece(first.batch, first.index, first.skip, end, more)
