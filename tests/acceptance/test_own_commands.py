"""Commands of a stage's own reach all its instances between packets, and bytes follow from what is recorded of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.kill import ShootingDestination, Shot, tree
from support.live_calls import Fickle
from support.readers import read_json_samples
from support.terminals import Terminal

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import ConfigError, FatalError
from data_bridge.events import Notice
from data_bridge.runtime.control import RunControl

ROWS = 2000
AMP = {"support.live_calls:Amplifier": {}, "name": "amp"}
ODOMETER = {"support.live_calls:Odometer": {}, "name": "odometer"}

Does = dict[int | str, Callable[[RunControl], object]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packets of a hundred rows, in a few partitions."""
    path = tmp_path_factory.mktemp("source") / "source.parquet"
    pq.write_table(pa.table({"id": range(ROWS)}), path, row_group_size=100)
    return path


def settings(source: Path, out: Path, *stages: dict[str, Any]) -> Settings:
    values = {
        "input_uri": str(source),
        "output_uri": str(out),
        "samples_per_shard": 50,
        "partition_bytes": 4_000,
        "stages": list(stages),
    }
    return Settings.model_validate({"pipeline": values})


def changes(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())["provenance"]["live_changes"]
    return found


def rows(out: Path) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in read_json_samples(out)}


def refused(control: RunControl) -> None:
    with pytest.raises(ConfigError, match="amp: TypeError: a gain is a whole number"):
        control.ask("gain", "amp", "all", "loud")


def test_a_command_is_done_from_the_sample_on_that_the_manifest_names(source: Path, tmp_path: Path) -> None:
    terminal = Terminal(
        tmp_path,
        {
            2: lambda c: c.ask("gain", "amp", "all", 3),
            3: refused,
            4: lambda c: [c.ask("gain", "amp", "all", 2), c.ask("gains")],
        },
    )

    report = api.run_pipeline(settings(source, tmp_path, AMP), observer=terminal, workers=0)

    assert report.status == "complete"
    first, second = changes(tmp_path)[:2]
    assert first == {"partition": 0, "from": 200, "stage": "amp", "command": "gain", "key": "all", "value": 3}
    assert (second["from"], second["value"]) == (400, 2)
    assert terminal.said[2] == [{"amp": None}, {"amp": {"gains": [3, 2]}}]
    assert "stage amp: gain all 3 from the next packet on" in [
        e.message for e in terminal.events if isinstance(e, Notice)
    ]
    assert {i: row["number"] for i, row in rows(tmp_path).items()} == {
        i: i * (1 if i < 200 else 3 if i < 400 else 6) for i in range(ROWS)
    }


def test_slots_that_are_at_work_do_it_and_those_that_come_later(source: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, {3: lambda c: c.ask("gain", "amp", "all", 3)})

    api.run_pipeline(settings(source, tmp_path, AMP), observer=terminal, workers=2)

    starts = {change["partition"]: change["from"] for change in changes(tmp_path)}
    shards = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    found = rows(tmp_path)
    assert starts
    assert len(found) == ROWS
    for shard in shards:
        for i in range(shard["source"]["start"], shard["source"]["end"]):
            assert found[i]["number"] == i * (3 if i >= starts.get(shard["partition"], ROWS) else 1)


THRICE: Does = {
    2: lambda c: [c.ask("gain", "amp", "all", 3), c.ask("restart", "odometer")],
    4: lambda c: [c.ask("add", "odometer", None, 1000), c.ask("gain", "amp", "all", 2)],
    5: lambda c: [c.ask("restart", "odometer"), c.set("amp", "most", 50)],
}


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What becomes of the source when commands are given on the way and nothing dies."""
    out = tmp_path_factory.mktemp("undisturbed")
    made = settings(source, out, AMP, ODOMETER)
    api.run_pipeline(made, observer=Terminal(out, dict(THRICE)), workers=0)
    found, total = rows(out), 0
    for i in range(600):
        total = {200: 0, 400: total + 1000, 500: 0}.get(i, total) + i
        row = found[i]
        assert (row["total"], row["trip"]) == (total, 0 if i < 200 else 1 if i < 500 else 2)
        assert row["number"] == i * (1 if i < 200 else 3 if i < 400 else 6)
    return tree(out)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shot", [33, 37, 44, 56])
def test_a_run_that_is_killed_does_them_again_at_the_same_samples(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes], shot: int, workers: int
) -> None:
    out = tmp_path / "out"
    made = settings(source, out, AMP, ODOMETER)
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            gun = ShootingDestination(str(out), Shot(shot, "after", str(tmp_path / "fuse")))
            api.run_pipeline(made, observer=Terminal(out, dict(THRICE)), workers=0, open_destination=gun)
        finally:
            os._exit(99)
    os.waitpid(pid, 0)
    assert (tmp_path / "fuse").exists()

    api.run_pipeline(made, workers=workers)

    assert tree(out) == undisturbed


def test_a_stage_beside_the_way_is_told_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    terminal = Terminal(
        out, {2: lambda c: c.ask("listen", "ear", None, "first"), 5: lambda c: c.ask("gain", "amp", "all", 2)}
    )
    ear = {"support.live_calls:Eavesdropper": {}, "name": "ear", "input": "source"}

    api.run_pipeline(settings(source, out, AMP, ear), observer=terminal, workers=0)

    (heard,) = (tmp_path / "home").rglob("first.txt")
    assert sorted(map(int, heard.read_text().split())) == list(range(200, ROWS))


def test_an_instance_that_does_not_do_what_was_accepted_ends_the_run_before_it_makes_anything(
    source: Path, tmp_path: Path
) -> None:
    Fickle.done = False
    terminal = Terminal(tmp_path, {2: lambda c: c.ask("once", "fickle")})
    made = settings(source, tmp_path, {"support.live_calls:Fickle": {}, "name": "fickle"})

    with pytest.raises(
        FatalError, match="stage fickle accepted `once` and does not do it now: RuntimeError: not again"
    ):
        api.run_pipeline(made, observer=terminal, workers=0)
