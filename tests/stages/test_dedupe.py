"""One of all samples that are the same: over all partitions, the first one, whatever dies on the way."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from support.readers import read_json_samples

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.model.report import RunReport


def run(source: Path, out: Path, *stages: dict[str, Any], workers: int = 0, **more: Any) -> RunReport:
    values = {
        "input_uri": str(source),
        "output_uri": str(out),
        "partition_bytes": 5_000,
        "samples_per_shard": 25,
        "stages": list(stages),
        **more,
    }
    return run_pipeline(Settings.model_validate({"pipeline": values}), workers=workers)


def write(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path.write_text("\n".join(map(json.dumps, rows)))
    return rows


@pytest.fixture
def repeats(tmp_path: Path) -> list[dict[str, Any]]:
    rng = random.Random(5)
    rows = [{"id": i, "text": f"text {rng.randrange(150)}", "site": rng.randrange(3)} for i in range(400)]
    return write(tmp_path / "source.jsonl", rows)


@pytest.mark.parametrize("fields", [["text"], ["text", "site"]])
def test_the_first_of_equal_samples_is_kept_over_all_partitions(
    tmp_path: Path, repeats: list[dict[str, Any]], fields: list[str]
) -> None:
    run(tmp_path / "source.jsonl", tmp_path / "out", {"dedupe": {"fields": fields}})

    first: dict[Any, int] = {}
    for row in repeats:
        first.setdefault(tuple(row[name] for name in fields), row["id"])
    assert [row["id"] for row in read_json_samples(tmp_path / "out")] == list(first.values())


def test_whole_samples_are_compared_where_no_field_is_named(tmp_path: Path) -> None:
    rows = write(tmp_path / "source.jsonl", [{"a": i % 7, "b": [i % 3]} for i in range(300)])

    run(tmp_path / "source.jsonl", tmp_path / "out", {"dedupe": {}})

    assert read_json_samples(tmp_path / "out") == rows[:21]


def test_what_the_stages_before_made_is_compared(tmp_path: Path, repeats: list[dict[str, Any]]) -> None:
    copies = {"support.stages:Copies": {"most": 3}}

    run(tmp_path / "source.jsonl", tmp_path / "out", {"select": {"fields": ["site"]}}, copies, {"dedupe": {}})

    assert sorted(row["site"] for row in read_json_samples(tmp_path / "out")) == [0, 1, 2]
    assert len(repeats) == 400


def test_nearly_equal_texts_are_found_and_others_kept(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = [f"w{n}" for n in range(5000)]
    originals = [" ".join(rng.choices(words, k=120)) for _ in range(30)]
    rows = [{"id": i, "text": text} for i, text in enumerate(originals)]
    rows += [{"id": 100 + i, "text": f"{text} and one more"} for i, text in enumerate(originals)]
    write(tmp_path / "source.jsonl", rows)

    run(tmp_path / "source.jsonl", tmp_path / "out", {"dedupe": {"near": "text", "similarity": 0.7}})

    assert [row["id"] for row in read_json_samples(tmp_path / "out")] == list(range(30))


def test_a_second_survey_builds_on_the_first(tmp_path: Path, repeats: list[dict[str, Any]]) -> None:
    run(
        tmp_path / "source.jsonl",
        tmp_path / "out",
        {"dedupe": {"fields": ["text"]}},
        {"dedupe": {"fields": ["site"]}, "name": "sites"},
    )

    texts: dict[str, dict[str, Any]] = {}
    for row in repeats:
        texts.setdefault(row["text"], row)
    sites: dict[int, int] = {}
    for row in texts.values():
        sites.setdefault(row["site"], row["id"])
    assert [row["id"] for row in read_json_samples(tmp_path / "out")] == sorted(sites.values())


@pytest.mark.parametrize(("missing", "kept", "failed"), [("fail", 0, 3), ("keep", 3, 0)])
def test_a_sample_without_the_field_fails_or_is_kept(tmp_path: Path, missing: str, kept: int, failed: int) -> None:
    write(tmp_path / "source.jsonl", [{"a": 1}, {"a": None}, {"b": 2}, {"a": 1}, {"a": None}])

    report = run(
        tmp_path / "source.jsonl", tmp_path / "out", {"dedupe": {"fields": ["a"], "missing": missing}}, on_error="skip"
    )

    assert (report.samples, report.failed) == (1 + kept, failed)


def test_new_files_are_compared_with_those_before_which_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder / "0.jsonl", [{"a": i % 20, "id": i} for i in range(200)])
    run(folder, tmp_path / "out", {"dedupe": {"fields": ["a"]}}, input_format="jsonl", input_uri=f"{folder}/*.jsonl")
    write(folder / "1.jsonl", [{"a": i % 30, "id": 1000 + i} for i in range(200)])

    run(folder, tmp_path / "out", {"dedupe": {"fields": ["a"]}}, input_format="jsonl", input_uri=f"{folder}/*.jsonl")

    assert [row["id"] for row in read_json_samples(tmp_path / "out")] == [*range(20), *range(1020, 1030)]


def test_what_is_waited_for_is_not_waited_for_twice(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.jsonl", 5)
    slow = {"map": {"call": "support.stages:stamped"}, "executor": "thread"}

    with pytest.raises(ConfigError, match="would wait for each twice"):
        run(tmp_path / "source.jsonl", tmp_path / "out", slow, {"dedupe": {}})
