"""Stages that remember, while a run goes on."""

import json
from itertools import accumulate
from pathlib import Path

import pytest
from support.readers import read_json_samples
from support.runs import settings

from data_bridge import api
from data_bridge.events import ChangeApplied, Event, SamplesPacked


def test_a_live_change_finds_what_the_stage_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "source.jsonl").write_text("".join(json.dumps({"id": n}) + "\n" for n in range(20_000)))
    out = tmp_path / "out"
    applied: list[ChangeApplied] = []
    asked = False

    def observer(event: Event, /) -> None:
        nonlocal asked
        if isinstance(event, SamplesPacked) and not asked:
            asked = True
            api.control(str(out)).set("mine", "weight", 3)
        if isinstance(event, ChangeApplied):
            applied.append(event)

    stages = [{"support.stages:Weighed": {}, "name": "mine"}]
    made = settings(tmp_path / "source.jsonl", out, samples_per_shard=5_000, partition_bytes="10MB", stages=stages)
    api.run_pipeline(made, observer=observer)

    (change,) = applied
    assert 0 < change.index < 20_000
    weighed = accumulate(n * (1 if n < change.index else 3) for n in range(20_000))
    assert [sample["total"] for sample in read_json_samples(out)] == list(weighed)
