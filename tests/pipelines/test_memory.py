"""What a slot has in flight stays within the setting, and the report says when that cost time."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.http_server import HttpServer
from support.seaweed import Seaweed, seaweed

from data_bridge.api import run_pipeline
from data_bridge.cli import words
from data_bridge.config import Settings
from data_bridge.events import BudgetUsed, Event
from data_bridge.model.report import RunReport

__all__ = ["seaweed"]

LINES = b"".join(b'{"id": %d, "text": "%s"}\n' % (n, b"x" * 4000) for n in range(10_000))


def head(size: int) -> bytes:
    """The first lines, about that many bytes."""
    return LINES[: LINES.index(b"\n", size) + 1]


def run(url: str, destination: str, **settings: Any) -> tuple[RunReport, dict[str, BudgetUsed]]:
    memory = settings.pop("memory_bytes")
    pipeline = {"input_uri": url, "output_uri": destination, "memory_bytes": memory, "workers": 0}
    events: list[Event] = []
    report = run_pipeline(Settings.model_validate({"pipeline": pipeline, **settings}), observer=events.append)
    return report, {event.name: event for event in events if isinstance(event, BudgetUsed)}


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_a_small_budget_slows_reading_down_and_changes_nothing_else(tmp_path: Path) -> None:
    with HttpServer() as server:
        url = server.serve("/rows.jsonl", LINES).url

        narrow, used = run(url, str(tmp_path / "narrow"), memory_bytes=1)
        wide, free = run(url, str(tmp_path / "wide"), memory_bytes="1GB")

    assert used["read"].peak_bytes < 33_000_000  # one range, however little is allowed
    assert used["read"].waits > 0
    assert narrow.memory_waited_s >= used["read"].waited_s > 0
    assert (free["read"].waits, wide.memory_waited_s) == (0, 0.0)
    assert free["read"].peak_bytes > used["read"].peak_bytes
    assert tars(tmp_path / "narrow") == tars(tmp_path / "wide") != {}


def test_what_is_sent_counts_too(seaweed: Seaweed, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(head(4_000_000))
    settings: Any = seaweed.settings

    _, used = run(str(tmp_path / "rows.jsonl"), f"s3://{seaweed.new_bucket()}/out", memory_bytes="1GB", s3=settings)

    assert 0 < used["send"].peak_bytes < 4_000_000


@pytest.mark.parametrize(("waited_s", "told"), [(0.0, False), (0.9, False), (1.1, True)])
def test_the_last_words_of_a_run_name_significant_waits(tmp_path: Path, waited_s: float, told: bool) -> None:
    (tmp_path / "rows.jsonl").write_bytes(head(100_000))
    report, _ = run(str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), memory_bytes=None)

    text = words.result(replace(report, seconds=10.0, memory_waited_s=waited_s), "again")

    assert ("pipeline.memory_bytes" in text) is told
