"""What is written down of samples that could not be used."""

from pathlib import Path

import pytest
from support.corpus import write_jsonl

from data_bridge.api import run_pipeline
from data_bridge.config import Settings


@pytest.mark.parametrize("workers", [0, 1])
def test_a_secret_that_a_function_tells_is_not_stored(tmp_path: Path, workers: int) -> None:
    write_jsonl(tmp_path / "source.jsonl", 40)
    refuses = {"map": {"call": "support.stages:refused", "arguments": {"token": "tk-secret-17"}}}
    settings = {"input_uri": str(tmp_path / "source.jsonl"), "output_uri": str(tmp_path / "out"), "on_error": "skip"}

    run_pipeline(Settings.model_validate({"pipeline": {**settings, "stages": [refuses]}}), workers=workers)

    stored = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(b"login with *** refused" in content for content in stored)
    assert not any(b"tk-secret-17" in content for content in stored)
