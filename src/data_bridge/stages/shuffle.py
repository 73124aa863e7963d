"""`shuffle`: another order within blocks of the source."""

import numpy as np
from numpy.typing import NDArray

from data_bridge.runtime.stage import Fields, Result, Stage, StageBatch, StageOptions, option

_GOLDEN = 0x9E3779B97F4A7C15


class ShuffleOptions(StageOptions):
    window: int = option(10_000, gt=1, le=10_000_000, description="source samples that are shuffled together")
    seed: int = option(0, ge=0, lt=2**63, description="another seed is another order")


class Shuffle(Stage[ShuffleOptions]):
    """Shuffles fixed blocks of `window` source samples, counted from the start of a partition, each held in memory.

    Where a sample goes depends on the seed and its source index alone.
    """

    kind = "shuffle"
    Options = ShuffleOptions

    @property
    def block(self) -> int:
        return self.options.window

    def fields(self, fields: Fields) -> Fields:
        return fields

    def process(self, batch: StageBatch) -> Result:
        return batch.only(np.argsort(mixed(batch.indices, self.options.seed), kind="stable"))


def mixed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A hash of each number that looks random: SplitMix64 (Steele, Lea, Flood 2014), uint64 of shape (n,)."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) + np.uint64((seed * 2 + 1) * _GOLDEN & 2**64 - 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
