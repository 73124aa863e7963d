"""W1, W2, W2g: a source to tars in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import sources
from benchmarks.check_tars import check_tars, whole_tars
from benchmarks.sources import Source
from benchmarks.work import Kind, Place, Way, Work, cut_as_at_full_size, own, run

NAMES = ("W1", "W2", "W2g")
IMAGES, PER_SHARD_IMAGES = 20_000, 2_000
LINES, PER_SHARD_LINES = 1_000_000, 20_000


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """The work of that name at a share of its size."""
    source, per_shard, what = source_of(name, scale, place.data)
    check, read_back = (partial(look, source, per_shard) for look in (whole_tars, check_tars))

    def ours(workers: int, title: str) -> Way:
        def command(out: Path) -> list[str]:
            return run(
                out.with_suffix(".json"),
                {**pipeline(source, per_shard, str(out)), **cut_as_at_full_size(scale)},
                workers,
            )

        return Way(f"ours-{workers}", "ours", title, command, check=check, read_back=read_back)

    def other(way: str, kind: Kind, title: str, *, makes_shards: bool = True) -> Way:
        def command(out: Path) -> list[str]:
            return own("peers.tars", way, source.path, out, per_shard)

        if not makes_shards:
            return Way(way, kind, title, command)
        return Way(way, kind, title, command, check=check, read_back=read_back)

    ways = [
        ours(0, "data-bridge run, in one process"),
        ours(2, "data-bridge run, 2 slots"),
        other("datasets", "peer", "`datasets` streaming + ShardWriter"),
        other("loop", "peer", "plain loop + ShardWriter"),
        other("tuned", "peer", "tuned loop + ShardWriter (mtime=0, orjson)"),
        other("floor", "floor", "headers and payload, no check, no hash"),
        other("sha256", "floor", "SHA-256 of the source", makes_shards=False),
        other("copy", "floor", "read the source and write the same bytes", makes_shards=False),
    ]
    if name == "W1":
        ways.append(other("same_bytes", "floor", "read the Parquet and write the same bytes", makes_shards=False))
    yield Work(name, f"{source.samples:,} {what} → tar", ways, [source.path])


def pipeline(source: Source, per_shard: int, output_uri: str) -> dict[str, object]:
    """Our settings for the work."""
    return {
        "name": "webdataset",
        "input_uri": str(source.path),
        "output_uri": output_uri,
        "samples_per_shard": per_shard,
    }


def source_of(name: str, scale: float, data: Path) -> tuple[Source, int, str]:
    """The source of a piece of work, samples a shard, and what they are."""
    if name == "W1":
        return sources.images(max(1, round(IMAGES * scale)), data), PER_SHARD_IMAGES, "images of ~50 KB, Parquet"
    samples = max(1, round(LINES * scale))
    if name == "W2":
        return sources.lines(samples, data), PER_SHARD_LINES, "JSON lines of ~400 B"
    return sources.gzipped(samples, data), PER_SHARD_LINES, "gzipped JSON lines of ~400 B"
