"""However many cores pack one partition, its bytes are the same; so are they when a child or the run is killed."""

import gzip
import json
import os
import random
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.eager_lanes import EagerLanes, eager
from support.http_server import HttpServer
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.kill_cases import add

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.engine.inline import _DirectControl
from data_bridge.errors import DataError
from data_bridge.events import Event, SamplesPacked, ShardCommitted
from data_bridge.io.sources.stream import SampleStream
from data_bridge.pipelines import process
from data_bridge.runtime.lanes import Lanes
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


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Runs of this process have two cores, and their source does not come up with its third batch before it is told
    that nobody wants it any more. The event says that a thread is waiting for it."""
    inside, halted = threading.Event(), threading.Event()
    frames = SampleStream.frames

    def slow(self: SampleStream, *given: Any) -> Generator[Any]:
        with closing(frames(self, *given)) as batches:
            for number, batch in enumerate(batches):
                if number == 2:
                    inside.set()
                    assert halted.wait(30)
                yield batch

    class Halting(Lanes[Any, Any]):
        def halt(self) -> None:
            halted.set()
            super().halt()

    monkeypatch.setattr(SampleStream, "frames", slow)
    monkeypatch.setattr(process, "Lanes", Halting)
    monkeypatch.setattr(_DirectControl, "cores", 2, raising=False)
    return inside


class Impatient:
    """An observer that does something as soon as the first batch is packed and a thread waits for the third."""

    def __init__(self, reading: threading.Event, act: Callable[[], object]) -> None:
        self.committed = 0
        self._reading = reading
        self._act: Callable[[], object] | None = act

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, ShardCommitted):
            self.committed += event.samples
        if isinstance(event, SamplesPacked) and self._act is not None:
            act, self._act = self._act, None
            assert self._reading.wait(30)
            act()


def hundreds(folder: Path, bad: int | None) -> Settings:
    """Batches of a hundred rows, two shards each; the key of one row cannot be one."""
    keys = ["no key" if i == bad else f"k{i}" for i in range(500)]
    pq.write_table(pa.table({"key": keys}), folder / "source.parquet", row_group_size=100)
    return keyed(folder)


def keyed(folder: Path, *stages: dict[str, Any]) -> Settings:
    pipeline = {
        "input_uri": str(folder / "source.parquet"),
        "key_field": "key",
        "samples_per_shard": 50,
        "partition_bytes": 10**9,
        "stages": list(stages),
    }
    return Settings.model_validate({"pipeline": pipeline})


def test_a_run_that_is_stopped_while_its_source_is_read_ahead_commits_what_is_closed(
    tmp_path: Path, reading: threading.Event
) -> None:
    impatient = Impatient(reading, lambda: os.kill(os.getpid(), signal.SIGINT))

    report = run_pipeline(
        hundreds(tmp_path, None), observer=impatient, workers=0, open_destination=opener(tmp_path / "out")
    )

    assert (report.status, report.samples) == ("interrupted", 100)
    assert impatient.committed == 100


def test_an_error_while_the_source_is_read_ahead_is_the_one_that_comes_out(
    tmp_path: Path, reading: threading.Event
) -> None:
    impatient = Impatient(reading, lambda: None)

    with pytest.raises(DataError, match="no key"):
        run_pipeline(hundreds(tmp_path, 170), observer=impatient, workers=0, open_destination=opener(tmp_path / "out"))

    assert impatient.committed >= 100


def test_an_error_while_files_are_fetched_ahead_waits_for_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_DirectControl, "cores", 2, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HttpServer() as server:
        fast, slow = server.serve("/fast", b"a file"), server.serve("/slow", b"a file", stall_after=1)
        rows = {
            "key": ["no key" if i == 1090 else f"k{i}" for i in range(1400)],  # behind what is looked at for a plan
            "url": [(fast if i < 1200 else slow).url for i in range(1400)],
        }
        pq.write_table(pa.table(rows), tmp_path / "source.parquet", row_group_size=100)
        fetch = {"to": "file", "allow_private": True, "timeout_s": 100, "retries": 0, "accept": []}
        settings = keyed(tmp_path, {"fetch": fetch})
        began = time.monotonic()

        with pytest.raises(DataError, match="no key"):
            run_pipeline(settings, workers=0, open_destination=opener(tmp_path / "out"))

        assert time.monotonic() - began < 60
