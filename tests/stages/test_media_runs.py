"""Whole runs over the stages of media: what a web server has is in the shards, the same for any number of workers."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.http_server import HttpServer
from support.pictures import file_of, gradient

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.events import Event, ShardCommitted
from data_bridge.model.report import RunReport

INTERRUPTED = 130
ROWS = 300
BAD = {7: "HTTP 404", 50: "not image, but something else", 201: "HTTP 500", 299: "empty"}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pictures() -> dict[int, bytes]:
    return {n: file_of(gradient(120 + n % 90, 150)) for n in range(ROWS)}


@pytest.fixture
def server(pictures: dict[int, bytes]) -> Iterator[HttpServer]:
    with HttpServer() as server:
        for number, picture in pictures.items():
            server.serve(f"/{number}.jpg", picture)
        del server.sites["/7.jpg"]
        server.sites["/50.jpg"].content = b"<html>"
        server.sites["/201.jpg"].status = 500
        server.sites["/299.jpg"].content = b""
        yield server


def run(
    server: HttpServer, folder: Path, *, workers: int = 0, threads: int = 8, observer: Any = None, **more: Any
) -> RunReport:
    source = folder.parent / "urls.jsonl"
    source.write_text("".join(json.dumps({"id": n, "url": f"{server.origin}/{n}.jpg"}) + "\n" for n in range(ROWS)))
    stages = [
        {"fetch": {"allow_private": True, "retries": 0}, "on_error": "skip", "workers": threads},
        {"resize": {"field": "jpg", "size": 64, "mode": "cover", "format": "jpeg", "min_side": 125}},
    ]
    pipeline = {"name": "webdataset", "input_uri": str(source), "output_uri": str(folder), "workers": workers}
    pipeline |= {"samples_per_shard": 40, "partition_bytes": 4000, "stages": stages}
    settings = Settings.model_validate({"pipeline": pipeline | more})
    return run_pipeline(settings, observer=observer) if observer else run_pipeline(settings)


def tree(folder: Path) -> dict[str, str]:
    """Digests of all shards."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.tar"))}


def samples(folder: Path) -> dict[int, Image.Image]:
    found: dict[int, Image.Image] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            files = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
        for name, data in files.items():
            if name.endswith(".json"):
                found[json.loads(data)["id"]] = Image.open(io.BytesIO(files[name.removesuffix("json") + "jpg"]))
    return found


def test_what_the_server_has_is_in_the_shards_and_what_it_has_not_is_recorded(
    server: HttpServer, tmp_path: Path
) -> None:
    report = run(server, tmp_path / "out")

    small = {n for n in range(ROWS) if 120 + n % 90 < 125}
    found = samples(tmp_path / "out")
    assert set(found) == set(range(ROWS)) - set(BAD) - small
    assert {image.size for image in found.values()} == {(64, 64)}
    assert (report.status, report.failed, report.exit_code) == ("completed_with_failures", len(BAD), 3)
    failures = [
        json.loads(line)
        for path in (tmp_path / "out").rglob("failures/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted(failure["reason"] for failure in failures) == sorted(BAD.values())
    assert {failure["stage"] for failure in failures} == {"fetch"}


@pytest.mark.parametrize(("workers", "threads", "memory"), [(0, 1, None), (2, 8, None), (0, 8, 1_000_000)])
def test_bytes_do_not_depend_on_slots_or_threads_or_memory(
    server: HttpServer, tmp_path: Path, workers: int, threads: int, memory: int | None
) -> None:
    run(server, tmp_path / "one")
    run(server, tmp_path / "other", workers=workers, threads=threads, memory_bytes=memory)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


@pytest.mark.parametrize("slots", ["0", "1"])
def test_a_signal_ends_a_run_at_once_though_a_server_is_silent(server: HttpServer, tmp_path: Path, slots: str) -> None:
    (tmp_path / "urls.jsonl").write_text(
        "".join(json.dumps({"url": f"{server.origin}/{n}.jpg"}) + "\n" for n in range(20, 45))
    )
    silent = server.sites["/43.jpg"]
    silent.stall_after = 10
    stage = {"fetch": {"allow_private": True, "timeout_s": 10_000}}
    pipeline = {"input_uri": str(tmp_path / "urls.jsonl"), "output_uri": str(tmp_path / "out"), "stages": [stage]}
    (tmp_path / "c.json").write_text(json.dumps({"pipeline": pipeline}))
    command = [sys.executable, "-m", "data_bridge", "run", str(tmp_path / "c.json"), "--workers", slots]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not silent.sent:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == INTERRUPTED, errors.decode()


class Stop(Exception):
    """The run dies here."""


def test_a_run_that_died_goes_on_to_the_same_bytes_without_asking_again_for_what_is_committed(
    server: HttpServer, tmp_path: Path
) -> None:
    run(server, tmp_path / "one")
    for site in server.sites.values():
        site.requests.clear()
    committed = 0

    def die(event: Event) -> None:
        nonlocal committed
        if isinstance(event, ShardCommitted):
            committed += 1
            if committed == 3:
                raise Stop

    with pytest.raises(Stop):
        run(server, tmp_path / "other", observer=die)
    first = server.sites["/0.jpg"].asked("GET")
    run(server, tmp_path / "other")

    assert tree(tmp_path / "one") == tree(tmp_path / "other")
    assert first > 0
    assert server.sites["/0.jpg"].asked("GET") <= first + 1  # the schema is frozen: at most a look at the first rows
