"""Cutting a source into partitions of about equal size: a pure function of its extents and the config, never of workers."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from data_bridge.model.plan import Partition
from data_bridge.model.source import Extent, Piece


def cut_partitions(
    extents: Sequence[tuple[int, Extent]],
    *,
    counted: bool,
    partition_bytes: int,
    samples_per_shard: int,
    limit: int | None = None,
) -> list[Partition]:
    """Pack (file number, extent) runs into as few partitions as `partition_bytes` allows, all of about the same size.

    Equal ones, because the last of several slots to end decides how long a run takes. Counted sources are cut at
    multiples of `samples_per_shard`, so that shard k of the dataset holds exactly the samples of
    `index // samples_per_shard == k`. Others are cut at any byte where a run is divisible.
    With a limit, an uncounted source is one partition: only reading in order can tell where sample N is.
    """
    if counted:
        return _counted(extents, partition_bytes, samples_per_shard, limit)
    if limit is not None:
        whole = tuple(Piece(file=file, start=e.start, end=e.end) for file, e in extents)
        return [Partition(index=0, pieces=whole, limit=limit)] if whole else []
    return _uncounted(extents, partition_bytes)


# ---- counted ---------------------------------------------------------------------------------------------------------


def _counted(
    extents: Sequence[tuple[int, Extent]], partition_bytes: int, samples_per_shard: int, limit: int | None
) -> list[Partition]:
    total = sum(_samples(e) for _, e in extents)
    wanted = total if limit is None else min(total, limit)
    if wanted == 0:
        return []
    edges = _edges(extents, wanted, partition_bytes, samples_per_shard)
    partitions: list[Partition] = []
    pieces: list[Piece] = []
    filled, weight = 0, 0.0
    for file, extent in extents:
        at, left = extent.start, min(_samples(extent), wanted - filled)
        while left > 0:
            first, end = edges[len(partitions)], edges[len(partitions) + 1]
            take = min(left, end - filled)
            weight += (extent.bytes or 0) * take / _samples(extent)
            _append(pieces, file, at, at + take)
            at, left, filled = at + take, left - take, filled + take
            if filled == end:
                partitions.append(_partition(partitions, pieces, end - first, first, samples_per_shard, weight))
                pieces, weight = [], 0.0
    return partitions


def _edges(
    extents: Sequence[tuple[int, Extent]], wanted: int, partition_bytes: int, samples_per_shard: int
) -> list[int]:
    """Indices of the samples where partitions begin, and of the end: the multiples of `samples_per_shard` next to equal
    shares of the bytes. A partition that would be shorter than a shard goes into its neighbour."""
    counts = [0, *accumulate(_samples(e) for _, e in extents)]
    bytes_before = [0, *accumulate(e.bytes or 0 for _, e in extents)]
    last = bisect_right(counts, wanted - 1) - 1
    _, extent = extents[last]
    size = bytes_before[last] + (extent.bytes or 0) * (wanted - counts[last]) // _samples(extent)
    parts = max(1, min(-(-size // partition_bytes), -(-wanted // samples_per_shard)))
    edges = {0, wanted}
    for part in range(1, parts):
        share = size * part // parts
        at = min(bisect_right(bytes_before, share) - 1, len(extents) - 1)
        inside = (share - bytes_before[at]) * _samples(extents[at][1]) // max(1, extents[at][1].bytes or 0)
        edge = (2 * (counts[at] + inside) + samples_per_shard) // (2 * samples_per_shard) * samples_per_shard
        if edge < wanted:
            edges.add(edge)
    return sorted(edges)


def _samples(extent: Extent) -> int:
    assert extent.samples is not None, "a counted format gives the samples of every extent"
    return extent.samples


def _append(pieces: list[Piece], file: int, start: int, end: int) -> None:
    """Add a run, joined to the one before it where they touch."""
    if pieces and pieces[-1].file == file and pieces[-1].end == start:
        pieces[-1] = Piece(file=file, start=pieces[-1].start, end=end)
    else:
        pieces.append(Piece(file=file, start=start, end=end))


def _partition(
    before: Sequence[Partition], pieces: Sequence[Piece], samples: int, first: int, per_shard: int, weight: float
) -> Partition:
    return Partition(
        index=len(before),
        pieces=tuple(pieces),
        samples=samples,
        bytes=round(weight),
        first_index=first,
        first_shard=first // per_shard,
    )


# ---- uncounted -------------------------------------------------------------------------------------------------------


def _uncounted(extents: Sequence[tuple[int, Extent]], partition_bytes: int) -> list[Partition]:
    atoms = [atom for file, extent in extents for atom in _atoms(file, extent, partition_bytes)]
    groups = _groups([size for _, size in atoms], partition_bytes)
    single = len(groups) == 1
    return [
        Partition(
            index=number,
            pieces=tuple(piece for piece, _ in atoms[lo:hi]),
            bytes=sum(size for _, size in atoms[lo:hi]),
            key_prefix="" if single else f"{number:05d}-",
            shard_prefix="" if single else f"{number:05d}-",
        )
        for number, (lo, hi) in enumerate(groups)
    ]


def _atoms(file: int, extent: Extent, partition_bytes: int) -> Iterator[tuple[Piece, int]]:
    """The smallest runs a partition may be made of, with their weight in bytes (unknown sizes fill a partition)."""
    if not extent.divisible or extent.end is None:
        size = extent.bytes if extent.bytes is not None else partition_bytes
        yield Piece(file=file, start=extent.start, end=extent.end), size
        return
    size = extent.end - extent.start
    parts = -(-size // partition_bytes)
    edges = (extent.start + size * part // parts for part in range(parts + 1))
    yield from ((Piece(file=file, start=lo, end=hi), hi - lo) for lo, hi in pairwise(edges))


def _groups(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Runs [lo, hi) of atoms, as few as hold at most `limit` bytes each, the largest about as small as it can be.
    An atom larger than that is a run of its own."""
    before = [0, *accumulate(sizes)]
    runs = _packed(before, limit)
    low, high = before[-1] // max(1, len(runs)), limit
    while high - low > limit // 1000:
        middle = (low + high) // 2
        tighter = _packed(before, middle)
        if len(tighter) <= len(runs):
            runs, high = tighter, middle
        else:
            low = middle + 1
    return runs


def _packed(before: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Runs of atoms, each as long as the limit lets it be. `before[i]` is the size of all atoms before atom i."""
    runs = []
    lo, count = 0, len(before) - 1
    while lo < count:
        hi = max(lo + 1, bisect_right(before, before[lo] + limit) - 1)
        runs.append((lo, hi))
        lo = hi
    return runs
