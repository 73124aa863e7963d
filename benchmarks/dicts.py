"""W3: dicts with arrays to the chunks that training loops stream."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import sources
from benchmarks.sources import Source
from benchmarks.work import COMPILED, PEERS, ROOT, Kind, Place, Way, Work, Wrong, cut_as_at_full_size, own, run

NAMES = ("W3",)
SAMPLES = 200_000
CHUNK = "64MB"


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """The work at a share of its size."""
    source = sources.dicts(max(1, round(SAMPLES * scale)), place.data)

    def ours(workers: int, title: str) -> Way:
        def command(out: Path) -> list[str]:
            return run(out.with_suffix(".json"), {**pipeline(source, out), **cut_as_at_full_size(scale)}, workers)

        back = None if PEERS.missing else lambda out: _read_back("litdata", source, out)
        return Way(f"ours-{workers}", "ours", title, command, check=lambda out: _count(source, out), read_back=back)

    def peer(way: str, title: str, kind: str = "litdata") -> Way:
        def command(out: Path) -> list[str]:
            return PEERS.command("peers.dicts", way, source.path, out)

        return Way(
            way, "peer", title, command, check=(lambda out: _count(source, out)) if kind == "litdata" else None,
            read_back=lambda out: _read_back(kind, source, out), env=COMPILED, skipped=PEERS.missing,
        )  # fmt: skip

    def floor(way: str, title: str, *, theirs: bool = False) -> Way:
        kind: Kind = "floor"
        if theirs:
            return Way(
                way,
                kind,
                title,
                lambda out: PEERS.command("peers.dicts", way, source.path, out),
                env=COMPILED,
                skipped=PEERS.missing,
            )
        return Way(way, kind, title, lambda out: own("peers.dicts", way, source.path, out))

    ways = [
        ours(0, "data-bridge run, in one process"),
        ours(2, "data-bridge run, 2 slots"),
        peer("litdata-pylist", "`litdata.optimize`, to_pylist, 1 worker"),
        peer("litdata-1", "`litdata.optimize`, columns, 1 worker"),
        peer("litdata-2", "`litdata.optimize`, columns, 2 workers"),
        peer("mds", "`MDSWriter`, columns", "mds"),
        floor("read", "read the Parquet"),
        floor("to_pylist", "read the Parquet, to_pylist"),
        floor("import-litdata", "import litdata", theirs=True),
        floor("import-streaming", "import streaming", theirs=True),
    ]
    title = f"{source.samples:,} dicts of {{id, text, int32[512]}}, Parquet → LitData chunks (MDS: shards), 64 MB"
    yield Work(name, title, ways, [source.path])


def pipeline(source: Source, out: Path) -> dict[str, object]:
    """Our settings for the work; `classic` is what `litdata.optimize` writes."""
    return {
        "name": "litdata",
        "litdata_layout": "classic",
        "input_uri": str(source.path),
        "output_uri": str(out),
        "samples_per_shard": SAMPLES,
        "max_shard_bytes": CHUNK,
    }


def _count(source: Source, out: Path) -> None:
    """Every chunk the index names is there with its size, and they hold as many samples as the source."""
    chunks = json.loads((out / "index.json").read_text())["chunks"]
    for chunk in chunks:
        if (out / chunk["filename"]).stat().st_size < chunk["chunk_bytes"]:
            raise Wrong(f"{out}: {chunk['filename']} is cut")
    if (found := sum(chunk["chunk_size"] for chunk in chunks)) != source.samples:
        raise Wrong(f"{out}: {found} of {source.samples} samples")


def _read_back(kind: str, source: Source, out: Path) -> None:
    """Raise Wrong unless the reader of that format finds every sample of the source once."""
    command = PEERS.command("peers.read_dicts", kind, source.path, out)
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "HOME": str(out)}
    reader = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if reader.returncode:
        raise Wrong(reader.stderr[-2_000:])
