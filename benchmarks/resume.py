"""W6: from the command to the first new sample, on a run that was killed with nine tenths done and on a new one."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from benchmarks import sources
from benchmarks.contest import environment
from benchmarks.peers.tars import floor
from benchmarks.work import ROOT, Place, Way, Work, copy_of, driven, own

NAMES = ("W6",)
LINES, IMAGES = 500_000, 5_000
SHARDS, DONE = 20, 0.9
REPOSITORY = "benchmarks/images"


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """Five sources of one partition each, so that the cursor lies deep inside."""
    sys.path.append(str(ROOT / "tests"))
    from support.fake_hub import FakeHub

    lines, images = max(SHARDS, round(LINES * scale)), max(SHARDS, round(IMAGES * scale))
    data = place.data
    parquet = sources.images(images, data).path
    hub = FakeHub()
    hub.push(REPOSITORY, {"data/train.parquet": parquet.read_bytes()})
    env = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    kinds = {
        "parquet": ("Parquet", str(parquet), images),
        "jsonl": ("JSON lines", str(sources.lines(lines, data).path), lines),
        "csv": ("CSV", str(_made(data / f"rows-{lines}.csv", lines, data, _write_csv)), lines),
        "tar": ("tar", str(_made(data / f"rows-{lines}.tar", lines, data, _write_tar)), lines),
        "hub": ("Hub Parquet", f"hf://{REPOSITORY}", images),
    }
    ways = list[Way]()
    for kind, (title, uri, samples) in kinds.items():
        per_shard = -(-samples // SHARDS)
        killed = place.scratch / f"{name}-{kind}-killed-{samples}"
        done = round(samples * DONE)
        driven(own("drivers", "until", _config(killed, uri, per_shard), done), {**environment(place.scratch), **env})
        _lose_what_waited(killed)
        ways += [
            Way(f"{kind}-fresh", "ours", f"{title}, new", _first(uri, per_shard, 0), env=env),
            Way(f"{kind}-resumed", "ours", f"{title}, killed at {DONE:.0%}", _first(uri, per_shard, done),
                prepare=copy_of(killed), env=env),
        ]  # fmt: skip
    yield Work(name, f"to the first new sample of {lines:,} rows, {images:,} images", ways)
    for kind in kinds:
        for left in place.scratch.glob(f"{name}-{kind}-killed-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _lose_what_waited(out: Path) -> None:
    """Remove the shards that were packed and not committed yet: up to all that was left, they would be taken as they are."""
    for staging in out.glob("_bridge/*/staging"):
        shutil.rmtree(staging)


def _config(out: Path, uri: str, per_shard: int) -> Path:
    pipeline = {"input_uri": uri, "output_uri": str(out), "samples_per_shard": per_shard, "partition_bytes": "100GB"}
    config = out.with_suffix(".json")
    config.write_text(json.dumps({"pipeline": pipeline}))
    return config


def _first(uri: str, per_shard: int, least: int) -> Callable[[Path], list[str]]:
    return lambda out: own("drivers", "first", _config(out, uri, per_shard), least)


def _made(path: Path, samples: int, data: Path, write: Callable[[Path, int, Path], None]) -> Path:
    if not path.exists():
        part = path.with_name(f".{path.name}.part")
        write(part, samples, data)
        part.rename(path)
    return path


def _write_csv(path: Path, samples: int, data: Path) -> None:
    with sources.lines(samples, data).path.open("rb") as rows, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "source", "lang", "score"))
        for line in rows:
            row = orjson.loads(line)
            writer.writerow([row[name] for name in ("id", "text", "source", "lang", "score")])


def _write_tar(path: Path, samples: int, data: Path) -> None:
    folder = path.with_suffix(".folder")
    folder.mkdir()
    floor(sources.lines(samples, data).path, folder, samples)
    (folder / "000000.tar").rename(path)
    folder.rmdir()
