"""SIGINT and SIGTERM to a run on the command line: it stops with 130, and the rerun ends with the undisturbed tree."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.corpus import write_jsonl
from support.kill import tree

from data_bridge.api import run_pipeline
from data_bridge.config import load_settings

INTERRUPTED = 130


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run of many small shards."""
    write_jsonl(tmp_path / "source.jsonl", 2_000)
    pipeline = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 10,
        "partition_bytes": 30_000,
        "output_format": "tar.gz",
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pipeline": pipeline}))
    return path


def start(config: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "data_bridge", "run", str(config), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_shards(process: "subprocess.Popen[bytes]", out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.tar.gz"))) < count:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_and_the_rerun_ends_alike(config: Path, tmp_path: Path, which: signal.Signals) -> None:
    settings = load_settings(config)
    run_pipeline(settings, workers=0)
    expected = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")

    with start(config) as process:
        wait_for_shards(process, tmp_path / "out", 10)
        process.send_signal(which)
        process.communicate(timeout=60)
    shards = len(list((tmp_path / "out").glob("*.tar.gz")))

    assert process.returncode == INTERRUPTED
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert 10 <= shards < len([name for name in expected if name.endswith(".tar.gz")])
    with start(config) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert tree(tmp_path / "out") == expected
