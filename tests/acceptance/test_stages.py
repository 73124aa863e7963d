"""A graph of stages in a whole run: every sample of the source is accounted for, and workers change no byte."""

import json
from pathlib import Path

import pytest
from support.corpus import write_jsonl
from support.kill import tree
from support.kill_cases import CASES
from support.readers import read_json_samples

from data_bridge.api import run_pipeline, verify
from data_bridge.config import Settings
from data_bridge.errors import ConflictError
from data_bridge.model.manifest import MANIFEST_KEY

STAGED = [name for name, case in CASES.items() if "stages" in case.pipeline]
WITH_FAILURES = 3


def failures_of(root: Path) -> list[dict[str, object]]:
    files = json.loads((root / MANIFEST_KEY).read_bytes())["failures"]
    return [json.loads(line) for name in files for line in (root / name).read_bytes().splitlines()]


@pytest.mark.parametrize("name", STAGED)
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    settings = CASES[name].settings(tmp_path / "source")
    trees = []
    for workers in (0, 1, 2, 5):
        root = tmp_path / f"out{workers}"
        pipeline = settings.pipeline.model_copy(update={"output_uri": str(root)})
        report = run_pipeline(settings.model_copy(update={"pipeline": pipeline}), workers=workers)
        assert report.exit_code == WITH_FAILURES
        assert verify(str(root), deep=True).problems == ()
        trees.append(tree(root))

    assert trees[1:] == trees[:1] * 3


def test_every_sample_is_in_one_shard_or_failed_or_dropped_on_purpose(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "source.jsonl", 300, bad_every=17)
    settings = Settings.model_validate(
        {
            "pipeline": {
                "input_uri": str(tmp_path / "source.jsonl"),
                "output_uri": str(tmp_path / "out"),
                "samples_per_shard": 20,
                "partition_bytes": 12_000,
                "on_error": "quarantine",
                "stages": [
                    {"filter": {"call": "support.stages:is_even"}},
                    {"shuffle": {"window": 32}},
                    {"map": {"call": "support.stages:stamped"}},
                ],
            }
        }
    )

    report = run_pipeline(settings, workers=2)

    even = [row["id"] for row in good if row["id"] % 2 == 0]  # type: ignore[operator] # ids are numbers
    stamped = [i for i in even if i % 31 != 5]  # type: ignore[operator]
    samples = read_json_samples(tmp_path / "out")
    assert sorted(row["id"] for row in samples) == stamped
    assert [row["id"] for row in samples] != stamped, "they are shuffled"
    assert all(row["stamp"] == row["id"] * 3 for row in samples)
    failures = failures_of(tmp_path / "out")
    assert report.failed == len(failures) == 300 // 17 + len(even) - len(stamped)
    assert {f["stage"] for f in failures} == {"source", "map"}
    assert [json.loads(str(f["raw"]))["id"] for f in failures if f["stage"] == "map"] == [
        i for i in even if i not in stamped
    ]


def test_a_stage_that_waits_before_a_shuffle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.jsonl", 2500)
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "stages": [
            {"map": {"call": "support.stages:is_even_too"}, "executor": "thread"},
            {"shuffle": {"window": 1700}},
        ],
    }

    run_pipeline(Settings.model_validate({"pipeline": values}), workers=0)

    assert sorted(row["id"] for row in read_json_samples(tmp_path / "out")) == list(range(2500))


def test_a_stage_decides_for_itself_what_a_failure_means(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.jsonl", 100)
    stage = {"map": {"call": "support.stages:stamped"}, "on_error": "skip"}
    values = {"input_uri": str(tmp_path / "source.jsonl"), "output_uri": str(tmp_path / "out"), "stages": [stage]}

    report = run_pipeline(Settings.model_validate({"pipeline": values}), workers=0)

    assert (report.samples, report.failed) == (96, 4)
    assert all("raw" not in failure for failure in failures_of(tmp_path / "out"))


def test_other_code_of_a_stage_is_not_continued_in_silence(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.jsonl", 100)
    code = tmp_path / "own.py"
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "stages": [{"map": {"call": f"{code}:same"}}],
    }
    code.write_text("def same(row):\n    return row\n")
    run_pipeline(Settings.model_validate({"pipeline": values}), workers=0)
    code.write_text("def same(row):\n    return {**row, 'id': 0}\n")

    with pytest.raises(ConflictError, match="libraries that make bytes"):
        run_pipeline(Settings.model_validate({"pipeline": values}), workers=0)


def test_one_pass_over_the_source_fills_writers_of_several_formats(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "source.jsonl", 200)
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 30,
        "stages": [
            {
                "split": {},
                "outputs": [
                    {"name": "train", "weight": 8},
                    {"name": "val", "weight": 1},
                    {"name": "test", "weight": 1},
                ],
            }
        ],
        "writers": [
            {"name": "train", "input": "split.train"},
            {"name": "val", "input": "split.val", "format": "litdata"},
            {"name": "test", "input": "split.test"},
            {"name": "all", "input": "source", "samples_per_shard": 64},
        ],
    }

    report = run_pipeline(Settings.model_validate({"pipeline": values}), workers=0)

    manifest = json.loads((tmp_path / "out" / MANIFEST_KEY).read_bytes())
    counts = {name: info["samples"] for name, info in manifest["writers"].items()}
    train, test = read_json_samples(tmp_path / "out" / "train"), read_json_samples(tmp_path / "out" / "test")
    assert report.samples == 400
    assert counts["all"] == 200
    assert counts["train"] + counts["val"] + counts["test"] == 200
    assert {row["id"] for row in train}.isdisjoint(row["id"] for row in test)
    assert read_json_samples(tmp_path / "out" / "all") == good
    assert (tmp_path / "out" / "val" / "index.json").is_file()
    assert (tmp_path / "out" / "train" / "shards.txt").is_file()


def test_a_writer_beside_a_shuffle_keeps_the_order_and_the_names_of_a_run_without_one(tmp_path: Path) -> None:
    source = CASES["parquet shuffled beside its own order"].source(tmp_path)
    same = {"map": {"call": "support.stages:is_small_or_not"}, "input": "source", "name": "same"}
    shuffled = {"shuffle": {"window": 16}, "input": "source"}
    writers = [{"name": "same", "input": "same"}, {"name": "shuffled", "input": "shuffle"}]
    values = {"input_uri": source, "samples_per_shard": 10, "on_error": "skip"}

    for out, more in (("alone", {"stages": [same]}), ("both", {"stages": [same, shuffled], "writers": writers})):
        run_pipeline(
            Settings.model_validate({"pipeline": {**values, **more, "output_uri": str(tmp_path / out)}}), workers=0
        )

    alone, both = tree(tmp_path / "alone"), tree(tmp_path / "both")
    assert {f"same/{name}": data for name, data in alone.items() if name.endswith(".tar")} == {
        name: data for name, data in both.items() if name.startswith("same/") and name.endswith(".tar")
    }
