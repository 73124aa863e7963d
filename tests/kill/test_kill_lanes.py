"""One source on several cores: whichever process of the run is killed, the dataset is that of an undisturbed run."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.engine_works import wait_for
from support.kill import tree

from data_bridge.api import run_pipeline
from data_bridge.config import load_settings

SAMPLES, PER_SHARD = 60_000, 1_000


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of a run in the middle of its source."""

    driver: psutil.Process
    nursery: psutil.Process
    """What starts slots."""
    slot: psutil.Process
    cradle: psutil.Process
    """What starts the children of the slot."""
    lane: psutil.Process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A gzipped source, and what a run in one process makes of it. Compressing the shards makes a run last."""
    folder = tmp_path_factory.mktemp("source")
    rng = random.Random(7)
    rows = ({"id": number, "text": f"{rng.getrandbits(1200):x}", "n": [number % 7]} for number in range(SAMPLES))
    with gzip.open(folder / "source.jsonl.gz", "wb", compresslevel=1) as file:
        file.write("\n".join(map(json.dumps, rows)).encode())
    run_pipeline(load_settings(config(folder, folder)), workers=0)
    return folder, tree(folder / "out")


def config(source: Path, folder: Path) -> Path:
    pipeline = {
        "input_uri": str(source / "source.jsonl.gz"),
        "output_uri": str(folder / "out"),
        "samples_per_shard": PER_SHARD,
        "output_format": "tar.gz",
    }
    path = folder / "config.json"
    path.write_text(json.dumps({"pipeline": pipeline}))
    return path


def start(path: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "data_bridge", "run", str(path), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def in_the_middle(process: "subprocess.Popen[bytes]", out: Path) -> Running:
    """Wait until a child of the slot is at work and shards were committed since."""
    driver = psutil.Process(process.pid)
    chain: list[psutil.Process] = []

    def at_work() -> bool:
        assert process.poll() is None, "the run ended before a child of its slot was at work"
        chain[:] = [driver]
        while len(chain) < 5 and (children := chain[-1].children()):
            chain.append(children[0])
        return len(chain) == 5 and sum(chain[-1].cpu_times()[:2]) > 0

    wait_for(at_work, "a child of the slot")
    seen = len(list(out.glob("*.tar.gz")))
    wait_for(lambda: len(list(out.glob("*.tar.gz"))) > seen + 2, "shards")
    return Running(*chain)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no nurseries")
@pytest.mark.parametrize("victim", ["lane", "cradle", "slot", "nursery", "driver"])
def test_a_killed_process_of_a_run_with_several_cores_for_one_source_leaves_no_trace(
    undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path, victim: str
) -> None:
    source, expected = undisturbed
    path, out = config(source, tmp_path), tmp_path / "out"

    with start(path) as process:
        running = in_the_middle(process, out)
        processes = [running.driver, *running.driver.children(recursive=True)]
        os.kill(getattr(running, victim).pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)

    assert not (gone := [p for p in psutil.wait_procs(processes, timeout=5)[1] if p.status() != "zombie"]), gone
    if victim == "driver":
        assert process.returncode == -signal.SIGKILL
        assert len(list(out.glob("*.tar.gz"))) < SAMPLES // PER_SHARD
        with start(path) as process:
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert ("its partition is handed out again" in errors.decode()) == (victim in ("slot", "nursery"))
    assert tree(out) == expected
    assert list(out.glob("_bridge/*/staging/*")) == []
