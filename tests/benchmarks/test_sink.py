"""The server that clients are measured against speaks enough S3 for our own store and source readers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.sink import Sink

from data_bridge.config import S3Settings
from data_bridge.storage.r2 import R2Client

KEEP = 10_000


@pytest.fixture
def sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    with Sink(tmp_path, keep=KEEP) as sink:
        for name, value in sink.environment.items():
            monkeypatch.setenv(name, value)
        yield sink


def test_large_bodies_are_counted_and_small_ones_kept(sink: Sink, tmp_path: Path) -> None:
    store = R2Client(S3Settings(endpoint_url=sink.endpoint), "out", "p", part_bytes=1 << 20, single_put_bytes=4 << 20)
    store.probe("_bridge/run")
    files = {"small": b"x" * KEEP, "large": b"y" * (KEEP + 1), "parts": bytes(5 << 20)}

    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        store.put_file(name, path, sha256=hashlib.sha256(content).hexdigest())

    assert store.conditional
    assert sink.objects() == {f"out/p/{name}": len(content) for name, content in files.items()}
    assert sink.read("out/p/small") == files["small"]
    assert store.get("small") == files["small"]
    assert not store.put_if_absent("small", b"other")
    sink.forget()
    assert store.head("small") is None
    assert sink.objects() == {}


def test_the_folder_is_a_bucket_that_serves_ranges(sink: Sink, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.bin").write_bytes(content)
    store = R2Client(S3Settings(endpoint_url=sink.endpoint), "source")

    assert [(item.key, item.size) for item in store.list("folder/")] == [("folder/file.bin", len(content))]
    assert b"".join(store.read("folder/file.bin")) == content
    assert store.get("folder/none") is None
