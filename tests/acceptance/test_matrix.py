"""Every kind of source to every kind of destination, read back by the libraries people train with: the same samples, in order."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.fake_hub import FakeHub
from support.litdata_readers import Reader
from support.matrix import SOURCES, Source, from_hf, from_litdata, from_tar, litdata_rows, samples
from support.readers import read_tars
from support.seaweed import OWNER, Seaweed

from data_bridge.api import run_pipeline, verify
from data_bridge.config import Settings
from data_bridge.model.report import RunReport
from data_bridge.storage import open_store

PER_SHARD = 16
GetSource = Callable[[str], Source]


@pytest.fixture(scope="session")
def get_source(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> GetSource:
    """Each source, made once."""
    made: dict[str, Source] = {}

    def get(name: str) -> Source:
        if name not in made:
            made[name] = SOURCES[name](tmp_path_factory.mktemp("source"), samples(), hub)
        return made[name]

    return get


@pytest.fixture(scope="session")
def shared_bucket(seaweed: Seaweed) -> str:
    return seaweed.new_bucket()


def settings_for(source: Source, output: str, format_: str, **blocks: Any) -> Settings:
    pipeline = {"name": format_, "input_uri": source.uri, "output_uri": output, "samples_per_shard": PER_SHARD}
    return Settings.model_validate({"pipeline": {**pipeline, **source.options}, **blocks})


def ran(settings: Settings, source: Source) -> RunReport:
    report = run_pipeline(settings, workers=0)

    assert (report.status, report.samples, report.failed) == ("complete", len(source.expected), 0)
    assert verify(report.destination, settings, deep=True).problems == ()
    return report


def shards_of(listing: bytes) -> list[str]:
    names = listing.decode().split()
    assert len(names) >= 5
    return names


def assert_same(source: Source, found: Sequence[Mapping[str, Any]], seen: Callable[[Mapping[str, Any]], Any]) -> None:
    assert [seen(sample) for sample in found] == source.expected
    keys = [sample["__key__"] for sample in found if "__url__" in sample]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("name", SOURCES)
def test_webdataset_and_datasets_read_from_a_folder_what_the_source_held(
    get_source: GetSource, tmp_path: Path, name: str
) -> None:
    source, out = get_source(name), tmp_path / "out"
    ran(settings_for(source, str(out), "webdataset"), source)
    files = [str(out / shard) for shard in shards_of((out / "shards.txt").read_bytes())]

    assert_same(source, read_tars(files), from_tar)
    assert_same(source, _read_with_datasets(files), from_hf)


@pytest.mark.parametrize("name", SOURCES)
def test_webdataset_reads_from_a_bucket_what_the_source_held(
    get_source: GetSource, seaweed: Seaweed, shared_bucket: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # webdataset fetches with curl
    monkeypatch.setenv("CURL_CA_BUNDLE", str(seaweed.ca_file))
    # the one account speaks to the store as R2, the other as S3
    scheme = "r2" if name == "parquet" else "s3"
    source = get_source(name)
    s3 = seaweed.settings.model_dump(exclude_none=True)
    settings = settings_for(
        source, f"{scheme}://{shared_bucket}/tar/{name}".replace(" ", "-"), "webdataset", **{scheme: s3}
    )
    report = ran(settings, source)
    store = open_store(report.destination, settings)
    urls = [store.presign(shard, 300) for shard in shards_of(store.get("shards.txt") or b"")]

    assert report.destination.startswith(f"{scheme}://")
    assert all(url.startswith(seaweed.endpoint) for url in urls)
    assert_same(source, read_tars(urls), from_tar)


@pytest.mark.parametrize("name", SOURCES)
def test_litdata_chunks_in_a_folder_hold_what_the_source_held(get_source: GetSource, tmp_path: Path, name: str) -> None:
    source = get_source(name)
    ran(settings_for(source, str(tmp_path), "litdata"), source)

    assert_same(source, litdata_rows(lambda key: (tmp_path / key).read_bytes()), from_litdata)


@pytest.mark.parametrize("name", SOURCES)
def test_litdata_reads_from_a_folder_what_the_source_held(
    get_source: GetSource, tmp_path: Path, litdata_reader: Reader, name: str
) -> None:
    source = get_source(name)
    ran(settings_for(source, str(tmp_path), "litdata"), source)

    assert_same(source, litdata_reader.read(tmp_path), from_litdata)


@pytest.mark.parametrize("name", SOURCES)
def test_litdata_chunks_in_a_bucket_hold_what_the_source_held(
    get_source: GetSource, seaweed: Seaweed, shared_bucket: str, name: str
) -> None:
    source, settings = _litdata_to_bucket(get_source, seaweed, shared_bucket, name)
    report = ran(settings, source)
    store = open_store(report.destination, settings)

    assert_same(source, litdata_rows(lambda key: b"".join(store.read(key))), from_litdata)


@pytest.mark.parametrize("name", ["parquet", "jsonl, plain values"], ids=["arrow", "classic"])
def test_litdata_reads_from_a_bucket_what_the_source_held(
    get_source: GetSource, seaweed: Seaweed, bucket: str, litdata_reader: Reader, name: str
) -> None:
    source, settings = _litdata_to_bucket(get_source, seaweed, bucket, name)
    options = {
        "aws_access_key_id": OWNER[0],
        "aws_secret_access_key": OWNER[1],
        "endpoint_url": seaweed.endpoint,
        "region_name": "auto",
    }

    report = ran(settings, source)

    assert_same(source, litdata_reader.read(report.destination, storage_options=options), from_litdata)


def test_the_plain_source_is_the_one_in_litdatas_classic_layout(get_source: GetSource, tmp_path: Path) -> None:
    """Otherwise no source above would have proved that layout."""
    layouts = {}
    for name in SOURCES:
        run_pipeline(settings_for(get_source(name), str(tmp_path / name), "litdata"), workers=0)
        chunk = json.loads((tmp_path / name / "index.json").read_bytes())["chunks"][0]["filename"]
        layouts[name] = (tmp_path / name / chunk).read_bytes().endswith(b"LDARW01\0")

    assert [name for name, arrow in layouts.items() if not arrow] == ["jsonl, plain values"]


def _litdata_to_bucket(get_source: GetSource, seaweed: Seaweed, bucket: str, name: str) -> tuple[Source, Settings]:
    source = get_source(name)
    place = f"s3://{bucket}/chunks/{name}".replace(" ", "-").replace(",", "")
    return source, settings_for(source, place, "litdata", s3=seaweed.settings.model_dump(exclude_none=True))


def _read_with_datasets(files: list[str]) -> list[Mapping[str, Any]]:
    from datasets import load_dataset

    with warnings.catch_warnings():
        # closing its files is left to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        stream = load_dataset("webdataset", data_files=files, split="train", streaming=True)
        return list(stream.decode(enable=False))
