"""What a run tells of its parts is what they did."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.oracle import Oracle

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.events import Event, Flushed, RunPlanned
from data_bridge.model.metrics import Count, Gauge, Load, MetricRecord, QueueUse, Statistics, merged
from data_bridge.monitor.aggregate import Aggregate
from data_bridge.monitor.series import CATALOGUE, PREFIX, families

ROWS = 3000
CALLED = """
from data_bridge.model.metrics import Count, Gauge
from data_bridge.runtime.stage import Skip, Stage, StageOptions

def tidy(row):
    if row["n"] % 100 == 7:
        raise Skip("a seven")
    return row

class Odd(Stage[StageOptions]):
    kind = "odd"

    def __init__(self, options, outlets=()):
        super().__init__(options, outlets)
        self._sum = 0

    def fields(self, fields):
        return fields

    def flush_metrics(self):
        counted, self._sum = (Count("sum_of_n", self._sum), Gauge("window_current", len(str(self._sum)))), 0
        return counted

    def process(self, batch):
        rows, *_ = batch.apply(lambda row: row["n"])
        self._sum += sum(rows)
        return batch.same(batch.rows)

def even(row):
    return row["n"] % 2 == 0
"""


def records_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, *more: Callable[[Event], None]
) -> dict[str, MetricRecord]:
    (tmp_path / "called_by_test.py").write_text(CALLED)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"n": n, "text": "x" * 50}) + "\n" for n in range(ROWS)))
    settings = Settings.model_validate(
        {
            "pipeline": {
                "input_uri": str(tmp_path / "rows.jsonl"),
                "output_uri": str(tmp_path / "out"),
                "samples_per_shard": 400,
                "partition_bytes": 100_000,
                "on_error": "skip",
                "pools": {"tight": {"bytes": 1}},
                "stages": [
                    {"map": {"call": "called_by_test:tidy"}, "name": "tidy", "executor": "thread", "pool": "tight"},
                    {"filter": {"call": "called_by_test:even"}, "name": "even"},
                    {"called_by_test:Odd": {}, "name": "sums"},
                    {"sample": {"fraction": 0.5}, "name": "off", "enabled": False},
                ],
            }
        }
    )
    found: list[MetricRecord] = []

    def observer(event: Event) -> None:
        if isinstance(event, Flushed):
            found.extend(event.records)
        for one in more:
            one(event)

    report = api.run_pipeline(settings, observer=observer, workers=workers)
    assert report.samples == ROWS // 2
    assert report.failed == ROWS // 100
    return {record.stage: record for record in merged(found, over_time=True)}


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_counted_from_the_source_to_the_store(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = records_of(tmp_path, monkeypatch, workers)

    failed, half = ROWS // 100, ROWS // 2
    rows = {
        name: tuple(parts[name].count(count) for count in ("rows_in", "rows_out", "failed", "dropped"))
        for name in ("source", "tidy", "even", "writer")
    }
    assert rows == {
        "source": (ROWS, ROWS, 0, 0),
        "tidy": (ROWS, ROWS - failed, failed, 0),
        "even": (ROWS - failed, half, 0, half - failed),
        "writer": (half, half, 0, 0),
    }
    assert list(parts) == ["source", "tidy", "even", "sums", "off", "writer", "shards", "upload", "memory", "tight"]
    assert {r.stage: r.stage_type for r in parts.values()}["tidy"] == "map"
    assert (parts["off"].count("bypassed"), parts["off"].count("rows_in")) == (half, 0)
    assert parts["sums"].count("sum_of_n") == sum(range(0, ROWS, 2))
    shards = list((tmp_path / "out").glob("*.tar"))
    assert parts["upload"].count("shards") == len(shards)
    assert parts["upload"].count("bytes") == sum(shard.stat().st_size for shard in shards)
    queue, seconds = parts["upload"].get(QueueUse, "uploads"), parts["upload"].get(Statistics, "upload_seconds")
    assert queue is not None
    assert (queue.put, queue.got, queue.dropped) == (len(shards), len(shards), 0)
    assert seconds is not None
    assert seconds.count == len(shards)
    memory, staged = parts["memory"].get(Gauge, "memory_bytes"), parts["upload"].get(Gauge, "staged_bytes")
    assert memory is not None
    assert staged is not None
    assert (memory.value, staged.value) == (0, 0)
    for name in ("source", "tidy", "even", "writer", "shards", "upload"):
        load = parts[name].get(Load, "load")
        assert load is not None, name
        assert load.busy_s > 0, name


def test_the_catalogue_has_every_name_of_a_run_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    aggregate = Aggregate()

    def look(event: Event) -> None:
        aggregate(event)
        if isinstance(event, (Flushed, RunPlanned)):
            aggregate.roll()
            for family in families(aggregate.snapshot()):
                seen.add(family.name.removeprefix(PREFIX) + ("_total" if family.kind == "counter" else ""))

    records_of(tmp_path, monkeypatch, 0, look)
    (tmp_path / "asked.jsonl").write_text('{"id": 1}\n')
    with Oracle() as oracle:
        pipeline = {
            "input_uri": str(tmp_path / "asked.jsonl"),
            "output_uri": str(tmp_path / "paid"),
            "stages": [{"support.oracle:Asks": {"url": oracle.url}}],
        }
        api.run_pipeline(Settings.model_validate({"pipeline": pipeline}), observer=look, workers=0)

    aggregate(RunPlanned("0" * 16, "file:///out", 1, 0, ROWS, None, 0, 0))  # a source that is counted
    seen |= {family.name.removeprefix(PREFIX) for family in families(aggregate.snapshot())} & {"samples_expected"}
    assert seen == set(CATALOGUE) | {"sum_of_n_total", "window_current"}
    assert all(
        isinstance(m, (Count, Gauge, Load, QueueUse, Statistics)) for r in aggregate.snapshot().total for m in r.metrics
    )
