"""Partitions cover every sample once, in order, and depend on source and config alone."""

from hypothesis import given
from hypothesis import strategies as st

from data_bridge.io.sources.partitioning import cut_partitions
from data_bridge.model.plan import Partition
from data_bridge.model.source import Extent


def rows(partitions: list[Partition]) -> list[tuple[int, int]]:
    return [(p.file, row) for part in partitions for p in part.pieces for row in range(p.start, p.end or 0)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 7), st.integers(1, 400))
def test_counted_partitions_hold_whole_shards_of_every_row_in_order(
    counts: list[int], per_shard: int, partition_bytes: int
) -> None:
    extents = [
        (file, Extent(start=0, end=n, samples=n, bytes=n * 10, divisible=True)) for file, n in enumerate(counts) if n
    ]

    partitions = cut_partitions(extents, counted=True, partition_bytes=partition_bytes, samples_per_shard=per_shard)

    assert rows(partitions) == [(file, row) for file, n in enumerate(counts) for row in range(n)]
    for part in partitions:
        assert part.first_index % per_shard == 0
        assert part.first_shard == part.first_index // per_shard
    assert sum(p.samples or 0 for p in partitions) == sum(counts)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(1, 300))
def test_divisible_ranges_are_covered_once_in_order(sizes: list[int], partition_bytes: int) -> None:
    extents = [(file, Extent(start=0, end=n, bytes=n, divisible=True)) for file, n in enumerate(sizes)]

    partitions = cut_partitions(extents, counted=False, partition_bytes=partition_bytes, samples_per_shard=10)

    assert rows(partitions) == [(file, byte) for file, n in enumerate(sizes) for byte in range(n)]
    assert all((p.bytes or 0) <= partition_bytes for p in partitions)


def test_a_file_a_little_larger_than_a_partition_is_cut_in_halves() -> None:
    extents = [(0, Extent(start=0, end=440_000_001, bytes=440_000_001, divisible=True))]

    partitions = cut_partitions(extents, counted=False, partition_bytes=256_000_000, samples_per_shard=10)

    assert [p.bytes for p in partitions] == [220_000_000, 220_000_001]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(1, 300))
def test_parts_of_one_file_differ_by_one_byte_at_most(sizes: list[int], partition_bytes: int) -> None:
    for size in sizes:
        extents = [(0, Extent(start=0, end=size, bytes=size, divisible=True))]

        parts = cut_partitions(extents, counted=False, partition_bytes=partition_bytes, samples_per_shard=10)

        assert len(parts) == -(-size // partition_bytes)
        assert max(p.bytes or 0 for p in parts) - min(p.bytes or 0 for p in parts) <= 1


def test_many_small_files_are_shared_out_evenly_among_the_fewest_partitions() -> None:
    extents = [(f, Extent(start=0, end=None, bytes=1_000_000)) for f in range(400)]

    partitions = cut_partitions(extents, counted=False, partition_bytes=256_000_000, samples_per_shard=10)

    assert [len(p.pieces) for p in partitions] == [200, 200]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.integers(1, 300))
def test_evening_out_never_takes_more_partitions_or_larger_ones(sizes: list[int], partition_bytes: int) -> None:
    extents = [(f, Extent(start=0, end=None, bytes=n)) for f, n in enumerate(sizes)]
    greedy, size = 1, sizes[0]
    for n in sizes[1:]:
        greedy, size = (greedy + 1, n) if size + n > partition_bytes else (greedy, size + n)

    partitions = cut_partitions(extents, counted=False, partition_bytes=partition_bytes, samples_per_shard=10)

    assert [p.file for part in partitions for p in part.pieces] == list(range(len(sizes)))
    assert len(partitions) <= greedy
    assert all((p.bytes or 0) <= max(partition_bytes, *sizes) for p in partitions)


def test_counted_rows_are_shared_out_by_their_bytes_at_whole_shards() -> None:
    light = Extent(start=0, end=10_000, samples=10_000, bytes=100_000_000, divisible=True)
    heavy = Extent(start=0, end=1_000, samples=1_000, bytes=300_000_000, divisible=True)

    partitions = cut_partitions(
        [(0, light), (1, heavy)], counted=True, partition_bytes=256_000_000, samples_per_shard=100
    )

    assert [p.samples for p in partitions] == [10_300, 700]
    assert [p.bytes for p in partitions] == [190_000_000, 210_000_000]


def test_a_counted_partition_is_a_shard_at_least() -> None:
    extents = [(0, Extent(start=0, end=35, samples=35, bytes=3_500, divisible=True))]

    partitions = cut_partitions(extents, counted=True, partition_bytes=1, samples_per_shard=10)

    assert [p.samples for p in partitions] == [10, 10, 10, 5]


def test_one_partition_needs_no_prefix_and_many_have_their_own() -> None:
    extents = [(0, Extent(start=0, end=100, bytes=100, divisible=True))]

    (one,) = cut_partitions(extents, counted=False, partition_bytes=100, samples_per_shard=10)
    many = cut_partitions(extents, counted=False, partition_bytes=40, samples_per_shard=10)

    assert (one.shard_prefix, one.key_prefix) == ("", "")
    assert [p.shard_prefix for p in many] == ["00000-", "00001-", "00002-"]


def test_a_limit_on_an_uncounted_source_reads_it_in_one_partition() -> None:
    extents = [(f, Extent(start=0, end=100, bytes=100, divisible=True)) for f in range(3)]

    (part,) = cut_partitions(extents, counted=False, partition_bytes=50, samples_per_shard=10, limit=7)

    assert part.limit == 7
    assert len(part.pieces) == 3


def test_a_limit_on_a_counted_source_cuts_the_plan() -> None:
    extents = [(0, Extent(start=0, end=100, samples=100, bytes=100, divisible=True))]

    partitions = cut_partitions(extents, counted=True, partition_bytes=20, samples_per_shard=10, limit=35)

    assert [p.samples for p in partitions] == [20, 15]


def test_small_files_share_a_partition() -> None:
    extents = [(f, Extent(start=0, end=None, bytes=30)) for f in range(5)]

    partitions = cut_partitions(extents, counted=False, partition_bytes=70, samples_per_shard=10)

    assert [[p.file for p in part.pieces] for part in partitions] == [[0, 1], [2, 3], [4]]
