"""The S3 client: where it connects, what it puts on the wire, what its errors become, and reads that cannot be short."""

import base64
import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from pydantic import SecretStr
from support.fault_proxy import Fault, FaultProxy
from support.seaweed import Seaweed, running

from data_bridge.clients.s3 import (
    PreconditionFailed,
    Refused,
    Unreachable,
    connect,
    get_range,
    list_objects,
    stat,
    translated,
)
from data_bridge.config import R2Settings, S3Settings
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError, StoreError
from data_bridge.utils.retry import Retry

KEYS: dict[str, Any] = {"access_key_id": SecretStr("KEY"), "secret_access_key": SecretStr("hush-hush")}
MIB = 1 << 20


@pytest.fixture(scope="module")
def seaweed() -> Seaweed:
    return running()


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> str:
    return seaweed.new_bucket()


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy("localhost", seaweed.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("settings", "endpoint"),
    [
        (R2Settings(account_id="acc", **KEYS), "https://acc.r2.cloudflarestorage.com"),
        (R2Settings(account_id="acc", jurisdiction="eu", **KEYS), "https://acc.eu.r2.cloudflarestorage.com"),
        (R2Settings(account_id="acc", jurisdiction="fedramp", **KEYS), "https://acc.fedramp.r2.cloudflarestorage.com"),
        (R2Settings(account_id="acc", endpoint_url="https://r2.test:9", **KEYS), "https://r2.test:9"),
        (S3Settings(endpoint_url="http://127.0.0.1:9000", **KEYS), "http://127.0.0.1:9000"),
        (S3Settings(region="eu-west-1", **KEYS), "https://s3.eu-west-1.amazonaws.com"),
    ],
)
def test_the_endpoint_follows_from_the_settings(settings: S3Settings | R2Settings, endpoint: str) -> None:
    assert connect(settings).meta.endpoint_url == endpoint


def test_a_store_that_is_not_aws_gets_the_bucket_in_the_path_and_aws_in_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def url(settings: S3Settings | R2Settings) -> str:
        return connect(settings).generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})

    assert url(R2Settings(account_id="acc", **KEYS)).startswith("https://acc.r2.cloudflarestorage.com/bucket/k?")
    assert url(S3Settings(endpoint_url="https://s3.test", **KEYS)).startswith("https://s3.test/bucket/k?")
    assert url(S3Settings(region="eu-west-1", **KEYS)).startswith("https://bucket.s3.")

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://elsewhere.test")
    assert url(S3Settings(region="auto", **KEYS)).startswith("https://elsewhere.test/bucket/k?")


def test_the_pinned_settings_are_what_every_store_understands() -> None:
    client = connect(R2Settings(account_id="acc", **KEYS), pool=7)
    config: Any = client.meta.config

    assert client.meta.region_name == "auto"
    assert config.signature_version == "s3v4"
    assert config.request_checksum_calculation == "when_required"
    assert config.response_checksum_validation == "when_required"
    assert config.retries == {"mode": "standard", "total_max_attempts": 8}
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (10, 60, 7)
    assert config.s3["payload_signing_enabled"] is False


def test_without_tls_the_body_is_signed() -> None:
    config: Any = connect(S3Settings(endpoint_url="http://127.0.0.1:9000", **KEYS)).meta.config

    assert "payload_signing_enabled" not in config.s3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (R2Settings(**KEYS), "r2.account_id is missing"),
        (R2Settings(account_id="acc/../evil", **KEYS), "r2.account_id is not an account id"),
        (R2Settings(account_id="acc", access_key_id=SecretStr("hush")), "go together"),
        (S3Settings(secret_access_key=SecretStr("hush")), "s3.access_key_id and s3.secret_access_key go together"),
        (S3Settings(endpoint_url="localhost:9000", **KEYS), "s3.endpoint_url is not a plain http"),
        (S3Settings(endpoint_url="https://user:hush@host", **KEYS), "s3.endpoint_url is not a plain http"),
        (S3Settings(profile="no-such-profile"), "no-such-profile"),
    ],
)
def test_settings_no_client_can_be_made_of_are_config_errors(settings: S3Settings | R2Settings, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        connect(settings)

    assert "hush" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("body", ["bytes", "file"])
def test_over_tls_a_put_is_plain_unsigned_and_checked(
    seaweed: Seaweed, bucket: str, proxy: FaultProxy, tmp_path: Path, body: str
) -> None:
    client = connect(seaweed.settings_at(proxy.url))
    (tmp_path / "f").write_bytes(b"content")
    sha256 = base64.b64encode(hashlib.sha256(b"content").digest()).decode()

    with (tmp_path / "f").open("rb") as file:
        content: Any = file if body == "file" else b"content"
        client.put_object(Bucket=bucket, Key="wire", Body=content, ChecksumSHA256=sha256)

    (put,) = proxy.requests
    assert put.headers["content-length"] == "7"
    assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert put.headers["x-amz-checksum-sha256"] == sha256
    assert not {"expect", "transfer-encoding", "x-amz-trailer", "content-encoding"} & set(put.headers)
    assert not [name for name in put.headers if name.startswith("x-amz-checksum-") and name != "x-amz-checksum-sha256"]


def test_without_tls_the_wire_carries_a_signed_body(seaweed: Seaweed, bucket: str) -> None:
    with FaultProxy("localhost", seaweed.port, tls=False) as proxy:
        client = connect(seaweed.settings_at(proxy.url))
        client.put_object(Bucket=bucket, Key="plain", Body=b"content")

        (put,) = proxy.requests
        assert put.headers["x-amz-content-sha256"] == hashlib.sha256(b"content").hexdigest()
        assert "expect" not in put.headers


def answered(status: int, code: str, message: str = "said", headers: dict[str, str] | None = None) -> boto.ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return boto.ClientError(answer, "PutObject")


def ours(error: Exception) -> BridgeError:
    with pytest.raises(BridgeError) as caught, translated("put s3://b/k"):
        raise error
    assert caught.value.message.startswith("put s3://b/k: ")
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", RetryableError),
        (502, "502", RetryableError),
        (503, "SlowDown", RetryableError),
        (429, "TooManyRequests", RetryableError),
        (409, "ConditionalRequestConflict", RetryableError),
        (400, "RequestTimeout", RetryableError),
        (400, "IncompleteBody", RetryableError),
        (200, "InternalError", RetryableError),
        (412, "PreconditionFailed", PreconditionFailed),
        (401, "Unauthorized", Refused),
        (403, "AccessDenied", Refused),
        (404, "NoSuchBucket", Refused),
        (404, "NoSuchKey", Refused),
        (404, "404", Refused),
        (400, "BadDigest", Refused),
        (501, "NotImplemented", Refused),
        (301, "PermanentRedirect", Refused),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_to_do(status: int, code: str, kind: type[BridgeError]) -> None:
    error = ours(answered(status, code))

    assert type(error) is kind
    assert f"{status} {code}" in error.message
    if isinstance(error, Refused):
        assert (error.status, error.code) == (status, code)
        assert error.missing is (code in ("NoSuchKey", "404"))
        assert error.hint or status in (400, 404, 412, 501)


@pytest.mark.parametrize("headers", [{"retry-after": "7"}, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}])
def test_the_wait_a_store_asks_for_is_kept(headers: dict[str, str]) -> None:
    error = ours(answered(503, "SlowDown", headers=headers))

    assert getattr(error, "retry_after", None) == (7 if headers.get("retry-after") == "7" else None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (boto.EndpointConnectionError(endpoint_url="https://user:hush@host.test/b?X-Amz-Signature=hush"), Unreachable),
        (boto.ConnectTimeoutError(endpoint_url="https://host.test/b"), Unreachable),
        (boto.ReadTimeoutError(endpoint_url="https://host.test/b?hush"), RetryableError),
        (boto.ConnectionClosedError(endpoint_url="https://host.test/b?hush"), RetryableError),
        (boto.ResponseStreamingError(error="cut"), RetryableError),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), RetryableError),
        (boto.HTTPClientError(error="reset"), RetryableError),
        (
            boto.SSLError(endpoint_url="https://h", error=OSError("EOF occurred in violation of protocol")),
            RetryableError,
        ),
        (
            boto.SSLError(endpoint_url="https://h", error=OSError("[SSL: CERTIFICATE_VERIFY_FAILED] unknown CA")),
            Refused,
        ),
        (boto.NoCredentialsError(), ConfigError),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), ConfigError),
        (boto.ParamValidationError(report='Invalid bucket name "a b"'), ConfigError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_a_request_without_an_answer_becomes_an_error_of_ours(error: Exception, kind: type[BridgeError]) -> None:
    became = ours(error)

    assert type(became) is kind
    assert became.hint
    assert "hush" not in str(became) + became.hint


def test_errors_that_are_not_the_vendors_pass_unchanged() -> None:
    with pytest.raises(SourceError), translated("x"):
        raise SourceError("ours")
    with pytest.raises(ValueError, match="theirs"), translated("x"):
        raise ValueError("theirs")


def test_a_refusal_survives_the_way_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(ours(answered(403, "AccessDenied"))))

    assert type(copy) is Refused
    assert "AccessDenied" in copy.message
    assert copy.hint


def test_stat_tells_size_and_etag(seaweed: Seaweed, bucket: str) -> None:
    seaweed.client.put_object(Bucket=bucket, Key="stat", Body=b"0123456789")

    there = stat(seaweed.client, bucket, "stat")

    assert (there.key, there.size, there.etag) == ("stat", 10, hashlib.md5(b"0123456789").hexdigest())
    with pytest.raises(Refused) as caught:
        stat(seaweed.client, bucket, "none")
    assert caught.value.missing
    assert isinstance(caught.value, StoreError)


def test_a_list_goes_over_all_pages(seaweed: Seaweed, bucket: str) -> None:
    for number in range(7):
        seaweed.client.put_object(Bucket=bucket, Key=f"list/{number}", Body=b"x" * number)

    found = list(list_objects(seaweed.client, bucket, "list/", page_keys=3))

    assert [(item.key, item.size) for item in found] == [(f"list/{number}", number) for number in range(7)]
    assert found[3].etag == hashlib.md5(b"xxx").hexdigest()


def test_a_list_without_a_folder_goes_over_all_pages_beside_it(seaweed: Seaweed, bucket: str) -> None:
    keys = [f"{folder}{number}" for folder in ("", "A/", "_left/", "z/b/", "z_") for number in range(4)]
    for key in keys:
        seaweed.client.put_object(Bucket=bucket, Key=f"beside/{key}", Body=b"")

    found = list_objects(seaweed.client, bucket, "beside/", page_keys=3, without="beside/_left/")

    left = [f"beside/{key}" for key in keys if not key.startswith("_left/")]
    assert sorted(item.key for item in found) == sorted(left)


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 10), (3, 7), (3, None), (9, 10), (5, 5), (0, 0)])
def test_a_range_is_exactly_its_bytes(seaweed: Seaweed, bucket: str, start: int, end: int | None) -> None:
    seaweed.client.put_object(Bucket=bucket, Key="range", Body=b"0123456789")

    assert b"".join(get_range(seaweed.client, bucket, "range", start, end)) == b"0123456789"[start:end]


def test_a_large_object_comes_in_blocks(seaweed: Seaweed, bucket: str) -> None:
    content = hashlib.shake_256(b"x").digest(2 * MIB + 5)
    seaweed.client.put_object(Bucket=bucket, Key="large", Body=content)

    blocks = list(get_range(seaweed.client, bucket, "large"))

    assert [len(block) for block in blocks] == [MIB, MIB, 5]
    assert b"".join(blocks) == content


def test_a_cut_body_is_an_error_after_everything_that_came_whole(
    seaweed: Seaweed, bucket: str, proxy: FaultProxy
) -> None:
    content = hashlib.shake_256(b"y").digest(3 * MIB)
    seaweed.client.put_object(Bucket=bucket, Key="cut", Body=content)
    client = connect(seaweed.settings_at(proxy.url))
    proxy.add(Fault("cut_response", method="GET", after=2 * MIB + 100))
    got = b""

    with pytest.raises(RetryableError):
        for block in get_range(client, bucket, "cut"):
            got += block

    assert content.startswith(got)
    assert len(got) <= 2 * MIB + 100
    rest = b"".join(get_range(client, bucket, "cut", len(got), len(content)))
    assert got + rest == content


def test_a_cut_body_resumes_where_it_stopped(seaweed: Seaweed, bucket: str, proxy: FaultProxy) -> None:
    content = hashlib.shake_256(b"z").digest(5 * MIB)
    seaweed.client.put_object(Bucket=bucket, Key="resume", Body=content)
    client = connect(seaweed.settings_at(proxy.url))
    etag = stat(client, bucket, "resume").etag
    proxy.add(Fault("cut_response", method="GET", after=MIB + 1, times=3))
    retry = Retry(tries=2, sleep=lambda seconds: None)

    got = b"".join(
        retry.resuming(lambda at: get_range(client, bucket, "resume", at, len(content), if_match=etag), start=1000)
    )

    assert got == content[1000:]
    assert len(proxy.seen("GET")) == 4


def test_an_object_that_changed_is_told_from_other_refusals(seaweed: Seaweed, bucket: str) -> None:
    seaweed.client.put_object(Bucket=bucket, Key="changed", Body=b"old content")
    etag = stat(seaweed.client, bucket, "changed").etag
    seaweed.client.put_object(Bucket=bucket, Key="changed", Body=b"new content")

    with pytest.raises(PreconditionFailed):
        list(get_range(seaweed.client, bucket, "changed", if_match=etag))


def test_a_range_beyond_the_end_and_a_missing_object_are_refusals(seaweed: Seaweed, bucket: str) -> None:
    seaweed.client.put_object(Bucket=bucket, Key="short", Body=b"0123456789")

    with pytest.raises(Refused, match="416"):
        list(get_range(seaweed.client, bucket, "short", 100))
    with pytest.raises(Refused, match="404 NoSuchKey") as caught:
        list(get_range(seaweed.client, bucket, "none"))
    assert caught.value.missing


def test_a_store_that_ignores_ranges_is_refused(seaweed: Seaweed, bucket: str, proxy: FaultProxy) -> None:
    seaweed.client.put_object(Bucket=bucket, Key="norange", Body=b"0123456789")
    proxy.add(Fault("rewrite", method="GET", headers={"Content-Range": "bytes 0-9/10"}))

    with pytest.raises(Refused, match="ignored the byte range"):
        list(get_range(connect(seaweed.settings_at(proxy.url)), bucket, "norange", 5))
