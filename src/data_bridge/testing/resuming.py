"""Whole runs that are killed on the way: what they leave in the end is what an undisturbed run makes."""

import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.model.batch import ArrowRows, LineRows, Row
from data_bridge.model.store import ObjectStore
from data_bridge.storage.local import LocalStore
from data_bridge.testing.running import forms


class _Counting(LocalStore):
    """A folder that counts what is done to it, and kills its process after the n-th time."""

    def __init__(self, root: Path, last: int | None = None) -> None:
        super().__init__(root)
        self.last = last
        self.count = 0

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        super().put_file(key, path, sha256=sha256)
        self._done()

    def put_bytes(self, key: str, data: bytes) -> None:
        super().put_bytes(key, data)
        self._done()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        there = super().put_if_absent(key, data)
        self._done()
        return there

    def _done(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def assert_resumes(
    stages: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    samples: Sequence[Row],
    folder: Path,
    *,
    kills: int = 3,
    **pipeline: Any,
) -> None:
    """Runs with these stages that are killed (`kill -9`) and run again give the same dataset, byte for byte.

    `stages` are one stage or several as a config writes them. The samples become a source in `folder`; a first run of
    it goes through, then each of `kills` others dies at another moment between its first and its last write, and is run
    again. `pipeline` are further settings; samples that fail are skipped and a shard holds a tenth of the samples
    unless it says otherwise.
    """
    given = [dict(stages)] if isinstance(stages, Mapping) else [dict(stage) for stage in stages]
    settings = {
        "input_uri": str(_source(samples, folder)),
        "stages": given,
        "samples_per_shard": max(len(samples) // 10, 1),
        "on_error": "skip",
        "workers": 0,
        **pipeline,
    }
    whole = _Counting(folder / "whole")
    run_pipeline(_settings(settings, folder / "whole"), open_destination=lambda _: whole)
    expected = _dataset(folder / "whole")
    for number in range(kills):
        out, last = folder / f"killed-{number}", 1 + (number + 1) * (whole.count - 1) // (kills + 1)
        child = multiprocessing.get_context("spawn").Process(target=_run, args=(settings, out, last))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"the run was to die and ended with {child.exitcode}"
        _run(settings, out, None)
        found = _dataset(out)
        different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        assert not different, f"killed after write {last} of {whole.count}, other than undisturbed: {different}"


def _run(settings: Mapping[str, Any], out: Path, last: int | None) -> None:
    def opened(_: Settings) -> ObjectStore:
        return _Counting(out, last)

    run_pipeline(_settings(settings, out), open_destination=opened)


def _settings(pipeline: Mapping[str, Any], out: Path) -> Settings:
    return Settings.model_validate({"pipeline": {**pipeline, "output_uri": str(out)}})


def _source(samples: Sequence[Row], folder: Path) -> Path:
    """The samples as JSON lines, or as Parquet where JSON cannot hold them."""
    held = [rows for _, rows in forms(samples)]
    folder.mkdir(parents=True, exist_ok=True)
    for rows in held:
        if isinstance(rows, LineRows):
            path = folder / "samples.jsonl"
            path.write_bytes(rows.data)
            return path
        if isinstance(rows, ArrowRows):
            path = folder / "samples.parquet"
            pq.write_table(pa.Table.from_batches([rows.batch]), path)
            return path
    raise AssertionError("neither JSON lines nor Parquet can hold these samples: no source can be made of them")


def _dataset(out: Path) -> dict[str, Any]:
    """Every file of a dataset but the ledger; of the manifest what does not tell of the run itself."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and "_bridge" not in path.parts]
    found: dict[str, Any] = {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
    manifest = json.loads(found.pop("manifest.json"))
    return {
        **found,
        "manifest.json": {key: manifest[key] for key in ("status", "totals", "shards", "writer", "writers")},
    }
