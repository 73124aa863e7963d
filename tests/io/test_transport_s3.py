"""Transport over a real S3 server: listing, identity, exact reads."""

import gzip
import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from support.fault_proxy import Fault, FaultProxy
from support.seaweed import Seaweed, seaweed

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, RetryableError, SourceError
from data_bridge.io.transport import Transport
from data_bridge.utils.retry import Retry

__all__ = ["seaweed"]

DATA = random.Random(5).randbytes(3_300_000)
LINES = b"".join(b'{"id": %d}\n' % n for n in range(20_000))


def transport(seaweed: Seaweed, endpoint: str | None = None) -> Transport:
    keys: Any = seaweed.settings_at(endpoint or seaweed.endpoint)
    settings = Settings.model_validate({"pipeline": {"input_uri": "unused"}, "s3": keys})
    return Transport(settings, retry=Retry(first_s=0.001, longest_s=0.01))


def put(seaweed: Seaweed, bucket: str, key: str, content: bytes) -> str:
    seaweed.client.put_object(Bucket=bucket, Key=key, Body=content)
    return f"s3://{bucket}/{key}"


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> str:
    """One for all tests: the server lays out volumes of their own for every bucket, and has room for few."""
    return seaweed.new_bucket()


@pytest.fixture(autouse=True)
def empty(seaweed: Seaweed, bucket: str) -> Iterator[None]:
    yield
    for item in seaweed.client.list_objects_v2(Bucket=bucket).get("Contents", []):
        seaweed.client.delete_object(Bucket=bucket, Key=item["Key"])


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy("localhost", seaweed.port) as proxy:
        yield proxy


def test_an_object_is_known_by_size_and_etag(seaweed: Seaweed, bucket: str) -> None:
    uri = put(seaweed, bucket, "dir/a #1%é.bin", DATA)

    (file,) = transport(seaweed).expand([uri])

    assert (file.uri, file.size, file.mtime_ns) == (uri, len(DATA), None)
    assert file.etag
    assert b"".join(transport(seaweed).blocks(file)) == DATA


def test_prefixes_globs_and_braces_list_objects(seaweed: Seaweed, bucket: str) -> None:
    for key in ("p/b.txt", "p/a.txt", "p/q/c.txt", "p/_SUCCESS", "p/.x/d.txt", "other.txt"):
        put(seaweed, bucket, key, key.encode())

    def keys(pattern: str) -> list[str]:
        return [
            file.uri.removeprefix(f"s3://{bucket}/") for file in transport(seaweed).expand([f"s3://{bucket}/{pattern}"])
        ]

    assert keys("p/") == ["p/a.txt", "p/b.txt", "p/q/c.txt"]
    assert keys("p/*.txt") == ["p/a.txt", "p/b.txt"]
    assert keys("p/**/*.txt") == ["p/a.txt", "p/b.txt", "p/q/c.txt"]
    assert keys("p/{b,a}.txt") == ["p/b.txt", "p/a.txt"]
    assert keys("") == ["other.txt", "p/a.txt", "p/b.txt", "p/q/c.txt"]


def test_a_key_with_glob_characters_is_found_as_it_is_written(seaweed: Seaweed, bucket: str) -> None:
    uri = put(seaweed, bucket, "a[1].txt", b"x")

    assert [file.uri for file in transport(seaweed).expand([uri])] == [uri]


@pytest.mark.parametrize("key", ["none.txt", "none/", "*.none"])
def test_nothing_there_is_a_config_error_that_names_the_uri(seaweed: Seaweed, bucket: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        transport(seaweed).expand([f"s3://{bucket}/{key}"])
    assert f"s3://{bucket}/{key}" in caught.value.message
    assert caught.value.hint


def test_a_missing_bucket_is_a_config_error(seaweed: Seaweed) -> None:
    with pytest.raises(ConfigError, match="no-such-bucket"):
        transport(seaweed).expand(["s3://no-such-bucket/*.txt"])


def test_r2_without_its_block_is_a_config_error(seaweed: Seaweed) -> None:
    with pytest.raises(ConfigError, match="`r2` block"):
        transport(seaweed).expand(["r2://bucket/a.txt"])


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 0), (7, 8), (1 << 20, None), (3_300_000, None), (9, 2_000_000)]
)
def test_blocks_are_the_asked_bytes(seaweed: Seaweed, bucket: str, start: int, end: int | None) -> None:
    file = transport(seaweed).stat(put(seaweed, bucket, "a.bin", DATA))

    assert b"".join(transport(seaweed).blocks(file, start, end)) == DATA[start:end]


def test_an_object_is_decoded_and_read_at_random(seaweed: Seaweed, bucket: str) -> None:
    reader = transport(seaweed)
    packed = reader.stat(put(seaweed, bucket, "a.jsonl.gz", gzip.compress(LINES)))
    plain = reader.stat(put(seaweed, bucket, "a.bin", DATA))

    assert b"".join(reader.decoded(packed, 1000)) == LINES[1000:]
    with reader.open(plain) as stream:
        stream.seek(-100, io.SEEK_END)
        assert stream.read() == DATA[-100:]
        stream.seek(1_000_000)
        assert stream.read(500_000) == DATA[1_000_000:1_500_000]


def test_a_cut_body_is_resumed(seaweed: Seaweed, bucket: str, proxy: FaultProxy) -> None:
    reader = transport(seaweed, proxy.url)
    file = reader.stat(put(seaweed, bucket, "a.bin", DATA))
    proxy.add(Fault("cut_response", after=1_500_000, times=2, method="GET"))

    assert b"".join(reader.blocks(file)) == DATA
    assert len([seen for seen in proxy.requests if seen.method == "GET"]) == 3


def test_a_body_that_stays_short_is_an_error(seaweed: Seaweed, bucket: str, proxy: FaultProxy) -> None:
    reader = transport(seaweed, proxy.url)
    file = reader.stat(put(seaweed, bucket, "a.bin", DATA))
    proxy.add(Fault("cut_response", after=10, times=1000, method="GET"))

    # a reset so early may take the answer's head with it: then it is a connection that failed
    with pytest.raises((SourceError, RetryableError), match=r"a\.bin"):
        list(reader.blocks(file))


def test_an_object_replaced_since_the_plan_is_an_error(seaweed: Seaweed, bucket: str) -> None:
    reader = transport(seaweed)
    file = reader.stat(put(seaweed, bucket, "a.bin", DATA))
    assert reader.changed(file) is None

    put(seaweed, bucket, "a.bin", DATA[::-1])

    assert "ETag was" in str(reader.changed(file))
    with pytest.raises(SourceError, match="changed while being read"):
        list(reader.blocks(file))


def test_an_object_deleted_since_the_plan_is_an_error(seaweed: Seaweed, bucket: str) -> None:
    reader = transport(seaweed)
    file = reader.stat(put(seaweed, bucket, "a.bin", DATA))
    seaweed.client.delete_object(Bucket=bucket, Key="a.bin")

    assert reader.changed(file) == "it does not exist any more"
    with pytest.raises(SourceError, match=r"a\.bin is not there"):
        list(reader.blocks(file))


def test_lines_appended_to_an_object_are_growth(seaweed: Seaweed, bucket: str) -> None:
    reader = transport(seaweed)
    file = reader.stat(put(seaweed, bucket, "a.jsonl", LINES))

    put(seaweed, bucket, "a.jsonl", LINES + b"{}\n")
    grown = reader.grew(file)
    assert grown is not None
    assert grown.size == len(LINES) + 3

    put(seaweed, bucket, "a.jsonl", b"#" + LINES + b"{}\n")
    assert reader.grew(file) is None


@pytest.mark.parametrize("name", ["x.jsonl", "x-{00..19}.jsonl", "*.jsonl", "folder/"])
def test_a_missing_bucket_is_told_once_and_by_that_name(seaweed: Seaweed, proxy: FaultProxy, name: str) -> None:
    with pytest.raises(ConfigError, match="NoSuchBucket") as caught:
        transport(seaweed, proxy.url).expand([f"s3://no-such-bucket-here/{name}"])

    assert "create the bucket" in caught.value.hint
    assert len(proxy.seen("HEAD")) <= 1


def test_a_refused_key_is_told_once_however_many_objects_are_named(
    seaweed: Seaweed, bucket: str, proxy: FaultProxy
) -> None:
    keys: Any = seaweed.settings_at(proxy.url).model_copy(update={"access_key_id": SecretStr("nobody")})
    settings = Settings.model_validate({"pipeline": {"input_uri": "unused"}, "s3": keys})

    with pytest.raises(ConfigError, match="InvalidAccessKeyId"):
        Transport(settings).expand([f"s3://{bucket}/x-{{000..199}}.jsonl"])

    assert len(proxy.seen("HEAD")) == 1
