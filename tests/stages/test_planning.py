"""What the author of a config with stages is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.console import data_bridge, environment

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import ConfigError

ROOT = Path(__file__).parents[2]
TEXT = ROOT / "configs" / "data" / "text.jsonl"
SHARES = [{"name": "train", "weight": 0.5}, {"name": "val", "weight": 0.5}]


def settings(out: Path, *stages: dict[str, Any]) -> Settings:
    pipeline = {"input_uri": str(TEXT), "output_uri": str(out), "stages": list(stages), "workers": 0}
    return Settings.model_validate({"pipeline": pipeline})


def test_stages_that_name_fields_there_are_not_are_told_together_before_any_runs(tmp_path: Path) -> None:
    made = settings(
        tmp_path / "out",
        {"filter": {"where": {"txt": {"min_length": 5}}}},
        {"filter": {"where": {"storey": {"null": False}}}},
        {"cast": {"fields": {"text": "int64", "paragraf": "int64"}}},
        {"split": {"field": "words"}, "outputs": SHARES},
    )

    with pytest.raises(ConfigError) as refused:
        api.plan(made)

    assert refused.value.message.splitlines() == [
        "stages.filter: where: there is no field 'txt' here",
        "stages.filter-2: where: there is no field 'storey' here",
        "stages.cast: fields: there is no field 'paragraf' here",
    ]
    assert "did you mean 'text'?" in refused.value.hint


def test_behind_a_stage_of_ones_own_fields_are_those_that_its_samples_have(tmp_path: Path) -> None:
    functions = tmp_path / "functions.py"
    functions.write_text("def counted(row):\n    return {'id': row['id'], 'words': len(row['text'].split())}\n")
    counted = {"map": {"call": f"{functions}:counted"}}

    report = api.run_pipeline(settings(tmp_path / "out", counted, {"filter": {"where": {"words": {"min": 50}}}}))

    assert 0 < report.samples < 1692
    with pytest.raises(ConfigError, match="no field 'text' here"):
        api.plan(settings(tmp_path / "other", counted, {"filter": {"where": {"text": {"min_length": 50}}}}))


def test_a_run_with_several_writers_says_how_each_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"pipeline: {{input_uri: {TEXT}, output_uri: {tmp_path}/out, stages: [{{split: {{}}, "
        "outputs: [{name: train, weight: 0.5}, {name: val, weight: 0.5}]}]}"
    )

    done = data_bridge("run", config, "--workers", "0", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    how = [line.strip() for line in done.stdout.splitlines() if line.startswith("  webdataset.")]
    assert len(how) == 2
    read = "\n".join(["import glob, webdataset", *(f"assert next(iter({line}))['json']" for line in how)])
    subprocess.run([sys.executable, "-c", read], env=environment(), cwd=tmp_path, check=True, timeout=120)


def test_fields_that_do_not_fit_what_stages_declare_are_told_together(tmp_path: Path) -> None:
    made = settings(
        tmp_path / "out",
        {"support.stages:Numbered": {}, "name": "first"},
        {"drop": {"fields": ["text"]}},
        {"support.stages:Numbered": {}, "name": "second"},
    )

    with pytest.raises(ConfigError) as refused:
        api.plan(made)

    assert refused.value.message.splitlines() == [
        "stages.first: needs `id`: expected int, found string",
    ], "what comes behind a stage of unknown fields is known once samples pass it"
    made = settings(
        tmp_path / "out",
        {"drop": {"fields": ["text"]}},
        {"support.stages:Numbered": {}, "name": "second"},
    )
    with pytest.raises(ConfigError) as refused:
        api.plan(made)

    assert refused.value.message.splitlines() == [
        "stages.second: needs `id`: expected int, found string",
        "stages.second: needs `text`: expected text, found no such field among id, story, paragraph",
    ]


def test_samples_that_do_not_fit_are_failures_of_their_stage_and_in_no_shard(tmp_path: Path) -> None:
    lines = [{"id": n if n % 10 else str(n), "text": "a"} for n in range(200)]
    (tmp_path / "source.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    made = settings(tmp_path / "out", {"support.stages:Numbered": {}}).model_dump()
    made["pipeline"] |= {"input_uri": str(tmp_path / "source.jsonl"), "on_error": "skip"}

    report = api.run_pipeline(Settings.model_validate(made))

    assert (report.samples, report.failed) == (175, 25)
    failures = "".join(path.read_text() for path in (tmp_path / "out").glob("_bridge/*/failures/*"))
    assert "needs `id`: expected a valid integer, found str '10'" in failures
    assert "gave `number`: expected a valid integer, found str 'x'" in failures
