"""The benchmark runs, refuses wrong outputs and keeps its figures. It asserts no time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.check import Wrong, check
from benchmarks.workloads import make

ROOT = Path(__file__).parents[2]


def peer(name: str, source: Path, out: Path, per_shard: int) -> None:
    out.mkdir()
    way = [sys.executable, "-m", "benchmarks.peers", name, str(source), str(out), str(per_shard)]
    subprocess.run(way, cwd=ROOT, check=True, capture_output=True)


def test_one_command_measures_and_checks_and_writes_all_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    only = [option for name in ("ours-0", "floor") for option in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks", "W2", "--scale", "0.0005", "--rounds", "1", *only]

    run = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(figures)],
        cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    written = json.loads(figures.read_text())
    assert set(written["W2"]) == {"ours-0", "floor"}
    assert all(len(costs) == 1 and costs[0]["cpu_s"] > 0 for costs in written["W2"].values())
    assert {"cores", "python", "versions"} <= set(written["facts"])
    assert "× ours" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize(("workload", "name"), [("W1", "floor"), ("W2g", "tuned")])
def test_peers_and_floors_write_the_samples_of_the_source(tmp_path: Path, workload: str, name: str) -> None:
    work = make(workload, 0.0001, tmp_path)

    peer(name, work.source, tmp_path / "out", work.per_shard)

    check(work, tmp_path / "out")


def test_an_output_that_is_not_the_source_is_refused(tmp_path: Path) -> None:
    work = make("W2", 0.0001, tmp_path)
    peer("floor", work.source, tmp_path / "whole", 40)
    shards = sorted((tmp_path / "whole").iterdir())
    assert len(shards) == 3

    missing = shutil.copytree(tmp_path / "whole", tmp_path / "missing")
    (missing / shards[-1].name).unlink()
    twice = shutil.copytree(tmp_path / "whole", tmp_path / "twice")
    shutil.copy(shards[0], twice / shards[1].name)
    changed = shutil.copytree(tmp_path / "whole", tmp_path / "changed")
    (changed / shards[0].name).write_bytes(shards[0].read_bytes().replace(b'"lang":"en"', b'"lang":"de"', 1))
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (cut / shards[2].name).write_bytes(shards[2].read_bytes()[:-10_240])

    check(work, tmp_path / "whole")
    for wrong in (missing, twice, changed, cut):
        with pytest.raises(Wrong):
            check(work, wrong)
