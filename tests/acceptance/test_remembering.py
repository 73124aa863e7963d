"""Stages that remember get all samples of a partition in order, and whoever goes on knows what they knew."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from support.kill import tree
from support.readers import read_json_samples
from support.runs import EnoughError, stop_at_first_shard

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, ConfigError
from data_bridge.testing import StageContract, assert_resumes

TALLY = {"support.stages:Tally": {}, "name": "tally"}


class TestTally(StageContract):
    kind = "support.stages:Tally"
    samples = [{"id": n} for n in (3, 4, 5, -1, 2, 7, 0, 9)]


def settings(tmp_path: Path, *stages: dict[str, Any], **more: Any) -> Settings:
    if not (tmp_path / "source.jsonl").exists():
        write_jsonl(tmp_path / "source.jsonl", 500)
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 20,
        "stages": list(stages),
        **more,
    }
    return Settings.model_validate({"pipeline": values})


@pytest.mark.parametrize("workers", [0, 2])
def test_it_sees_every_sample_in_order(tmp_path: Path, workers: int) -> None:
    run_pipeline(settings(tmp_path, TALLY), workers=workers)

    expected, total = [], 0
    for n in range(500):
        total += n
        expected += [total] if total % 7 else []
    assert [row["sum"] for row in read_json_samples(tmp_path / "out")] == expected


def test_a_run_that_is_killed_goes_on_with_what_was_known(tmp_path: Path) -> None:
    assert_resumes(TALLY, [{"id": n} for n in range(300)], tmp_path)


def test_what_is_known_stands_in_the_records_until_the_partition_is_done(tmp_path: Path) -> None:
    with pytest.raises(EnoughError):
        run_pipeline(settings(tmp_path, TALLY), workers=0, observer=stop_at_first_shard)
    records = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "out").glob("_bridge/*/ledger/*/*.json"))]
    shards = [record for record in records if record["kind"] == "shard"]
    assert all(set(record["state"]["stages"]) == {"tally"} for record in shards)

    run_pipeline(settings(tmp_path, TALLY), workers=0)

    records = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "out").glob("_bridge/*/ledger/*/*.json"))]
    (done,) = (record for record in records if record["kind"] == "done")
    assert not any(shard.get("state") for shard in done["shards"])


def test_a_state_that_is_too_large_or_no_json_ends_the_run_with_the_name_of_the_stage(tmp_path: Path) -> None:
    for kind, words in (("Hoarder", "its state has 100,"), ("Secretive", "its state cannot be kept")):
        with pytest.raises(BridgeError, match=f"stage x: {words}"):
            run_pipeline(settings(tmp_path, {f"support.stages:{kind}": {}, "name": "x"}), workers=0, fresh=True)


def test_what_cannot_go_together_with_it_is_told_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run_pipeline(settings(tmp_path, {**TALLY, "executor": "thread"}, {"dedupe": {"fields": ["id"]}}))

    assert "stages.tally.executor: it needs all samples in order" in refused.value.message
    assert (
        "stages.dedupe: looks at all samples first, in any order, and tally needs them in theirs"
        in refused.value.message
    )


def test_a_stage_behind_it_may_be_applied_on_other_cores(tmp_path: Path) -> None:
    trees = []
    for workers in (0, 3):
        run_pipeline(
            settings(tmp_path, TALLY, {"map": {"call": "support.stages:stamped"}}, on_error="skip"),
            workers=workers,
            fresh=True,
        )
        trees.append(tree(tmp_path / "out"))

    assert trees[0] == trees[1]
