"""Killed at any commit point, a rerun ends with the report of an undisturbed run: no row twice, none lost, nothing paid twice."""

import random
from pathlib import Path
from typing import Any, Literal

import pytest
from support.corpus import write_jsonl
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree

from data_bridge import api
from data_bridge.config import Settings, stages_folder
from data_bridge.storage import open_store

SIGKILLED, WITH_FAILURES = -9, 3
STAGES: dict[str, list[dict[str, Any]]] = {
    "one writer": [{"support.stages:Scored": {}, "report": True}],
    "several, behind a shuffle and threads": [
        {"support.stages:Scored": {}, "report": True, "name": "waits", "executor": "thread", "workers": 3},
        {"shuffle": {"window": 16}},
        {"support.stages:Scored": {}, "report": True},
        {"split": {}, "outputs": [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]},
    ],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def settings_for(folder: Path, stages: str) -> Settings:
    pipeline = {
        "input_uri": str(folder / "source.jsonl"),
        "samples_per_shard": 30,
        "partition_bytes": 9_000,
        "on_error": "skip",
        "stages": STAGES[stages],
    }
    return Settings.model_validate({"pipeline": pipeline})


def made(root: Path, settings: Settings) -> dict[str, Any]:
    """The dataset, the reports of a finished run, and what it paid."""
    assert not list(stages_folder(api.run_id(str(root))).glob("*/report.partial.csv"))
    reports = {
        path.parent.name: path.read_bytes() for path in stages_folder(api.run_id(str(root))).glob("*/report.csv")
    }
    status = api.status(str(root), settings)
    return {"reports": reports, "paid": [(s.total_cost_usd, s.report_rows) for s in status.stages], "tree": tree(root)}


def undisturbed(tmp_path: Path, settings: Settings) -> tuple[dict[str, Any], int]:
    stores: list[ShootingStore] = []

    def opener(settings: Settings) -> ShootingStore:
        stores.append(ShootingStore(open_store(str(tmp_path / "undisturbed"), settings), None))
        return stores[-1]

    assert api.run_pipeline(settings, workers=0, open_destination=opener).exit_code == WITH_FAILURES
    found = made(tmp_path / "undisturbed", settings)
    assert {name for name, data in found["reports"].items() if data.count(b"\n") > 30} == {
        str(stage.get("name", "scored")) for stage in settings.pipeline.model_dump()["stages"] if stage["report"]
    }
    assert any(paid for paid, _ in found["paid"])
    return found, max(store.count for store in stores)


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_commit_point_survives_a_kill(tmp_path: Path, when: Literal["before", "after"]) -> None:
    write_jsonl(tmp_path / "source.jsonl", 130, bad_every=17)
    settings = settings_for(tmp_path, "one writer")
    expected, mutations = undisturbed(tmp_path, settings)

    for number in range(mutations):
        root = tmp_path / str(number)
        shot = Shot(number, when, str(tmp_path / f"fuse-{number}"))
        assert run_in_child(settings, ShootingDestination(str(root), shot), workers=0) == SIGKILLED
        assert run_in_child(settings, ShootingDestination(str(root)), workers=0) == WITH_FAILURES
        assert made(root, settings) == expected


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("group", [True, False], ids=["whole run", "one slot"])
def test_kills_among_worker_processes_leave_no_trace(tmp_path: Path, stages: str, workers: int, group: bool) -> None:
    write_jsonl(tmp_path / "source.jsonl", 200, bad_every=17)
    settings = settings_for(tmp_path, stages)
    expected, _ = undisturbed(tmp_path, settings)
    rng = random.Random(workers)
    root = tmp_path / "out"

    for attempt in range(2):
        shot = Shot(
            rng.randrange(2, 6), rng.choice(("before", "after")), str(tmp_path / f"fuse-{attempt}"), group, True
        )
        code = run_in_child(settings, ShootingDestination(str(root), shot), workers=workers)
        assert (tmp_path / f"fuse-{attempt}").exists()
        assert code == (SIGKILLED if group else WITH_FAILURES)
        if code == WITH_FAILURES:
            break
    assert run_in_child(settings, ShootingDestination(str(root)), workers=workers) == WITH_FAILURES

    assert made(root, settings) == expected
