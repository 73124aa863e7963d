"""A stage with inputs and outputs of its own naming: the same shards whatever packs them."""

from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from support.kill import tree
from support.readers import read_json_samples

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.testing import assert_resumes

STAGES: list[dict[str, Any]] = [
    {"support.stages:Copies": {"most": 3}, "name": "copies"},
    {"filter": {"call": "support.stages:is_even"}, "name": "even", "input": "source"},
    {"support.stages:Captioned": {}, "name": "joined", "input": {"texts": "copies", "pictures": "even"}},
]
WRITERS = [{"name": "with", "input": "joined.both"}, {"name": "without", "input": "joined.alone"}]


@pytest.mark.parametrize("executor", ["auto", "thread"])
def test_what_belongs_together_is_joined_whatever_the_number_of_workers(tmp_path: Path, executor: str) -> None:
    write_jsonl(tmp_path / "source.jsonl", 400)
    trees = []
    for workers in (0, 1, 2, 5):
        stages = [STAGES[0], {**STAGES[1], "executor": executor}, STAGES[2]]
        values = {
            "input_uri": str(tmp_path / "source.jsonl"),
            "output_uri": str(tmp_path / str(workers)),
            "samples_per_shard": 20,
            "partition_bytes": 20_000,
            "on_error": "skip",
            "stages": stages,
            "writers": WRITERS,
        }
        run_pipeline(Settings.model_validate({"pipeline": values}), workers=workers)
        trees.append(tree(tmp_path / str(workers)))

    assert trees[0] == trees[1] == trees[2] == trees[3]
    good = [i for i in range(0, 400, 2) if i % 31 != 5]
    both = {row["id"]: row["texts"] for row in read_json_samples(tmp_path / "0" / "with")}
    alone = {row["id"] for row in read_json_samples(tmp_path / "0" / "without")}
    assert both
    assert alone
    assert sorted([*both, *alone]) == good
    assert {len(texts) for texts in both.values()} == {1, 2}


def test_a_run_that_is_killed_joins_the_same(tmp_path: Path) -> None:
    samples = [{"id": n, "text": f"number {n}"} for n in range(300)]

    assert_resumes(STAGES, samples, tmp_path, writers=WRITERS)
