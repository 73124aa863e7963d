"""What lies in a box comes out as it went in, and its memory is given back."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_bridge.runtime.arena import KEPT_BYTES, Arena


def test_values_with_buffers_of_any_size_come_back() -> None:
    arena = Arena(2, 8 << 20)
    value = {
        "text": "wört",
        "small": np.arange(3),
        "large": np.arange(200_000),
        "bytes": b"x" * 3_000_000,
        "none": None,
    }

    spans = arena.put(1, value)
    assert spans is not None
    behind = arena.put(1, [np.arange(5)], spans[-1][1])
    assert behind is not None
    found = arena.get(1, spans)

    assert found["bytes"] == value["bytes"]
    assert (found["large"] == value["large"]).all()
    assert (found["small"] == value["small"]).all()
    assert arena.get(1, behind)[0].tolist() == [0, 1, 2, 3, 4]
    assert not found["large"].flags.owndata


@pytest.mark.parametrize("value", [b"x" * 5_000_000, np.zeros(600_000)])
def test_what_is_larger_than_a_box_is_refused(value: object) -> None:
    arena = Arena(2, 4 << 20)
    there = arena.put(1, b"there")
    assert there is not None

    assert arena.put(0, value) is None
    assert arena.get(1, there) == b"there"


def test_a_leased_box_is_free_when_the_last_view_of_it_is_gone() -> None:
    arena = Arena(1, 1 << 20)
    box = arena.take()
    assert box is not None
    spans = arena.put(box, {"kept": np.arange(100), "other": np.arange(7)})
    assert spans is not None

    leased = arena.lease(box, spans, arena.give_back)
    kept = memoryview(leased["kept"])[10:20]
    del leased
    assert arena.take() is None
    del kept

    assert arena.take() == box


def test_a_box_that_was_filled_keeps_little_memory() -> None:
    arena = Arena(2, 32 << 20)
    box = arena.take()
    assert box is not None
    arena.put(box, np.ones(3_000_000))
    full = os.fstat(arena._fd).st_blocks * 512
    arena.give_back(box)

    assert full >= 24_000_000
    assert os.fstat(arena._fd).st_blocks * 512 <= KEPT_BYTES


def test_an_arena_without_views_takes_no_descriptor() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    arena = Arena(4, 1 << 20)
    arena.put(0, np.ones(1000))
    arena.close()
    del arena

    assert descriptors() == before
