"""However many cores pack one partition, its bytes are the same; so are they when a child or the run is killed."""

import gzip
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.eager_lanes import EagerLanes, eager
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.kill_cases import add

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.storage import open_store

__all__ = ["eager"]

WITH_FAILURES = 3
SIGKILLED = -9


def lines(folder: Path) -> str:
    """12,000 lines, some bad, some blank, in batches of 1,000."""
    rng = random.Random(7)
    with gzip.open(folder / "lines.jsonl.gz", "wt", encoding="utf-8") as file:
        for i in range(12_000):
            row = {
                "id": i,
                "key": f"k{i // 2 if i % 997 == 1 else i}",
                "text": "wört " * rng.randint(0, 20),
                "x": i / 7,
            }
            file.write("{broken\n" if i % 501 == 500 else f"{json.dumps(row, ensure_ascii=False)}\n")
            file.write("\n \n" if i % 333 == 0 else "")
    return str(folder / "lines.jsonl.gz")


def table(folder: Path) -> str:
    """CSV of which some records have too many fields."""
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("id,key,text,score\n")
        for i in range(6_000):
            file.write(f'{i},k{i},"text ""{i}""\nin two lines",{i / 3}{",more" if i % 700 == 699 else ""}\n')
    return str(folder / "table.csv")


def archive(folder: Path) -> str:
    """A tar of which some samples have a member twice."""
    with tarfile.open(folder / "archive.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        for i in range(4_000):
            add(file, f"s{i:05d}.bin", bytes([i % 256]) * (i * 37 % 2_000))
            add(file, f"s{i:05d}.{'bin' if i % 613 == 612 else 'json'}", json.dumps({"i": i}).encode())
    return str(folder / "archive.tar")


def columns(folder: Path) -> str:
    """Parquet of which some keys cannot be keys."""
    count = 6_000
    keys = [f"k {i}" if i % 619 == 618 else f"k{i:05d}" for i in range(count)]
    blobs = [bytes([i % 256]) * (i * 31 % 900) for i in range(count)]
    pq.write_table(
        pa.table({"key": keys, "bin": pa.array(blobs, pa.binary()), "n": list(range(count))}),
        folder / "columns.parquet",
        row_group_size=900,
    )
    return str(folder / "columns.parquet")


SHARDS = {"samples_per_shard": 700, "partition_bytes": 10**9}
CASES: dict[str, tuple[Callable[[Path], str], dict[str, Any]]] = {
    "jsonl.gz, quarantine": (lines, {"on_error": "quarantine"}),
    "jsonl.gz, keys of a field": (lines, {"on_error": "skip", "key_field": "key", "members": {"text": "txt"}}),
    "jsonl.gz, by size, compressed": (
        lines,
        {"on_error": "skip", "max_shard_bytes": 300_000, "output_format": "tar.gz"},
    ),
    "jsonl.gz, the first 5,500": (lines, {"on_error": "skip", "limit": 5_500}),
    "jsonl.gz to litdata": (lines, {"on_error": "quarantine", "name": "litdata", "litdata_layout": "classic"}),
    "jsonl.gz to litdata arrow": (lines, {"on_error": "skip", "name": "litdata", "litdata_layout": "arrow"}),
    "csv": (table, {"on_error": "quarantine", "key_field": "key"}),
    "csv to litdata": (
        table,
        {"on_error": "skip", "name": "litdata", "source_options": {"csv_types": {"id": "int64", "score": "float64"}}},
    ),
    "tar": (archive, {"on_error": "quarantine", "key_field": "__key__"}),
    "parquet": (columns, {"on_error": "quarantine", "key_field": "key"}),
}


def settings_of(case: str, folder: Path) -> Settings:
    source, pipeline = CASES[case]
    return Settings.model_validate({"pipeline": {"input_uri": source(folder), **SHARDS, **pipeline}})


def opener(root: Path) -> Callable[[Settings], ShootingStore]:
    return lambda settings: ShootingStore(open_store(str(root), settings), None)


def failures_in(root: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in root.rglob("*failures*") if path.is_file())


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_the_same_on_any_number_of_cores(case: str, tmp_path: Path, eager: Callable[[int], None]) -> None:
    settings = settings_of(case, tmp_path)
    assert run_pipeline(settings, workers=0, open_destination=opener(tmp_path / "1")).exit_code == WITH_FAILURES
    expected = tree(tmp_path / "1")

    for cores in (2, 4):
        eager(cores)
        run_pipeline(settings, workers=0, open_destination=opener(tmp_path / str(cores)))

        assert tree(tmp_path / str(cores)) == expected
        assert failures_in(tmp_path / str(cores)) == failures_in(tmp_path / "1")
        assert EagerLanes.answers >= 2


@pytest.mark.parametrize("case", ["jsonl.gz, quarantine", "jsonl.gz to litdata arrow", "csv"])
@pytest.mark.parametrize("kill_at", [0, 3])
def test_a_child_that_is_killed_leaves_no_trace(
    case: str, kill_at: int, tmp_path: Path, eager: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(case, tmp_path)
    run_pipeline(settings, workers=0, open_destination=opener(tmp_path / "undisturbed"))
    eager(3)
    monkeypatch.setattr(EagerLanes, "kill_at", kill_at)

    run_pipeline(settings, workers=0, open_destination=opener(tmp_path / "out"))

    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    assert failures_in(tmp_path / "out") == failures_in(tmp_path / "undisturbed")


@pytest.mark.parametrize("group", [True, False], ids=["all of it", "its parent"])
@pytest.mark.parametrize("case", ["jsonl.gz, quarantine", "tar"])
def test_a_run_killed_among_its_children_is_ended_by_another(
    case: str, group: bool, tmp_path: Path, eager: Callable[[int], None]
) -> None:
    settings = settings_of(case, tmp_path)
    run_pipeline(settings, workers=0, open_destination=opener(tmp_path / "undisturbed"))
    eager(3)

    for number in (5, 8):
        shot = Shot(number, "after", str(tmp_path / f"fuse-{number}"), group=group)
        assert run_in_child(settings, ShootingDestination(str(tmp_path / "out"), shot), workers=0) == SIGKILLED

    assert run_in_child(settings, ShootingDestination(str(tmp_path / "out")), workers=0) == WITH_FAILURES
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
