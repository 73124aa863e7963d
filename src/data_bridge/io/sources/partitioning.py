"""Cutting a source into partitions: a pure function of its extents and the config, never of workers."""

from collections.abc import Iterator, Sequence

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
    """Pack (file number, extent) runs into partitions of about `partition_bytes`.

    Counted sources are cut at multiples of `samples_per_shard`, so that shard k of the dataset holds exactly
    the samples of `index // samples_per_shard == k`. Others are cut at any byte where a run is divisible.
    With a limit, an uncounted source is one partition: only reading in order can tell where sample N is.
    """
    if counted:
        return _counted(extents, partition_bytes, samples_per_shard, limit)
    if limit is not None:
        whole = tuple(Piece(file=file, start=e.start, end=e.end) for file, e in extents)
        return [Partition(index=0, pieces=whole, limit=limit)] if whole else []
    return _uncounted(extents, partition_bytes)


def _counted(
    extents: Sequence[tuple[int, Extent]], partition_bytes: int, samples_per_shard: int, limit: int | None
) -> list[Partition]:
    total = sum(_samples(e) for _, e in extents)
    size = sum(e.bytes or 0 for _, e in extents)
    wanted = total if limit is None else min(total, limit)
    if wanted == 0:
        return []
    per_shard = max(1.0, size / total * samples_per_shard)
    rows = max(1, round(partition_bytes / per_shard)) * samples_per_shard
    partitions: list[Partition] = []
    pieces: list[Piece] = []
    filled, done, weight = 0, 0, 0.0
    for file, extent in extents:
        at, left = extent.start, min(_samples(extent), wanted - done - filled)
        while left > 0:
            take = min(left, rows - filled)
            weight += (extent.bytes or 0) * take / _samples(extent)
            _append(pieces, file, at, at + take)
            at, left, filled = at + take, left - take, filled + take
            if filled == rows:
                partitions.append(_partition(partitions, pieces, filled, done, samples_per_shard, weight))
                pieces, done, filled, weight = [], done + filled, 0, 0.0
    if filled:
        partitions.append(_partition(partitions, pieces, filled, done, samples_per_shard, weight))
    return partitions


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


def _uncounted(extents: Sequence[tuple[int, Extent]], partition_bytes: int) -> list[Partition]:
    groups: list[list[Piece]] = []
    sizes: list[int] = []
    open_size = 0
    for piece, size in (atom for file, extent in extents for atom in _atoms(file, extent, partition_bytes)):
        if not groups or open_size + size > partition_bytes:
            groups.append([])
            sizes.append(0)
            open_size = 0
        groups[-1].append(piece)
        open_size += size
        sizes[-1] = open_size
    single = len(groups) == 1
    return [
        Partition(
            index=number,
            pieces=tuple(pieces),
            bytes=size,
            key_prefix="" if single else f"{number:05d}-",
            shard_prefix="" if single else f"{number:05d}-",
        )
        for number, (pieces, size) in enumerate(zip(groups, sizes, strict=True))
    ]


def _atoms(file: int, extent: Extent, partition_bytes: int) -> Iterator[tuple[Piece, int]]:
    """The smallest runs a partition may be made of, with their weight in bytes (unknown sizes fill a partition)."""
    if not extent.divisible or extent.end is None:
        size = extent.bytes if extent.bytes is not None else partition_bytes
        yield Piece(file=file, start=extent.start, end=extent.end), size
        return
    for start in range(extent.start, extent.end, partition_bytes):
        end = min(start + partition_bytes, extent.end)
        yield Piece(file=file, start=start, end=end), end - start
