"""How much of what waits is held at a time."""

import pytest

from data_bridge.pipelines.waiting import MOST_WAITING, most_waiting


@pytest.mark.parametrize(
    ("row_bytes", "total", "most"),
    [
        (0, 1, MOST_WAITING),
        (1000, 512_000_000, MOST_WAITING),
        (50_000_000, 512_000_000, 10),
        (1 << 30, 512_000_000, 1),
    ],
)
def test_a_piece_has_as_many_rows_as_fit_and_at_least_one(row_bytes: int, total: int, most: int) -> None:
    assert most_waiting(row_bytes, total) == most
