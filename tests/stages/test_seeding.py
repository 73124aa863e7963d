from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.rows.decoding import BadRow
from data_bridge.stages import seeding

WORD = 2**64 - 1


def splitmix64(start: int, place: int) -> int:
    """The published generator, in whole numbers of Python."""
    z = (start + (place + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.text("0123456789-", max_size=8), st.lists(st.integers(0, 2**62), max_size=5))
def test_the_number_of_an_index_is_that_of_the_generator_at_its_place(
    seed: int, prefix: str, indices: list[int]
) -> None:
    digest = blake2b(prefix.encode(), digest_size=8, person=b"sample", salt=seed.to_bytes(8, "big")).digest()

    found = seeding.of_indices("sample", seed, prefix, np.array(indices, dtype=np.int64))

    assert found.tolist() == [splitmix64(int.from_bytes(digest), index) for index in indices]


def test_numbers_never_change_from_one_version_to_the_next() -> None:
    assert seeding.of_indices("split", 0, "", np.arange(2, dtype=np.int64)).tolist() == [
        17736920709196782615,
        8373726657120495372,
    ]
    assert seeding.of_value("split", 1, "user-1") == 9115321383137167675
    assert seeding.of_value("split", 1, 7) == 18277351875403841586


def test_numbers_are_spread_evenly() -> None:
    found = seeding.of_indices("split", 0, "", np.arange(64_000, dtype=np.int64))

    counts = np.bincount((found >> np.uint64(58)).astype(np.int64), minlength=64)

    assert 850 < counts.min() < counts.max() < 1150


def test_what_has_no_json_form_has_no_number() -> None:
    with pytest.raises(BadRow):
        seeding.of_value("split", 0, object())
