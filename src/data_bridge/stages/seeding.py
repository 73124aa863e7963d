"""Chance that is the same in every run: numbers made of a seed and of where a sample stands, or of a value in it.

What is computed here decides which samples a dataset holds: it may never change.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_bridge.rows.values import dump

GOLDEN = 0x9E3779B97F4A7C15
SIZE = 2**64
"""Every number is one of so many, all equally likely."""


def of_indices(salt: str, seed: int, prefix: str, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each source index (uint64, shape (n,)): of the salt, the seed and the index in its key space alone."""
    start = np.uint64(int.from_bytes(_digest(salt, seed, prefix.encode())))
    with np.errstate(over="ignore"):  # at the place in its sequence that the index names
        return splitmix64(start + (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))


def splitmix64(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What SplitMix64 (Steele, Lea, Flood 2014) makes of each state of its sequence, which goes on by `GOLDEN`."""
    with np.errstate(over="ignore"):
        mixed = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return found


def of_value(salt: str, seed: int, value: Any) -> int:
    """The number of a value: equal values have equal ones, wherever they stand. BadRow for what has no JSON form."""
    return int.from_bytes(_digest(salt, seed, dump(value)))


def _digest(salt: str, seed: int, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8, person=salt.encode(), salt=seed.to_bytes(8, "big")).digest()
