"""What a writer records with each of its shards."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.readers import read_tars
from support.runs import settings

from data_bridge import api
from data_bridge.pipelines.samples import NONFINITE

STAGES: dict[str, list[dict[str, Any]]] = {
    "alone": [],
    "several of one": [{"support.stages:Copies": {}}],
    "blocks": [{"shuffle": {"window": 64}}],
    "threads": [{"map": {"call": "support.stages:same"}, "executor": "thread"}],
    "memory": [{"support.stages:Tally": {}}],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=list(STAGES))
def test_a_shard_counts_the_warnings_of_its_own_samples(tmp_path: Path, stages: list[dict[str, Any]]) -> None:
    out = tmp_path / "out"
    table = pa.table({"id": range(300), "x": [float("nan") if n % 3 == 0 else 1.0 for n in range(300)]})
    pq.write_table(table, tmp_path / "source.parquet")

    api.run_pipeline(settings(tmp_path / "source.parquet", out, samples_per_shard=7, stages=stages, on_error="skip"))

    [done] = [
        json.loads(path.read_bytes())
        for path in out.glob("_bridge/*/ledger/*/*.json")
        if b'"done"' in path.read_bytes()
    ]
    counted = {shard["key"]: shard["warnings"].get(NONFINITE, 0) for shard in done["shards"] if shard["key"]}
    nulls = {
        shard.name: sum(json.loads(sample["json"])["x"] is None for sample in read_tars([shard]))
        for shard in out.glob("*.tar")
    }
    assert counted == nulls
