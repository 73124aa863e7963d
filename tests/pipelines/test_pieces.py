"""Pieces are all of the samples behind the cursor, in order, and no larger than asked for."""

import numpy as np
import pytest

from data_bridge.model.batch import Batch, DictRows, RowFailure
from data_bridge.model.shards import Cursor
from data_bridge.pipelines.pieces import Pieces


class Quiet:
    """A control nobody uses."""

    stopping = False
    cores = 1

    def emit(self, event: object) -> None: ...

    def beat(self) -> None: ...


def batches() -> list[Batch]:
    first = Batch(0, DictRows([{"n": n} for n in range(9)]), (RowFailure(3, "bad"),))
    return [first, Batch(1, DictRows([{"n": 0}])), Batch(2, DictRows([{"n": n} for n in range(5)]))]


@pytest.mark.parametrize("most", [None, 1, 3, 4, 100])
@pytest.mark.parametrize(("index", "skip"), [(0, 0), (4, 4), (9, 9)])
@pytest.mark.parametrize("limit", [None, 12])
def test_pieces_hold_every_sample_once_and_at_most_so_many(
    most: int | None, index: int, skip: int, limit: int | None
) -> None:
    found = Pieces(iter(batches()), Cursor(index=index, skip=skip), limit, 0, Quiet(), most)  # type: ignore[arg-type]
    spans = [(piece.index + piece.skip, piece.index + piece.end) for piece in found]

    samples = np.concatenate([np.arange(*span) for span in spans])
    assert samples.tolist() == list(range(index, limit or 16))
    assert found.end == (limit or 16)
    assert all(end - start <= (most or 16) for start, end in spans)
