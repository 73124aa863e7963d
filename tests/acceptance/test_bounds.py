"""What a run needs of memory and disk does not grow with its source. `pytest -s` prints the figures."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.kill_remote import KnownStore
from support.seaweed import Seaweed

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.storage import open_store

FILE_MB = 16
SMALL_MB = 2 * FILE_MB
"""Enough for every worker to have done all that it ever does."""
TIMES = 10
GROWTH = 1.25
SLACK_BYTES = 20_000_000
SHARD_BYTES = 2_000_000
STAGING_BYTES = 8_000_000
UPLOAD_S = 0.15
POLL_S = 0.02


def write_lines(folder: Path, mb: int) -> None:
    """About `mb` megabytes in files of 16."""
    text = "x" * 2000
    for number in range(mb // FILE_MB):
        lines = (f'{{"id": {i}, "text": "{text}"}}\n' for i in range(FILE_MB * 500))
        (folder / f"{number:03d}.jsonl").write_text("".join(lines))


def write_parquet(folder: Path, mb: int) -> None:
    blobs = np.random.default_rng(0).bytes(FILE_MB * 1_000_000)
    rows = [blobs[at : at + 10_000] for at in range(0, len(blobs), 10_000)]
    table = pa.table({"id": list(range(len(rows))), "blob": pa.array(rows, pa.binary())})
    for number in range(mb // FILE_MB):
        pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=100, compression="none")


def peak_of_a_run(config: Path, workers: int) -> int:
    """Largest sum of the resident memory of all processes of a run, in bytes."""
    command = [sys.executable, "-m", "data_bridge", "run", str(config), "--workers", str(workers), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory_of_tree(process.pid))
            try:
                process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    return peak


def _memory_of_tree(pid: int) -> int:
    """What all together hold, what copies of a process share with it counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
        return 0
    return total


@pytest.mark.parametrize(
    ("write", "pattern", "workers"),
    [
        pytest.param(write_lines, "*.jsonl", 0, id="jsonl in one process"),
        pytest.param(write_lines, "*.jsonl", 2, id="jsonl on two workers", marks=pytest.mark.long),
        pytest.param(write_parquet, "*.parquet", 0, id="parquet in one process", marks=pytest.mark.long),
        pytest.param(write_parquet, "*.parquet", 2, id="parquet on two workers"),
    ],
)
def test_memory_is_flat_as_the_source_grows_tenfold(
    tmp_path: Path, write: Callable[[Path, int], None], pattern: str, workers: int
) -> None:
    peaks = {}
    for mb in (SMALL_MB, SMALL_MB * TIMES):
        folder = tmp_path / str(mb)
        folder.mkdir()
        write(folder, mb)
        pipeline = {
            "input_uri": f"{folder}/{pattern}",
            "output_uri": str(tmp_path / f"out-{mb}"),
            "partition_bytes": "2MB",
            "max_shard_bytes": SHARD_BYTES,
        }
        config = tmp_path / f"{mb}.json"
        config.write_text(json.dumps({"pipeline": pipeline}))
        peaks[mb] = peak_of_a_run(config, workers)
        for place in (folder, tmp_path / f"out-{mb}"):
            shutil.rmtree(place)

    small, large = peaks.values()
    print(f"\n{pattern}, {workers} workers: {small / 1e6:.0f} MB at the peak for {SMALL_MB} MB of source, "  # noqa: T201
          f"{large / 1e6:.0f} MB for {SMALL_MB * TIMES} MB")  # fmt: skip
    assert large <= GROWTH * small + SLACK_BYTES


@pytest.mark.parametrize(
    ("small_lines", "workers"),
    [
        pytest.param(8_000, 0, id="in one process"),
        pytest.param(80_000, 2, id="larger, on two workers", marks=pytest.mark.long),
    ],
)
def test_dedupe_and_shuffle_stay_within_the_memory_budget_as_the_source_grows_tenfold(
    tmp_path: Path, small_lines: int, workers: int
) -> None:
    """Every second line is a copy of an earlier one, and nothing may be forgotten of the others."""
    peaks, budget = {}, 32_000_000
    for lines in (small_lines, small_lines * TIMES):
        source, out = tmp_path / f"{lines}.jsonl", tmp_path / f"out-{lines}"
        text = "x" * 1500
        source.write_text("".join(f'{{"id": {i // 2}, "text": "{i // 2} {text}"}}\n' for i in range(lines)))
        pipeline = {
            "input_uri": str(source),
            "output_uri": str(out),
            "partition_bytes": "2MB",
            "max_shard_bytes": SHARD_BYTES,
            "memory_bytes": budget,
            "stages": [{"dedupe": {"fields": ["text"]}}, {"shuffle": {"window": 500, "seed": 1}}],
        }
        config = tmp_path / f"{lines}.json"
        config.write_text(json.dumps({"pipeline": pipeline}))
        peaks[lines] = peak_of_a_run(config, workers)
        manifest = json.loads((out / "manifest.json").read_text())
        assert sum(shard["samples"] for shard in manifest["shards"]) == lines // 2
        shutil.rmtree(out)

    small, large = peaks.values()
    print(f"\ndedupe and shuffle, {workers} workers: {small / 1e6:.0f} MB at the peak for {small_lines:,} lines, "  # noqa: T201
          f"{large / 1e6:.0f} MB for {small_lines * TIMES:,}")  # fmt: skip
    assert large <= small + budget


class SlowStore(KnownStore):
    """Every upload takes its time."""

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        threading.Event().wait(UPLOAD_S)
        super().put_file(key, path, sha256=sha256)


@dataclass(frozen=True)
class SlowBucket:
    uri: str

    def __call__(self, settings: Settings) -> SlowStore:
        return SlowStore(open_store(self.uri, settings), None)


@dataclass
class Watch:
    """Looks again and again how many bytes a folder holds."""

    folder: Path
    most: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self.over.wait(0.002):
            # os.walk passes over a folder that vanishes under it, rglob does not
            names = (Path(place, name) for place, _, found in os.walk(self.folder) for name in found)
            self.most = max(self.most, sum(_size(path) for path in names if path.suffix == ".tar"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_that_wait_for_a_slow_bucket_stay_within_the_staging_bound(
    seaweed: Seaweed, bucket: str, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "source").mkdir()
    write_lines(tmp_path / "source", 3 * FILE_MB)
    pipeline = {
        "input_uri": f"{tmp_path}/source/*.jsonl",
        "samples_per_shard": 100_000,
        "max_shard_bytes": SHARD_BYTES,
        "partition_bytes": "1GB",
        "staging_dir": tmp_path / "staging",
        "staging_bytes": STAGING_BYTES,
        # otherwise it would be the number of shards that binds
        "upload_concurrency": 8,
    }
    if workers:
        pipeline["partition_bytes"] = FILE_MB * 1_100_000
    settings = Settings.model_validate({"pipeline": pipeline, "s3": seaweed.settings.model_dump(exclude_none=True)})

    with Watch(tmp_path / "staging") as watch:
        report = run_pipeline(settings, workers=workers, open_destination=SlowBucket(f"s3://{bucket}/slow"))

    print(f"\n{workers} workers: {watch.most / 1e6:.1f} MB of shards on disk at the most; staging_bytes is "  # noqa: T201
          f"{STAGING_BYTES / 1e6:.0f} MB, a shard {SHARD_BYTES / 1e6:.0f} MB, the dataset {report.bytes / 1e6:.0f} MB")  # fmt: skip
    # a shard ends with the sample that reaches the limit, and with the blocks that end a tar
    assert STAGING_BYTES / 2 < watch.most <= STAGING_BYTES + max(1, workers) * (SHARD_BYTES + 20_000)
    assert report.bytes > 3 * STAGING_BYTES
