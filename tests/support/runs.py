"""Runs of 120 samples in this process, in shards of 50: `from support.runs import out, settings, source`. And how one is
ended early."""

from pathlib import Path

import pytest
from support.corpus import write_jsonl

from data_bridge.config import Settings
from data_bridge.events import Event, ShardCommitted


def settings(source: Path | str | list[str], out: Path | str, **more: object) -> Settings:
    where = source if isinstance(source, list) else str(source)
    return Settings.model_validate(
        {"pipeline": {"input_uri": where, "output_uri": str(out), "samples_per_shard": 50, "workers": 0, **more}}
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    write_jsonl(path, 120)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class EnoughError(Exception):
    """Ends a run from its observer."""


def stop_at_first_shard(event: Event, /) -> None:
    """An observer that ends the run once a shard is committed."""
    if isinstance(event, ShardCommitted):
        raise EnoughError
