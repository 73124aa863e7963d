"""What a stage measured, shown and filtered: at the end, on the way, as a table, CSV and JSON."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from typer.testing import CliRunner

from data_bridge import api
from data_bridge.cli import app
from data_bridge.config import Settings, stages_folder
from data_bridge.errors import ConfigError
from data_bridge.events import Event, ShardCommitted

SCORED = "support.stages:Scored"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_jsonl(tmp_path / "source.jsonl", 100)
    pipeline = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 10,
        "on_error": "skip",
        "workers": 0,
        "stages": [{SCORED: {}, "report": True}, {"text_normalize": {"fields": ["text"]}}],
    }
    return Settings.model_validate({"pipeline": pipeline})


def out(settings: Settings) -> str:
    return str(settings.pipeline.output_uri)


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_rows_are_those_of_the_file(settings: Settings) -> None:
    api.run_pipeline(settings)
    file = stages_folder(api.run_id(out(settings))) / "scored" / "report.csv"

    assert said(out(settings), "scored", "--csv") == file.read_text()

    found = json.loads(said(out(settings), "scored", "--json"))
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert (found["complete"], found["count"]) == (True, len(rows))
    assert found["columns"] == ["index", "key", "score", "grade"]
    assert [row["key"] for row in found["rows"]] == [row["key"] for row in rows]
    assert set(found["rows"][0]) == {"index", "key", "seconds", "score", "grade", "vowels", "cost_usd"}


def test_a_table_shows_the_first_rows_and_how_many_there_are(settings: Settings) -> None:
    api.run_pipeline(settings)
    done = CliRunner().invoke(app, ["report", out(settings), "scored"])

    lines = done.stdout.splitlines()
    assert lines[0].split() == ["index", "key", "score", "grade"]
    assert len(lines) == 21
    assert done.stderr == "20 of 95 rows, complete\n"
    assert len(said(out(settings), "scored", "--limit", "3").splitlines()) == 4


def test_filters_must_all_hold(settings: Settings) -> None:
    api.run_pipeline(settings)
    every: list[dict[str, Any]] = list(api.report(out(settings), "scored").rows)

    found = json.loads(said(out(settings), "scored", "--json", "--filter", "score>5", "--filter", "grade != null"))

    expected = [row for row in every if row["score"] > 5 and row["grade"] is not None]
    assert 0 < len(expected) < len(every)
    assert found["rows"] == expected
    assert (
        list(api.report(out(settings), "scored", filters=["cost_usd > 0"], limit=2).rows)
        == [row for row in every if row["cost_usd"] > 0][:2]
    )
    assert json.loads(said(out(settings), "scored", "--json", "--filter", "score < 0"))["rows"] == []


def test_rows_are_shown_while_the_run_goes_on(settings: Settings) -> None:
    seen: list[tuple[bool, list[str]]] = []

    def look(event: Event) -> None:
        if isinstance(event, ShardCommitted):
            found = api.report(out(settings), "scored")
            seen.append((found.complete, [row["key"] for row in found.rows]))

    api.run_pipeline(settings, observer=look)

    last = [row["key"] for row in api.report(out(settings), "scored").rows]
    assert len(seen) > 3
    assert {complete for complete, _ in seen} == {False}
    assert all(keys == last[: len(keys)] for _, keys in seen)
    assert sorted(len(keys) for _, keys in seen) == [len(keys) for _, keys in seen]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score"], "there is no stage 'score', did you mean `scored`?"),
        (["text_normalize"], "nothing was kept of what text_normalize measures"),
        (["scored", "--filter", "scores>1"], "there is no column 'scores', did you mean `score`?"),
        (["scored", "--filter", "grade>1"], "is text, not a number"),
        (["scored", "--filter", "score"], "'score' is no condition"),
        (["scored", "--csv", "--json"], "--csv and --json exclude each other"),
    ],
)
def test_what_cannot_be_asked_is_refused(settings: Settings, arguments: list[str], words: str) -> None:
    api.run_pipeline(settings)

    done = CliRunner().invoke(app, ["report", out(settings), *arguments])

    assert isinstance(done.exception, ConfigError)
    assert words in done.exception.message
