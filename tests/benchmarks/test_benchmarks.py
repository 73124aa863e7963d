"""Every piece of work runs, refuses wrong outputs and keeps its figures. Nothing here asserts a time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import sources
from benchmarks.__main__ import WORKS
from benchmarks.check_tars import check_tars, whole_tars
from benchmarks.contest import contest
from benchmarks.dicts import opened as open_dicts
from benchmarks.measure import measured
from benchmarks.peers.tars import floor, tuned
from benchmarks.work import PEERS, Place, Wrong

ROOT = Path(__file__).parents[2]
SCALE = "0.0005"


@pytest.mark.timeout(600)  # importing litdata and torch a dozen times takes a while
@pytest.mark.parametrize("name", WORKS)
def test_every_way_to_do_the_work_runs_is_checked_and_leaves_its_figures(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--scale", SCALE, "--rounds", "1", "--folder", str(tmp_path), "--json", str(figures)]

    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, *options],
        cwd=ROOT, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    written = json.loads(figures.read_text())
    for way, row in written["works"][name]["ways"].items():
        assert bool(row["costs"]) != bool(row["skipped"]), way
        assert row["kind"] != "ours" or row["costs"], way
        assert all(cost["cpu_s"] > 0 and cost["wall_s"] > 0 for cost in row["costs"]), way
        if row["skipped"]:
            assert f"skipped: {row['skipped']}" in run.stdout
    assert {"cores", "python", "versions"} <= set(written["facts"])
    assert f"### {name}" in run.stdout
    assert "| work | goal | measured | holds |" in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_round_runs_every_way_once_and_only_those_asked_for(tmp_path: Path) -> None:
    found = contest(WORKS["W2"], "W2", 0.0001, 2, Place(tmp_path / "data", tmp_path), {"floor", "copy"})

    assert {name: len(row["costs"]) for name, row in found["ways"].items()} == {"floor": 2, "copy": 2}


def test_a_process_that_fails_is_not_measured() -> None:
    from benchmarks.measure import Failed

    with pytest.raises(Failed, match="last words"):
        measured([sys.executable, "-c", "raise SystemExit('last words')"], {})


def test_tars_that_are_not_the_source_are_refused(tmp_path: Path) -> None:
    source = sources.lines(100, tmp_path)
    (tmp_path / "whole").mkdir()
    floor(source.path, tmp_path / "whole", 40)
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

    check_tars(source, 40, tmp_path / "whole")
    for wrong in (missing, twice, changed, cut):
        with pytest.raises(Wrong):
            check_tars(source, 40, wrong)
    whole_tars(source, 40, tmp_path / "whole")
    for wrong in (missing, cut):
        with pytest.raises(Wrong):
            whole_tars(source, 40, wrong)


def test_a_peer_s_gzipped_and_parquet_tars_pass_the_same_check(tmp_path: Path) -> None:
    for source, way in ((sources.gzipped(50, tmp_path), tuned), (sources.images(5, tmp_path), floor)):
        out = tmp_path / way.__name__
        out.mkdir()
        way(source.path, out, 20)

        check_tars(source, 20, out)


@pytest.mark.skipif(bool(PEERS.missing), reason=PEERS.missing)
def test_chunks_that_the_reader_finds_changed_are_refused(tmp_path: Path) -> None:
    with open_dicts("W3", 0.0001, Place(tmp_path, tmp_path)) as work:
        ours = next(way for way in work.ways if way.name == "ours-0")
    out = tmp_path / "out"
    out.mkdir()
    measured(ours.command(out), {})
    assert ours.check
    assert ours.read_back
    ours.check(out)
    ours.read_back(out)

    chunk = next(out.glob("*.bin"))
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Wrong, match="not the source's"):
        ours.read_back(out)
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(Wrong, match="cut"):
        ours.check(out)
