"""Reports of a dataset in a bucket: what a stage measured is there for whoever reaches it."""

from pathlib import Path

import pytest
from support.corpus import write_jsonl
from support.seaweed import Seaweed

from data_bridge import api
from data_bridge.config import Settings, stages_folder


def test_a_report_is_read_from_the_bucket_and_is_that_of_a_folder(
    tmp_path: Path, seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_jsonl(tmp_path / "source.jsonl", 60, bad_every=17)
    written = []
    for destination in (str(tmp_path / "out"), f"s3://{bucket}/set"):
        pipeline = {
            "input_uri": str(tmp_path / "source.jsonl"),
            "output_uri": destination,
            "samples_per_shard": 9,
            "on_error": "skip",
            "workers": 0,
            "stages": [{"support.stages:Scored": {}, "report": True}],
        }
        s3 = seaweed.settings.model_dump(exclude_none=True)
        settings = Settings.model_validate({"pipeline": pipeline, "s3": s3})
        api.run_pipeline(settings)
        folder = stages_folder(api.run_id(destination, settings)) / "scored"
        found = api.report(destination, "scored", settings)
        assert found.complete
        written.append(((folder / "report.csv").read_text(), [(row["key"], row["score"]) for row in found.rows]))

    assert written[0] == written[1]
    assert len(written[0][1]) > 40
