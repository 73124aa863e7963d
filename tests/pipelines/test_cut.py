"""Cutting against a naive reference that takes one sample at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.pipelines.cut import Progress, ShardRules, next_cut

Sample = tuple[int, int]
"""Source index and payload bytes of a good sample."""


def reference(rules: ShardRules, samples: list[Sample], total: int) -> list[list[int]]:
    """Shards as lists of source indices, one sample at a time."""
    shards: list[list[int]] = []
    open_shard: list[int] = []
    payload, start = 0, 0
    sizes = dict(samples)
    for index in range(total):
        end = (
            (start // rules.samples_per_shard + 1) * rules.samples_per_shard if rules.counted else start + rules.max_lag
        )
        if index == end:
            shards.append(open_shard)
            open_shard, payload, start = [], 0, index
        if index not in sizes:
            continue
        size = sizes[index]
        if open_shard and rules.max_bytes is not None and payload + size > rules.max_bytes:
            shards.append(open_shard)
            start = open_shard[-1] + 1
            open_shard, payload = [], 0
        open_shard.append(index)
        payload += size
        if not rules.counted and len(open_shard) == rules.samples_per_shard:
            shards.append(open_shard)
            open_shard, payload, start = [], 0, index + 1
    return [s for s in [*shards, open_shard] if s]


def by_batches(rules: ShardRules, samples: list[Sample], total: int, cuts: list[int]) -> list[list[int]]:
    """The same through `next_cut`, with the source in batches that end at `cuts`."""
    shards: list[list[int]] = [[]]
    shard, last = Progress(), 0
    first = 0
    for stop in [*sorted({c for c in cuts if 0 < c < total}), total]:
        here = [s for s in samples if first <= s[0] < stop]
        offsets = np.array([s[0] - first for s in here], dtype=np.int64)
        ends = np.cumsum(np.array([s[1] for s in here], dtype=np.int64))
        lo, used, end = 0, 0, stop - first
        while used < end:
            cut = next_cut(rules, shard, first=first, end=end, offsets=offsets, ends=ends, lo=lo)
            shards[-1] += [s[0] for s in here[lo : cut.hi]]
            if cut.hi > lo:
                shard.written += cut.hi - lo
                shard.payload += sum(s[1] for s in here[lo : cut.hi])
                last = here[cut.hi - 1][0] + 1
            lo = cut.hi
            used = max(used, cut.used)
            if cut.closes:
                shards.append([])
                shard = Progress(start=last if cut.closes == "full" else first + used)
        first = stop
    return [s for s in shards if s]


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=60),
    st.lists(st.integers(1, 60), max_size=8),
    st.integers(1, 10),
    st.one_of(st.none(), st.integers(10, 100)),
    st.integers(1, 30),
    st.booleans(),
)
def test_shards_do_not_depend_on_where_batches_end(
    sizes: list[int | None], cuts: list[int], per_shard: int, max_bytes: int | None, lag: int, counted: bool
) -> None:
    rules = ShardRules(per_shard, max_bytes, lag, counted)
    samples = [(index, size) for index, size in enumerate(sizes) if size is not None]

    assert by_batches(rules, samples, len(sizes), cuts) == reference(rules, samples, len(sizes))


def test_a_sample_larger_than_the_limit_gets_a_shard_of_its_own() -> None:
    rules = ShardRules(10, 100, 640, counted=False)

    assert by_batches(rules, [(0, 50), (1, 500), (2, 50)], 3, []) == [[0], [1], [2]]


def test_counted_shards_hold_the_indices_of_their_number_less_failures() -> None:
    rules = ShardRules(4, None, 256, counted=True)

    assert by_batches(rules, [(i, 1) for i in (0, 2, 3, 5, 9)], 10, [3]) == [[0, 2, 3], [5], [9]]
