"""`shuffle`: another order within blocks of the source."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_bridge.model.metrics import Count, Gauge, Metric
from data_bridge.runtime.stage import Fields, Result, Stage, StageBatch, StageOptions, option
from data_bridge.stages import seeding


class ShuffleOptions(StageOptions):
    window: int = option(10_000, gt=1, le=10_000_000, description="source samples that are shuffled together")
    scope: Literal["partition", "dataset"] = option(
        "partition",
        description="`dataset`: row groups (or files) of the whole source are also read in another order, so that a sample may land anywhere",
    )
    seed: int = option(0, ge=0, lt=2**63, description="another seed is another order")


class Shuffle(Stage[ShuffleOptions]):
    """Shuffles fixed blocks of `window` source samples, counted from the start of a partition, each held in memory.

    Where a sample goes depends on the seed and its source index alone.

    With `scope: dataset` the plan first puts all row groups of all files (of plain files, each file) in an order of the
    seed, and partitions are cut from that; source indices then count in that order. A row group is still read whole and
    about once. Samples of one row group stay close to one another (within `window`), so this is no draw among all orders:
    make row groups much smaller than `window`. Needs a source whose rows are counted; one that grows is refused.
    """

    kind = "shuffle"
    Options = ShuffleOptions
    _samples = 0
    _current = 0

    @property
    def block(self) -> int:
        return self.options.window

    def source_order(self, runs: int) -> NDArray[np.int64] | None:
        if self.options.scope == "partition":
            return None
        chance = seeding.of_indices("shuffle", self.options.seed, "", np.arange(runs, dtype=np.int64))
        return np.argsort(chance, kind="stable")

    def fields(self, fields: Fields) -> Fields:
        return fields

    def flush_metrics(self) -> Sequence[Metric]:
        """The fill of the last window, and all samples until now (`samples_total`)."""
        samples, self._samples = self._samples, 0
        return Gauge("window_current", self._current, self.options.window), Count("samples", samples)

    def process(self, batch: StageBatch) -> Result:
        self._current = len(batch)
        self._samples += len(batch)
        return batch.only(np.argsort(mixed(batch.indices, self.options.seed), kind="stable"))


def mixed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A hash of each number that looks random, uint64 of shape (n,)."""
    with np.errstate(over="ignore"):
        return seeding.splitmix64(numbers.astype(np.uint64) + np.uint64((seed * 2 + 1) * seeding.GOLDEN % seeding.SIZE))
