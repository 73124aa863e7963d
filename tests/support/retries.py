"""Runs of 200 samples whose service is away at first: `from support.retries import mend, settings`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.events import Event, PartitionDone

SAMPLES = 200
AWAY = {i for i in range(SAMPLES) if i % 7 == 3}
"""Samples that fail while the service is away."""
NEVER = {i for i in range(SAMPLES) if i % 50 == 9}
"""Samples that always fail."""


def settings(folder: Path, out: Path | None = None, **more: object) -> Settings:
    """A run over JSON lines in several partitions, made in the folder when they are not there."""
    source = folder / "source.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in _rows(folder)))
    return _settings(source, out, more)


def counted(folder: Path, out: Path, **more: object) -> Settings:
    """The same over rows that are counted."""
    source = folder / "source.parquet"
    if not source.exists():
        pq.write_table(pa.Table.from_pylist(_rows(folder)), source, row_group_size=20)
    return _settings(source, out, more)


class Changing:
    """An observer that gives the stage `times` another factor when the first partition is done."""

    def __init__(self, out: Path, factor: int) -> None:
        self._out = out
        self._factor: int | None = factor

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, PartitionDone) and self._factor is not None:
            api.control(str(self._out)).set("times", "arguments", {"factor": self._factor})
            self._factor = None


TIMES = [{"map": {"call": "support.stages:served"}}, {"map": {"call": "support.live_calls:times"}, "name": "times"}]
"""Stages of which one can be changed by `Changing`."""


def mend(folder: Path) -> None:
    """From now on the service is there."""
    (folder / "service").touch()


def _rows(folder: Path) -> list[dict[str, object]]:
    return [{"id": i, "service": str(folder / "service")} for i in range(SAMPLES)]


def _settings(source: Path, out: Path | None, more: dict[str, object]) -> Settings:
    pipeline: dict[str, object] = {
        "input_uri": str(source),
        "samples_per_shard": 10,
        "partition_bytes": 3_000,
        "on_error": "skip",
        "workers": 0,
        "stages": [{"map": {"call": "support.stages:served"}}],
    }
    if out is not None:
        pipeline["output_uri"] = str(out)
    return Settings.model_validate({"pipeline": pipeline | more})
