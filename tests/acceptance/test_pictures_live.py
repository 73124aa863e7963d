"""Photographs behind URLs become two datasets while the run is killed, paused and told to work in another way."""

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.console import data_bridge, started, until
from support.http_server import HttpServer
from support.kill import tree
from support.readers import read_tars

PHOTOS = Path(__file__).parents[2] / "configs" / "data" / "photos.parquet"
ROWS = 240
GONE = {17, 130, 239}
WITH_FAILURES = 3
SIGKILLED = -9


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpServer]:
    """Photographs in turn, some of which are gone; `urls.jsonl` names them all."""
    photos = [row["image"]["bytes"] for row in pq.read_table(PHOTOS, columns=["image"]).to_pylist()]
    with HttpServer() as server:
        for number in set(range(ROWS)) - GONE:
            server.serve(f"/{number}.jpg", photos[number % len(photos)])
        rows = [json.dumps({"id": n, "url": f"{server.origin}/{n}.jpg"}) + "\n" for n in range(ROWS)]
        (tmp_path / "urls.jsonl").write_text("".join(rows))
        yield server


def config(folder: Path, name: str) -> Path:
    stages = [
        {"fetch": {"allow_private": True, "retries": 0}, "on_error": "skip", "workers": 4},
        {"filter": {"where": {"jpg": {"max_length": 20_000}}}},
        {"resize": {"field": "jpg", "size": 48, "mode": "cover", "format": "jpeg"}},
        {"split": {}, "outputs": [{"name": "train", "weight": 3}, {"name": "val", "weight": 1}]},
    ]
    writers = [
        {"name": "train", "input": "split.train", "samples_per_shard": 8},
        {"name": "val", "input": "split.val", "format": "litdata", "samples_per_shard": 5},
    ]
    pipeline = {"input_uri": str(folder / "urls.jsonl"), "output_uri": str(folder / name), "partition_bytes": 2000}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"pipeline": {**pipeline, "stages": stages, "writers": writers}}))
    return path


@dataclass
class Desk:
    """Two terminals: in one the run, in the other what is said to it."""

    config: Path
    out: Path
    server: HttpServer
    run: "subprocess.Popen[str] | None" = None

    def start(self, *, photos: int, shards: int) -> None:
        """Run until there are so many shards; photographs from a number on do not come."""
        self.server.hold(f"/{number}.jpg" for number in range(photos, ROWS))
        self.run = started("run", self.config, "--workers", "2", cwd=self.config.parent)
        self.wait_for(shards)

    def wait_for(self, shards: int) -> None:
        assert self.run is not None
        until(lambda: len(list(self.out.rglob("*.tar"))) >= shards, self.run)

    def kill(self) -> None:
        assert self.run is not None
        os.killpg(self.run.pid, signal.SIGKILL)
        self.run.communicate()
        assert self.run.returncode == SIGKILLED

    def says(self, *words: str) -> Any:
        done = data_bridge("ctl", self.config, *words, "--json", cwd=self.config.parent)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def test_a_run_that_is_killed_paused_and_retuned_from_another_terminal_leaves_what_an_undisturbed_one_does(
    server: HttpServer, tmp_path: Path
) -> None:
    alone = data_bridge("run", config(tmp_path, "alone"), "--workers", "0", cwd=tmp_path)
    assert alone.returncode == WITH_FAILURES, alone.stderr
    desk = Desk(config(tmp_path, "disturbed"), tmp_path / "disturbed", server)

    desk.start(photos=60, shards=3)
    desk.kill()

    desk.start(photos=120, shards=8)
    desk.says("pause")
    assert desk.says("describe", "engine")["engine"]["state"] == "paused"
    desk.says("set", "fetch", "workers", "1")
    desk.says("set", "engine", "workers", "3")
    desk.says("resume")
    server.hold(f"/{number}.jpg" for number in range(170, ROWS))
    desk.wait_for(12)
    desk.kill()

    desk.start(photos=210, shards=15)
    desk.says("pause")
    desk.kill()

    server.hold()
    last = data_bridge("run", desk.config, cwd=tmp_path)
    assert last.returncode == WITH_FAILURES, last.stderr
    assert tree(desk.out) == tree(tmp_path / "alone")
    samples = read_tars(sorted((desk.out / "train").glob("*.tar")))
    assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in samples} == {(48, 48)}
    totals = json.loads((desk.out / "manifest.json").read_text())["totals"]
    assert totals["failed"] == len(GONE)
    assert len(samples) < totals["samples"] < ROWS - len(GONE), "some are in the other dataset, some were left out"
