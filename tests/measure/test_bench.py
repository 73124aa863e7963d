"""Whole measurements of real sources and stores: what is told, and that nothing is left behind."""

import dataclasses
import gzip
import json
import os
import re
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.console import data_bridge, started, until
from support.corpus import write_jsonl
from support.fault_proxy import Fault, FaultProxy, Seen
from support.http_server import HttpServer
from support.kill import tree
from support.seaweed import Seaweed
from support.tls import authority

from data_bridge import api
from data_bridge.config import S3Settings, Settings, load_settings, overridden
from data_bridge.errors import BridgeError, ConfigError, DataError, RetryableError
from data_bridge.events import Event, Notice
from data_bridge.model.bench import BenchReport
from data_bridge.pipelines.staging import SCRATCH
from data_bridge.storage import open_store

SAMPLES = 3000
QUICK_S = 1.0
LONGEST_S = 3600
"""What `--seconds` may say."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "source.jsonl"
    path.parent.mkdir()
    write_jsonl(path, SAMPLES)
    return path


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def settings(source: Path | str, out: Path | str, s3: S3Settings | None = None, **more: object) -> Settings:
    pipeline = {"input_uri": str(source), "output_uri": str(out), "samples_per_shard": 500, "workers": 0, **more}
    return Settings.model_validate({"pipeline": pipeline, "s3": s3})


def rates(report: BenchReport) -> dict[tuple[str, int], float]:
    return {(part.name, part.parallel): part.samples_s for part in report.parts}


def test_a_folder_is_measured_and_left_as_if_nothing_had_been(source: Path, tmp_path: Path) -> None:
    report = api.bench(settings(source, tmp_path / "new" / "out"), seconds=QUICK_S)

    assert set(rates(report)) == {("read", 1), ("pack", 1), ("upload", 1), ("upload", 2), ("upload", 4), ("record", 1)}
    assert all(rate > 0 for rate in rates(report).values())
    assert (report.samples, report.partitions, report.slots) == (SAMPLES, 1, 1)
    assert report.seconds is not None
    assert SAMPLES / report.samples_s < report.seconds < SAMPLES / report.samples_s + 5
    assert report.samples_s <= min(rates(report)["pack", 1], rates(report)["upload", 2]) * 1.001
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_dataset_that_is_there_is_not_touched(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    api.run_pipeline(settings(source, out))
    before = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in out.rglob("*") if p.name != "_bridge"}

    api.bench(settings(source, out), seconds=QUICK_S)

    assert {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in out.rglob("*") if p.name != "_bridge"
    } == before
    assert api.run_pipeline(settings(source, out)).resumed


def test_stages_leave_nothing_of_a_run_that_never_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    api.bench(settings(source, tmp_path / "out", stages=[{"preview": {}}]), seconds=QUICK_S, use_store=False)

    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_without_the_store_nothing_is_written_there(source: Path, tmp_path: Path, staging: Path) -> None:
    heard: list[Event] = []

    report = api.bench(
        settings(source, tmp_path / "out", staging_dir=str(staging)),
        seconds=QUICK_S,
        use_store=False,
        observer=heard.append,
    )

    assert set(rates(report)) == {("read", 1), ("pack", 1), ("staging", 1)}
    assert "the destination was not measured" in report.notes
    assert not staging.exists()
    assert not any("destination" in event.message for event in heard if isinstance(event, Notice))


def test_slots_in_processes_of_their_own_are_measured_together(tmp_path: Path, staging: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": range(40_000), "text": ["x" * 200] * 40_000}), path, row_group_size=5_000)

    report = api.bench(
        settings(path, tmp_path / "out", workers=2, partition_bytes=1000, samples_per_shard=1000), seconds=QUICK_S
    )

    assert (report.slots, report.partitions, report.samples) == (2, 40, 40_000)
    assert rates(report)["pack", 2] > 0
    assert rates(report)["upload", 4] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet"]


def test_a_bucket_is_measured_and_left_as_it_was(source: Path, staging: Path, seaweed: Seaweed, bucket: str) -> None:
    config = settings(source, f"s3://{bucket}/set", seaweed.settings, staging_dir=str(staging))
    api.run_pipeline(config)
    store = open_store(f"s3://{bucket}/set", config)
    before = [(found.key, found.size) for found in store.list()]

    report = api.bench(config, seconds=QUICK_S)

    assert [(found.key, found.size) for found in store.list()] == before
    assert {"upload", "record", "staging"} <= {part.name for part in report.parts}
    assert report.record_s is not None
    assert not (staging / "bench").exists()
    assert not list(staging.glob("bench-*"))


def test_a_source_on_the_web_is_measured(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
    with HttpServer(authority().server_context()) as server:
        site = server.serve("/source.jsonl", source.read_bytes())

        # seconds enough to reach its end on any computer: bytes read ahead of the samples count too
        report = api.bench(settings(site.url, tmp_path / "out"), seconds=20 * QUICK_S)

    (read,) = [part for part in report.parts if part.name == "read"]
    assert read.bytes_s is not None
    assert read.bytes_s / read.samples_s == pytest.approx(source.stat().st_size / SAMPLES, rel=1e-3)
    assert report.samples == SAMPLES
    assert report.first_samples_s > 0


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.*"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_local_example_can_be_measured(
    path: Path, tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_settings(path, dict.fromkeys(re.findall(r"\$\{(\w+)\}", path.read_text()), "xxxx"))
    if "://" in str(found.pipeline.input_uri):
        return
    monkeypatch.chdir(path.parents[1])
    elsewhere = overridden(found, output_uri=str(tmp_path / "out"), staging_dir=staging, workers=0)

    report = api.bench(elsewhere, seconds=QUICK_S, use_store=False)

    assert report.samples in (40, 1692)
    assert {"read", "pack"} <= {part.name for part in report.parts}
    assert list(tmp_path.iterdir()) == []


def test_only_the_samples_within_the_limit_are_expected(source: Path, tmp_path: Path) -> None:
    report = api.bench(settings(source, tmp_path / "out", limit=70), seconds=QUICK_S, use_store=False)

    assert report.samples == 70


def test_bytes_of_a_compressed_source_are_the_stored_ones(source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "in" / "source.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))

    report = api.bench(settings(packed, tmp_path / "out"), seconds=QUICK_S)

    (read,) = [part for part in report.parts if part.name == "read"]
    assert read.bytes_s is not None
    assert read.bytes_s / read.samples_s == pytest.approx(packed.stat().st_size / SAMPLES, rel=1e-3)


def test_a_slow_store_is_the_bottleneck_and_more_uploads_are_what_helps(
    source: Path, staging: Path, seaweed: Seaweed, bucket: str
) -> None:
    # each connection gets so much, and nothing limits them together
    with FaultProxy("localhost", seaweed.port, upload_bytes_s=200_000) as proxy:
        slow = seaweed.settings_at(proxy.url)
        report = api.bench(settings(source, f"s3://{bucket}/set", slow, staging_dir=str(staging)), seconds=10)

    assert report.bottleneck == "upload"
    assert [advice.change for advice in report.advice][:1] == ["pipeline.upload_concurrency: 2 -> 4"]
    assert report.shard_bytes_s < 600_000
    assert list(open_store(f"s3://{bucket}", settings(source, "x", seaweed.settings)).list()) == []


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_was_written_is_deleted(
    source: Path, staging: Path, tmp_path: Path, seaweed: Seaweed, bucket: str, which: signal.Signals
) -> None:
    with FaultProxy("localhost", seaweed.port, upload_bytes_s=400_000) as proxy:
        config = tmp_path / "c.json"
        config.write_text(_written(settings(source, f"s3://{bucket}/set", staging_dir=str(staging)), proxy.url))
        process = started("bench", config, "--seconds", "100", cwd=tmp_path, env=_keys())
        until(lambda: len([seen for seen in proxy.seen("PUT") if _is_upload(seen)]) > 3, process)

        os.kill(process.pid, which)
        _, told = process.communicate(timeout=60)

    assert process.returncode == 130, told
    assert "what it had written is deleted" in told
    assert list(open_store(f"s3://{bucket}", settings(source, "x", seaweed.settings)).list()) == []
    assert not staging.exists()


def test_a_signal_while_packing_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write_jsonl(source, 200_000)
    config = tmp_path / "c.json"
    config.write_text(_written(settings(source, tmp_path / "out", output_format="tar.gz")))
    process = started("bench", config, "--seconds", "100", cwd=tmp_path)
    until(lambda: bool(list((tmp_path / "out").rglob("*.tar.gz"))), process)

    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 130, told
    assert "is being finished" not in told
    assert not (tmp_path / "out").exists()


def test_a_store_that_fails_ends_it_with_the_error_of_a_run_and_nothing_left(
    source: Path, staging: Path, seaweed: Seaweed, bucket: str
) -> None:
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(
            Fault(
                "status", method="PUT", status=403, code="AccessDenied", times=1000, where=lambda s: SCRATCH in s.path
            )
        )
        config = settings(source, f"s3://{bucket}/set", seaweed.settings_at(proxy.url), staging_dir=str(staging))

        with pytest.raises(ConfigError, match="cannot use s3://") as refused:
            api.bench(config, seconds=QUICK_S)

    assert not isinstance(refused.value, RetryableError)
    assert not staging.exists()


def test_bad_configs_are_refused_as_plan_refuses_them(source: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for bad in (
        settings(tmp_path / "none.jsonl", tmp_path / "out"),
        settings(source, foreign),
        settings("pipe:x", "out"),
    ):
        with pytest.raises(BridgeError) as planned:
            api.plan(bad)
        with pytest.raises(type(planned.value)) as refused:
            api.bench(bad, seconds=QUICK_S)
        assert str(refused.value) == str(planned.value)
    assert sorted(p.name for p in foreign.iterdir()) == ["thesis.tex"]


def test_a_bad_sample_ends_it_as_it_would_end_the_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "bad.jsonl", 50, bad_every=20)

    with pytest.raises(DataError, match="line 20"):
        api.bench(settings(tmp_path / "bad.jsonl", tmp_path / "out"), seconds=QUICK_S)
    report = api.bench(settings(tmp_path / "bad.jsonl", tmp_path / "out", on_error="skip"), seconds=QUICK_S)

    assert any("some samples are bad" in note for note in report.notes)


def test_an_empty_source_is_nothing_to_measure(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()

    with pytest.raises(ConfigError, match="nothing to measure"):
        api.bench(settings(tmp_path / "empty.jsonl", tmp_path / "out", allow_empty=True), seconds=QUICK_S)


def test_what_a_killed_measurement_left_keeps_no_run_away_and_goes_with_the_next_one(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    longest = f"bench-{int(time.time() - 2 * LONGEST_S):08x}-0badcafe"
    for name in ("bench-00000000-0badcafe", longest):
        (out / "_bridge" / name).mkdir(parents=True)
        (out / "_bridge" / name / "left").write_text("over")

    api.bench(settings(source, out), seconds=QUICK_S)

    # a long one may still be at work, and on a busy machine takes longer than it was told to
    assert [p.name for p in (out / "_bridge").iterdir()] == [longest]
    assert api.run_pipeline(settings(source, out)).samples == SAMPLES
    assert (out / "_bridge" / longest / "left").exists()


def test_what_is_left_at_a_bucket_goes_with_the_next_one(
    source: Path, staging: Path, seaweed: Seaweed, bucket: str
) -> None:
    config = settings(source, f"s3://{bucket}/set", seaweed.settings, staging_dir=str(staging))
    store = open_store(f"s3://{bucket}/set", config)
    store.put_bytes("_bridge/bench-00000000-0badcafe/left", b"over")
    store.put_bytes("_bridge/bench-ffffffff-0badcafe/left", b"new")

    api.bench(config, seconds=QUICK_S)

    assert [found.key for found in store.list()] == ["_bridge/bench-ffffffff-0badcafe/left"]


def test_the_command_tells_table_bottleneck_and_change(source: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(_written(settings(source, tmp_path / "out")))

    shown = data_bridge("bench", config, "--seconds", "1", cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    names = [line[:12].strip() for line in shown.stdout.splitlines()]
    assert {
        "source",
        "destination",
        "measured",
        "reading, 1 s",
        "packing, 1 s",
        "a run",
        "bottleneck",
        "change",
    } <= set(names)
    assert "writing, 4 at a time" in shown.stdout
    assert shown.stderr.splitlines()[0] == "reading the source"


def test_the_command_prints_one_json_document_and_no_secret(
    source: Path, staging: Path, tmp_path: Path, seaweed: Seaweed, bucket: str
) -> None:
    config = tmp_path / "c.json"
    config.write_text(_written(settings(source, f"s3://{bucket}/set", staging_dir=str(staging)), seaweed.endpoint))

    shown = data_bridge("bench", config, "--json", "--seconds", "1", cwd=tmp_path, env=_keys())

    assert shown.returncode == 0, shown.stderr
    assert set(json.loads(shown.stdout)) == {field.name for field in dataclasses.fields(BenchReport)}
    assert "owner-secret" not in shown.stdout + shown.stderr
    assert shown.stderr == ""


def test_a_config_file_is_measured_like_its_settings(source: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(_written(settings(source, tmp_path / "out")))

    assert api.bench_from_file(config, seconds=QUICK_S).samples == SAMPLES
    assert tree(tmp_path / "out") == {}


def _written(found: Settings, endpoint: str | None = None) -> str:
    values = json.loads(found.model_dump_json(by_alias=True, exclude_none=True))
    if endpoint is not None:
        values["s3"] = {
            "endpoint_url": endpoint,
            "region": "auto",
            "access_key_id": "${KEY}",
            "secret_access_key": "${SECRET}",
        }
    return json.dumps(values)


def _is_upload(seen: Seen) -> bool:
    return SCRATCH in seen.path and not any(part in seen.path for part in ("/record-", "/probe"))


def _keys() -> dict[str, str]:
    return {"KEY": "OWNERKEY", "SECRET": "owner-secret"}
