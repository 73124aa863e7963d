"""Named pools bound what waits, and everything they lend comes back, whatever ends the run."""

from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from support.kill import tree
from support.leaks import LeakDetector

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import BridgeError

PACKET_BYTES = 64 * 1000
"""No packet of 64 of these rows is larger."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def settings(tmp_path: Path, out: str, function: str, pool: str | None, size: int = 1) -> Settings:
    if not (tmp_path / "source.jsonl").exists():
        write_jsonl(tmp_path / "source.jsonl", 1600)
    stage: dict[str, Any] = {"map": {"call": f"support.stages:{function}"}, "executor": "thread", "workers": 4}
    values = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / out),
        "samples_per_shard": 40,
        "on_error": "skip",
        "stages": [
            {**stage, "pool": pool, "name": "first"},
            {**stage, "pool": pool, "name": "second", "output": {"queue_capacity": 3}},
        ],
        "pools": {pool: {"bytes": size}} if pool else {},
    }
    return Settings.model_validate({"pipeline": values})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [1, 100_000, 10_000_000])
def test_a_pool_of_any_size_changes_no_byte_and_gets_everything_back(tmp_path: Path, size: int, workers: int) -> None:
    """Also one that is too small for a single packet: each stage goes on with one at a time."""
    run_pipeline(settings(tmp_path, "plain", "stamped", None), workers=workers)
    leaks = LeakDetector()

    run_pipeline(settings(tmp_path, "out", "stamped", "shared", size), workers=workers, observer=leaks)

    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    leaks.assert_none("shared")
    assert leaks.peak("shared") <= max(size, 2 * PACKET_BYTES)


def test_an_error_in_the_middle_gives_everything_back(tmp_path: Path) -> None:
    leaks = LeakDetector()

    with pytest.raises(BridgeError, match="the 1500th"):
        run_pipeline(settings(tmp_path, "out", "fatal_at_1500", "shared", 100_000), workers=0, observer=leaks)

    leaks.assert_none("shared")
