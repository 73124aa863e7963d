"""One source as a whole: what planning refuses, and when there is nothing to read."""

import gzip
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.sources.stream import SampleStream


def stream_of(path: Path, **more: object) -> SampleStream:
    return SampleStream(Settings.model_validate({"pipeline": {"input_uri": str(path), **more}}))


def is_empty(stream: SampleStream) -> bool:
    listing = stream.listing()
    return stream.is_empty(listing, stream.partitions(listing), stream.probe(listing))


def empty_tar() -> bytes:
    out = io.BytesIO()
    tarfile.open(fileobj=out, mode="w").close()
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"plain text, which is no Parquet\n" * 9),
        ("a.jsonl", b"PAR1 and so on\n" * 9),
        ("a.jsonl.gz", b'{"a": 1}\n'),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-9]),
        ("a.tar", b"no tar" * 200),
        ("a.arrow", b"no arrow" * 200),
        ("a.csv", b"a,a\n1,2\n"),
    ],
)
def test_a_file_of_another_format_is_refused_before_any_work(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    stream = stream_of(tmp_path / name)

    with pytest.raises(ConfigError, match=name) as caught:
        is_empty(stream)

    assert caught.value.hint


def test_damage_found_while_reading_is_an_error_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"")
    stream = stream_of(path)
    listing = stream.listing()

    with pytest.raises(SourceError, match="end-of-archive"):
        next(stream.read("tar", dict(enumerate(listing.files)), stream.partitions(listing)[0], None))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.csv", b"id,text\n"),
        ("a.txt", b"\n\n"),
        ("a.tar", empty_tar()),
    ],
)
def test_a_source_without_a_sample_is_empty_whatever_bytes_it_has(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    assert is_empty(stream_of(tmp_path / name))


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "a.parquet")

    assert is_empty(stream_of(tmp_path / "a.parquet"))


def test_a_source_of_bad_samples_alone_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": oops}\n')

    assert not is_empty(stream_of(tmp_path / "a.jsonl"))


def test_samples_behind_the_files_a_probe_opens_count(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.jsonl").write_bytes(b"\n")
    (tmp_path / "99.jsonl").write_bytes(b'{"a": 1}\n')

    assert not is_empty(stream_of(tmp_path))
