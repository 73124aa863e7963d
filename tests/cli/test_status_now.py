"""`status` says what a run does at this moment, when it does something."""

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_bridge import api
from data_bridge.cli import app
from data_bridge.config import Settings, run_folder
from data_bridge.errors import ConfigError
from data_bridge.events import Event, ShardCommitted
from data_bridge.monitor.folder import latest
from data_bridge.monitor.session import Monitor


def test_the_status_of_a_run_in_work_has_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Monitor.__init__, "__kwdefaults__", {"place": run_folder, "pace_s": 0.02, "push_s": 1.0})
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(100)))
    out = str(tmp_path / "out")
    settings = Settings.model_validate(
        {"pipeline": {"input_uri": str(tmp_path / "rows.jsonl"), "output_uri": out, "samples_per_shard": 10}}
    )
    told: list[tuple[str, dict[str, object]]] = []

    def look(event: Event) -> None:
        if isinstance(event, ShardCommitted) and not told:
            run = api.run_id(out)
            # the monitor's own thread writes while the run waits in this observer
            for _ in range(1000):
                if latest(run_folder(run)) is not None:
                    break
                threading.Event().wait(0.01)
            text = CliRunner().invoke(app, ["status", out]).output
            told.append((text, json.loads(CliRunner().invoke(app, ["status", out, "--json"]).output)))

    report = api.run_pipeline(settings, observer=look, workers=0)

    ((text, found),) = told
    assert "samples/s packed, 1 partition in work" in text
    now = found["now"]
    assert isinstance(now, dict)
    assert (now["run"], now["state"]) == (report.run, "running")
    after = json.loads(CliRunner().invoke(app, ["status", out, "--json"]).output)
    assert "now" not in after
    assert api.now(report.run) is None


def test_each_stage_has_a_status_and_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Monitor.__init__, "__kwdefaults__", {"place": run_folder, "pace_s": 0.02, "push_s": 1.0})
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(100)))
    out = str(tmp_path / "out")
    stages = [{"filter": {"call": "support.stages:is_even"}}, {"map": {"call": "support.stages:stamped"}}]
    pipeline = {"input_uri": str(tmp_path / "rows.jsonl"), "output_uri": out, "samples_per_shard": 10, "stages": stages}
    settings = Settings.model_validate({"pipeline": {**pipeline, "on_error": "skip"}})
    during: list[list[dict[str, object]]] = []

    def told() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(CliRunner().invoke(app, ["status", out, "--json"]).output)["stages"]
        return found

    def look(event: Event) -> None:
        if isinstance(event, ShardCommitted) and not during:
            folder = run_folder(api.run_id(out))
            for _ in range(1000):
                if latest(folder) is not None:
                    break
                threading.Event().wait(0.01)
            during.append(told())
            api.control(out).pause()
            during.append(told())
            api.control(out).resume()

    api.run_pipeline(settings, observer=look, workers=0)

    assert [{stage["status"] for stage in stages} for stages in during] == [{"processing"}, {"paused"}]
    kept, stamp = told()
    assert (kept["status"], kept["processed"], kept["skipped"], kept["failed"]) == ("completed", 100, 50, 0)
    # of the even numbers 36 and 98 cannot be stamped
    assert (stamp["status"], stamp["processed"], stamp["failed"]) == ("completed_with_failures", 50, 2)


def test_nothing_that_was_not_run_has_an_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dataset at"):
        api.run_id(str(tmp_path))
