"""Where one shard ends and the next begins: a pure function of source positions and sizes."""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray


class ShardRules(msgspec.Struct, frozen=True):
    """What closes a shard: the end of its index range, its number of samples, its bytes, or lag."""

    samples_per_shard: int
    max_bytes: int | None
    max_lag: int
    counted: bool


class Progress(msgspec.Struct):
    """The open shard so far. Indices count source samples from the partition's start, failed ones included."""

    start: int = 0
    """Where its range begins: one past the range of the shard before it."""
    written: int = 0
    payload: int = 0


class Cut(msgspec.Struct, frozen=True):
    """What to do next with a batch: write samples up to `hi`, then the source is used up to offset `used`."""

    hi: int
    used: int
    closes: Literal["", "full", "range"]
    """`full`: by count or size, the range ends behind the last sample written; `range`: the index range is over."""


def next_cut(
    rules: ShardRules,
    shard: Progress,
    *,
    first: int,
    end: int,
    offsets: NDArray[np.int64],
    ends: NDArray[np.int64],
    lo: int,
) -> Cut:
    """How far the open shard may take a batch whose samples [0, lo) are written already.

    `first` is the index of the batch's offset 0, `end` the offset behind its last sample; `offsets[i]` and `ends[i]`
    are offset and cumulated bytes of good sample i.
    """
    boundary = _range_end(rules, shard) - first
    stop = min(end, boundary)
    hi = int(np.searchsorted(offsets, stop))
    if not rules.counted:
        hi = min(hi, lo + rules.samples_per_shard - shard.written)
    fits = _fitting(rules, shard, ends, lo)
    if fits < hi:
        used = int(offsets[fits - 1]) + 1 if fits > lo else -1
        return Cut(fits, used, "full")
    if not rules.counted and hi > lo and shard.written + hi - lo == rules.samples_per_shard:
        return Cut(hi, int(offsets[hi - 1]) + 1, "full")
    return Cut(hi, stop, "range" if stop == boundary else "")


def _range_end(rules: ShardRules, shard: Progress) -> int:
    if rules.counted:
        return (shard.start // rules.samples_per_shard + 1) * rules.samples_per_shard
    return shard.start + rules.max_lag


def _fitting(rules: ShardRules, shard: Progress, ends: NDArray[np.int64], lo: int) -> int:
    """Number of the first sample that no longer fits; a sample larger than the limit gets a shard of its own."""
    if rules.max_bytes is None:
        return len(ends)
    before = int(ends[lo - 1]) if lo else 0
    fits = int(np.searchsorted(ends, before + rules.max_bytes - shard.payload, side="right"))
    return max(fits, lo + 1) if shard.written == 0 else max(fits, lo)
