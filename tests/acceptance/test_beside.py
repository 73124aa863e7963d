"""Stages beside the way to the writers see samples and change nothing: not one byte, not the end of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import stages
from support.corpus import write_jsonl
from support.kill import tree
from support.leaks import LeakDetector
from support.runs import EnoughError, stop_at_first_shard
from typer.testing import CliRunner

from data_bridge.api import run_pipeline, status
from data_bridge.cli import app
from data_bridge.config import Settings, run_folder
from data_bridge.events import Event, Flushed, Notice
from data_bridge.model.metrics import MetricRecord, QueueUse, merged
from data_bridge.runtime import side

MAP = {"map": {"call": "support.stages:stamped"}}
LOOK, GLANCE = "support.stages:Look", "support.stages:Glance"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def settings(tmp_path: Path, out: str, *stages: dict[str, Any], **more: Any) -> Settings:
    if not (tmp_path / "source.jsonl").exists():
        write_jsonl(tmp_path / "source.jsonl", 400)
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / out),
        "samples_per_shard": 20,
        "partition_bytes": 12_000,
        "on_error": "skip",
        "stages": list(stages),
        **more,
    }
    return Settings.model_validate({"pipeline": values})


class Seen(LeakDetector):
    """What a run told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: tuple[MetricRecord, ...] = ()
        self.notices: list[str] = []

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if isinstance(event, Flushed):
            self.records = merged([*self.records, *event.records], over_time=True)
        elif isinstance(event, Notice):
            self.notices.append(event.message)

    def of(self, stage: str) -> MetricRecord:
        return next(record for record in self.records if record.stage == stage)

    def use(self, stage: str) -> QueueUse:
        found = self.of(stage).get(QueueUse, "input")
        assert found is not None
        return found


def shards_in(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(root).items() if name.endswith(".tar")}


def seen_by(run: str, stage: str) -> list[str]:
    files = (run_folder(run) / "stages" / stage).iterdir()
    return sorted(line for file in files for line in file.read_text().splitlines())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_one_that_may_miss_nothing_sees_every_sample_once_and_changes_no_byte(tmp_path: Path, workers: int) -> None:
    run_pipeline(settings(tmp_path, "plain", MAP), workers=workers)
    seen = Seen()
    looked = settings(
        tmp_path, "out", MAP, {LOOK: {}, "name": "look", "pool": "eyes"}, pools={"eyes": {"bytes": "20kB"}}
    )

    report = run_pipeline(looked, workers=workers, observer=seen)

    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    assert len(seen_by(report.run, "look")) == len(set(seen_by(report.run, "look"))) == report.samples
    record, use = seen.of("look"), seen.use("look")
    assert (record.count("rows_in"), record.count("dropped")) == (report.samples, 0)
    assert record.count("failed") + record.count("rows_out") == report.samples
    assert use.put == use.got > 0
    assert use.dropped == 0
    assert report.failed == 13, "those of the map alone: what it could not look at is no failure of the dataset"
    seen.assert_none("eyes")


def test_one_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side, "PATIENCE_S", 0.0)
    monkeypatch.setattr(side, "LOOK_S", 0.01)
    run_pipeline(settings(tmp_path, "plain", MAP, partition_bytes=1_000_000), workers=0)
    seen = Seen()
    look = {
        **MAP,
        "executor": "thread",  # in small packets, so that there are several
        "outputs": [{"name": "out"}, {"name": "look", "queue_capacity": 1, "overflow_behavior": "keep_newest"}],
    }
    stages.LOOK_GO.clear()
    try:
        report = run_pipeline(
            settings(
                tmp_path,
                "out",
                look,
                {GLANCE: {}, "name": "glance", "input": "map.look"},
                writers=[{"name": "w", "input": "map.out"}],
                partition_bytes=1_000_000,
            ),
            workers=0,
            observer=seen,
        )
    finally:
        stages.LOOK_GO.set()

    assert shards_in(tmp_path / "out") == shards_in(tmp_path / "plain")
    assert report.status == "completed_with_failures"
    assert any("glance is still at work" in notice for notice in seen.notices)
    use = seen.use("glance")
    assert use.put == use.got + use.dropped
    assert use.dropped > 0


def test_one_that_breaks_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    run_pipeline(settings(tmp_path, "plain", MAP), workers=0)
    seen = Seen()

    run_pipeline(settings(tmp_path, "out", MAP, {LOOK: {"fails_at": 0}, "name": "look"}), workers=2, observer=seen)

    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    assert any("look ended early" in n and "ValueError: cannot look at it" in n for n in seen.notices)
    assert seen.use("look").put == seen.use("look").got + seen.use("look").dropped


def test_a_look_may_come_and_go_while_a_dataset_is_made(tmp_path: Path) -> None:
    with pytest.raises(EnoughError):
        run_pipeline(settings(tmp_path, "out", MAP, {"preview": {}}), workers=0, observer=stop_at_first_shard)
    assert not status(str(tmp_path / "out")).complete

    report = run_pipeline(settings(tmp_path, "out", MAP), workers=0)

    assert report.resumed
    plan = next((tmp_path / "out" / "_bridge").glob("*/plan/000000.json"))
    assert [stage["name"] for stage in json.loads(plan.read_bytes())["config"]["stages"]] == ["map"]


def test_status_names_the_folder_of_a_preview(tmp_path: Path) -> None:
    report = run_pipeline(settings(tmp_path, "out", MAP, {"preview": {"samples": 2}}), workers=2)

    folder = run_folder(report.run) / "stages" / "preview"
    assert f"preview in   {folder}" in CliRunner().invoke(app, ["status", str(tmp_path / "out")]).output
    told = CliRunner().invoke(app, ["status", str(tmp_path / "out"), "--json"]).output
    assert json.loads(told)["stage_files"] == {"preview": str(folder)}
    assert len(list(folder.glob("*.json"))) == 2
    assert not any(path.stat().st_mode & 0o077 for path in (folder, folder.parent))
