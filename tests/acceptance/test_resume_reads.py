"""A run that goes on near the end of its source reads what is left, and little else."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fake_hub import FakeHub
from support.http_server import HttpServer, http_server

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.events import Event, ShardCommitted

__all__ = ["http_server"]

SHARDS = 100
PER_SHARD = 200
DONE = 85
"""Told to stop here, a run commits what it has packed meanwhile: some shards more."""
TEXT = "x" * 400
LEAST, MOST = 0.03, 0.25
"""Share of the source a resume may read: what is left, the row group it begins in, heads, tails and footers."""


def jsonl() -> bytes:
    return b"".join(b'{"id": %d, "text": "%s"}\n' % (i, TEXT.encode()) for i in range(SHARDS * PER_SHARD))


def table() -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows([i, f'{TEXT}, "and a comma"'] for i in range(SHARDS * PER_SHARD))
    return out.getvalue().encode()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(SHARDS * PER_SHARD):
            info = tarfile.TarInfo(f"{i:06d}.json")
            content = json.dumps({"id": i, "text": TEXT}).encode()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    rows = pa.table({"id": range(SHARDS * PER_SHARD), "text": [TEXT] * (SHARDS * PER_SHARD)})
    pq.write_table(rows, out, row_group_size=PER_SHARD, compression="none", use_dictionary=False)
    return out.getvalue()


FORMATS: dict[str, Callable[[], bytes]] = {"a.jsonl": jsonl, "a.csv": table, "a.tar": tar, "a.parquet": parquet}


class Stopped(Exception):
    pass


def run_until(settings: Settings, shards: int) -> None:
    """A run that ends after so many shards, on a machine whose disk is lost with it."""
    committed = 0

    def stop(event: Event, /) -> None:
        nonlocal committed
        committed += isinstance(event, ShardCommitted)
        if committed == shards:
            raise Stopped

    with pytest.raises(Stopped):
        run_pipeline(settings, workers=0, observer=stop)
    for staging in Path(settings.pipeline.output_uri or "").glob("_bridge/*/staging"):
        shutil.rmtree(staging)


def settings_for(uri: str, out: Path) -> Settings:
    pipeline = {"input_uri": uri, "output_uri": str(out), "samples_per_shard": PER_SHARD, "partition_bytes": "1GB"}
    return Settings.model_validate({"pipeline": pipeline})


@pytest.mark.parametrize("name", FORMATS)
def test_a_resume_reads_little_more_than_what_is_left(http_server: HttpServer, tmp_path: Path, name: str) -> None:
    content = FORMATS[name]()
    site = http_server.serve(f"/{name}", content)
    settings = settings_for(site.url, tmp_path / "out")
    run_until(settings, DONE)
    site.sent = 0

    report = run_pipeline(settings, workers=0)

    assert report.resumed
    assert report.samples == SHARDS * PER_SHARD
    assert LEAST * len(content) <= site.sent <= MOST * len(content)


def test_a_resume_on_the_hub_reads_little_more_than_what_is_left(hub: FakeHub, tmp_path: Path) -> None:
    content = parquet()
    hub.push("org/large", {"data/train-0.parquet": content})
    settings = settings_for("hf://org/large", tmp_path / "out")
    run_until(settings, DONE)
    hub.sent = 0
    hub.requests.clear()

    report = run_pipeline(settings, workers=0)

    assert report.samples == SHARDS * PER_SHARD
    assert LEAST * len(content) <= hub.sent <= MOST * len(content)
    assert not [request for request in hub.requests if "/api/" in request]
