"""A bucket as destination, on a real server over TLS."""

import base64
import hashlib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.fault_proxy import Fault, FaultProxy
from support.seaweed import OWNER, READER, Seaweed, free_ports
from support.store_contract import VerifiedStoreContract, written
from support.tls import authority

from data_bridge.clients.s3 import connect
from data_bridge.config import R2Settings, S3Settings
from data_bridge.errors import ConfigError, IntegrityError
from data_bridge.pipelines.fresh import begin_anew
from data_bridge.storage.multipart import MIB, part_size
from data_bridge.storage.r2 import R2Client
from data_bridge.utils.retry import Retry


class TestR2Client(VerifiedStoreContract):
    @pytest.fixture
    def store(self, seaweed: Seaweed, bucket: str) -> R2Client:
        return R2Client(seaweed.settings, bucket, "some/prefix", scheme="r2")


@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1])
def test_files_around_the_size_of_a_part_come_back(seaweed: Seaweed, bucket: str, tmp_path: Path, size: int) -> None:
    store = R2Client(seaweed.settings, bucket, single_put_bytes=0, part_bytes=5 * MIB)
    path, sha256 = written(tmp_path, bytes(size))

    store.put_file("k", path, sha256=sha256)

    assert store.get("k") == bytes(size)
    assert path.exists()


def test_an_empty_file_never_goes_in_parts(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    store = R2Client(seaweed.settings, bucket, single_put_bytes=0)
    path, sha256 = written(tmp_path, b"")

    store.put_file("k", path, sha256=sha256)

    assert store.get("k") == b""


def test_a_file_that_changed_is_not_stored_in_parts_either(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    store = R2Client(seaweed.settings, bucket, single_put_bytes=0)
    path, _ = written(tmp_path, b"changed since")

    with pytest.raises(IntegrityError, match="is not the file that was recorded"):
        store.put_file("k", path, sha256="0" * 64)

    assert store.head("k") is None
    assert seaweed.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, context=authority().client_context()) as answer:
        content: bytes = answer.read()
        return content


def test_keys_are_below_the_prefix_and_nothing_beside_it_is_seen(seaweed: Seaweed, bucket: str) -> None:
    store = R2Client(seaweed.settings, bucket, "/a/b/")
    seaweed.client.put_object(Bucket=bucket, Key="a/bc/k", Body=b"other")
    seaweed.client.put_object(Bucket=bucket, Key="k", Body=b"other")

    store.put_bytes("k", b"ours")

    assert store.uri == f"s3://{bucket}/a/b"
    assert seaweed.client.get_object(Bucket=bucket, Key="a/b/k")["Body"].read() == b"ours"
    assert [item.key for item in store.list()] == ["k"]


def test_a_large_file_goes_in_equal_parts_and_comes_back(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * (4 * 17 * 1024)
    path, sha256 = written(tmp_path, content)
    with FaultProxy("localhost", seaweed.port) as proxy:
        settings = seaweed.settings_at(proxy.url)
        store = R2Client(settings, bucket, single_put_bytes=8 * MIB, part_bytes=5 * MIB)

        store.put_file("big", path, sha256=sha256)

        parts = sorted(proxy.seen("PUT", "/big"), key=lambda seen: seen.query)
        assert [int(part.headers["content-length"]) for part in parts] == [5 * MIB, 5 * MIB, 5 * MIB, 2 * MIB]
        assert all(part.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD" for part in parts)
        assert all("x-amz-checksum-crc32" in part.headers and "expect" not in part.headers for part in parts)
        assert not any("content-md5" in part.headers for part in parts)
    stored = seaweed.client.get_object(Bucket=bucket, Key="big")
    assert stored["ETag"].endswith('-4"')
    assert hashlib.sha256(stored["Body"].read()).hexdigest() == sha256
    assert seaweed.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_a_small_file_is_one_request_with_its_sha256_and_no_surprises(
    seaweed: Seaweed, bucket: str, tmp_path: Path
) -> None:
    path, sha256 = written(tmp_path, b"content")
    with FaultProxy("localhost", seaweed.port) as proxy:
        store = R2Client(seaweed.settings_at(proxy.url), bucket)
        store.put_file("k", path, sha256=sha256)
        store.put_file("k2", path, sha256=sha256)

        (put,) = proxy.seen("PUT", "/k")
        assert put.headers["content-length"] == "7"
        assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert put.headers["x-amz-checksum-sha256"] == base64.b64encode(bytes.fromhex(sha256)).decode()
        for seen in proxy.requests:
            assert "expect" not in seen.headers
            assert "transfer-encoding" not in seen.headers
            assert "aws-chunked" not in seen.headers.get("content-encoding", "")
            assert not seen.headers["x-amz-content-sha256"].startswith("STREAMING-")
            assert not {"x-amz-acl", "x-amz-tagging", "x-amz-server-side-encryption"} & set(seen.headers)
        assert len([seen for seen in proxy.seen("PUT") if "-wrong" in seen.path]) == 1


def test_parts_are_as_small_as_ten_thousand_of_them_allow() -> None:
    assert part_size(300 * MIB, 16 * MIB) == 16 * MIB
    assert part_size(160_000 * MIB, 16 * MIB) == 16 * MIB
    assert part_size(160_000 * MIB + 1, 16 * MIB) == 17 * MIB
    assert part_size(5_000_000 * MIB, 16 * MIB) == 500 * MIB


def test_a_presigned_url_opens_the_object_and_no_other(seaweed: Seaweed, bucket: str) -> None:
    store = R2Client(seaweed.settings, bucket, "p")
    store.put_bytes("shard 1.tar", b"content")
    store.put_bytes("other", b"secret")

    url = store.presign("shard 1.tar", 60)

    assert fetched(url) == b"content"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetched(url.replace("shard%201.tar", "other"))
    assert OWNER[1] not in url


@pytest.mark.parametrize("expires_s", [0, -1, 604_801])
def test_a_presigned_url_lives_a_second_to_a_week(seaweed: Seaweed, expires_s: int) -> None:
    store = R2Client(seaweed.settings, "bucket")

    with pytest.raises(ConfigError, match="cannot live for"):
        store.presign("k", expires_s)
    assert "X-Amz-Expires=604800" in store.presign("k", 604_800)


def refusal(store: R2Client) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        store.probe("_bridge/probe")
    assert caught.value.hint
    assert "secret" not in str(caught.value) + caught.value.hint.replace("secret_access_key", "")
    return caught.value


def test_a_missing_bucket_is_a_config_error(seaweed: Seaweed) -> None:
    error = refusal(R2Client(seaweed.settings, "no-such-bucket"))

    assert "cannot use s3://no-such-bucket" in error.message
    assert "create the bucket" in error.hint


def test_a_wrong_secret_is_a_config_error(seaweed: Seaweed, bucket: str) -> None:
    settings = seaweed.settings_at(seaweed.endpoint, (OWNER[0], "wrong-secret"))

    assert "secret_access_key" in refusal(R2Client(settings, bucket)).hint


def test_an_unknown_key_is_a_config_error(seaweed: Seaweed, bucket: str) -> None:
    settings = seaweed.settings_at(seaweed.endpoint, ("NOBODY", OWNER[1]))

    assert "access_key_id" in refusal(R2Client(settings, bucket)).hint


def test_a_key_that_may_not_write_is_a_config_error(seaweed: Seaweed, bucket: str) -> None:
    settings = seaweed.settings_at(seaweed.endpoint, READER)

    assert "AccessDenied" in refusal(R2Client(settings, bucket)).message


def test_an_endpoint_nobody_answers_at_is_a_config_error() -> None:
    keys = {"access_key_id": SecretStr("k"), "secret_access_key": SecretStr("very-secret")}
    closed = S3Settings(endpoint_url=f"https://localhost:{free_ports(1)[0]}", **keys)
    nowhere = R2Settings(endpoint_url="https://no-such-host.invalid", **keys)

    assert "cannot connect to localhost" in refusal(R2Client(closed, "bucket")).message
    assert "cannot connect to no-such-host.invalid" in refusal(R2Client(nowhere, "bucket")).message


def test_a_certificate_nobody_vouches_for_is_a_config_error(
    seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")

    assert "AWS_CA_BUNDLE" in refusal(R2Client(seaweed.settings, bucket)).hint


def test_no_credentials_anywhere_is_a_config_error(
    seaweed: Seaweed, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    error = refusal(R2Client(S3Settings(endpoint_url=seaweed.endpoint), bucket))

    assert "no usable credentials" in error.message


def test_a_store_that_ignores_if_none_match_is_for_one_writer(seaweed: Seaweed, bucket: str) -> None:
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(
            Fault("status", status=200, code="", where=lambda seen: "if-none-match" in seen.headers, skip=1, times=99)
        )
        store = R2Client(seaweed.settings_at(proxy.url), bucket)

        store.probe("_bridge/probe")

        assert store.conditional is False
        assert store.put_if_absent("k", b"mine") is True
        assert store.put_if_absent("k", b"other") is False
        assert store.put_if_absent("k", b"mine") is True
        assert store.get("k") == b"mine"


def unconditional() -> Fault:
    """A store that does not know `If-None-Match`."""
    return Fault(
        "status", status=501, code="NotImplemented", where=lambda seen: "if-none-match" in seen.headers, times=99
    )


def test_a_store_that_does_not_know_if_none_match_is_for_one_writer(seaweed: Seaweed, bucket: str) -> None:
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(unconditional())
        store = R2Client(seaweed.settings_at(proxy.url), bucket)

        store.probe("_bridge/probe")

        assert store.conditional is False
        assert list(store.list()) == []


def test_a_dataset_is_begun_anew_on_a_store_that_does_not_know_if_none_match(seaweed: Seaweed, bucket: str) -> None:
    R2Client(seaweed.settings, bucket).put_bytes("_bridge/dataset.json", b'{"v":1,"run":"0123456789abcdef"}')
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(unconditional())
        store = R2Client(seaweed.settings_at(proxy.url), bucket)

        begin_anew(store)

        assert [item.key for item in store.list()] == ["_bridge/dataset.json"]
        assert b"0123456789abcdef" not in (store.get("_bridge/dataset.json") or b"")


def test_the_second_put_of_a_probe_comes_late_enough_for_r2(seaweed: Seaweed, bucket: str) -> None:
    with FaultProxy("localhost", seaweed.port) as proxy:
        R2Client(seaweed.settings_at(proxy.url), bucket, scheme="r2").probe("_bridge/probe")

        conditional = [seen for seen in proxy.seen("PUT") if "if-none-match" in seen.headers]
        assert len(conditional) == 2
        assert conditional[1].at_s - conditional[0].at_s >= 1.1


def test_a_probe_waits_for_no_store_but_r2_and_for_any_that_asks_for_it(seaweed: Seaweed, bucket: str) -> None:
    waits: list[float] = []
    busy = Fault("status", method="PUT", status=429, code="TooManyRequests", times=1, skip=1,
                 where=lambda seen: "if-none-match" in seen.headers)  # fmt: skip
    with FaultProxy("localhost", seaweed.port) as proxy:
        store = R2Client(connect(seaweed.settings_at(proxy.url), attempts=1), bucket, retry=Retry(sleep=waits.append))

        store.probe("_bridge/probe")
        assert waits == []

        proxy.add(busy)
        store.probe("_bridge/probe")
        assert len(waits) == 1
        assert store.conditional


NO_CRC32 = {
    "takes a wrong one": Fault("status", status=200, code="", query_has="partNumber", headers={"ETag": '"0"'}),
    "refuses the upload": Fault("status", status=501, code="NotImplemented", query_has="uploads"),
    "refuses any": Fault("status", status=400, code="InvalidRequest", query_has="partNumber"),
    "refuses a right one": Fault("status", status=400, code="InvalidRequest", query_has="partNumber", skip=1),
    "refuses the end": Fault("status", status=400, code="InvalidRequest", method="POST", query_has="uploadId"),
}


@pytest.mark.parametrize("answer", sorted(NO_CRC32))
def test_where_crc32_of_parts_is_not_checked_md5_is(seaweed: Seaweed, bucket: str, tmp_path: Path, answer: str) -> None:
    path, sha256 = written(tmp_path, bytes(range(256)) * (4 * 6 * 1024))
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(NO_CRC32[answer])
        store = R2Client(seaweed.settings_at(proxy.url), bucket, single_put_bytes=5 * MIB, part_bytes=5 * MIB)

        store.put_file("big", path, sha256=sha256)
        store.put_file("big2", path, sha256=sha256)

        for name in ("/big", "/big2"):
            parts = proxy.seen("PUT", name)
            assert len(parts) == 2
            assert all("content-md5" in part.headers and "x-amz-checksum-crc32" not in part.headers for part in parts)
    assert hashlib.sha256(seaweed.client.get_object(Bucket=bucket, Key="big")["Body"].read()).hexdigest() == sha256
    assert seaweed.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert sorted(item.key for item in store.list()) == ["big", "big2"]


@pytest.mark.parametrize("answer", ["accepts a wrong one", "refuses any"])
def test_where_sha256_is_not_checked_md5_is(seaweed: Seaweed, bucket: str, tmp_path: Path, answer: str) -> None:
    path, sha256 = written(tmp_path, b"content")
    with FaultProxy("localhost", seaweed.port) as proxy:
        if answer == "accepts a wrong one":
            proxy.add(Fault("status", status=200, code="", path_ends="-wrong"))
        else:
            proxy.add(
                Fault(
                    "status",
                    status=400,
                    code="InvalidRequest",
                    times=99,
                    where=lambda seen: "x-amz-checksum-sha256" in seen.headers,
                )
            )
        store = R2Client(seaweed.settings_at(proxy.url), bucket)

        store.put_file("k", path, sha256=sha256)

        (put,) = proxy.seen("PUT", "/k")
        assert put.headers["content-md5"] == base64.b64encode(hashlib.md5(b"content").digest()).decode()
        assert "x-amz-checksum-sha256" not in put.headers
        assert store.get("k") == b"content"

        with pytest.raises(IntegrityError, match="is not the file that was recorded"):
            store.put_file("k3", path, sha256="0" * 64)
        assert store.head("k3") is None


def test_an_etag_that_is_not_the_files_md5_is_an_error(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, b"content")
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(Fault("status", status=200, code="", path_ends="-wrong"))
        proxy.add(Fault("rewrite", method="PUT", path_ends="/k", headers={"ETag": f'"{"0" * 32}"'}))

        with pytest.raises(IntegrityError, match="is not what was put there"):
            R2Client(seaweed.settings_at(proxy.url), bucket).put_file("k", path, sha256=sha256)


def test_where_etags_say_nothing_the_object_is_read_back(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, b"content")
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(Fault("status", status=200, code="", path_ends="-wrong"))
        managed = {"x-amz-server-side-encryption": "aws:kms", "ETag": f'"{"0" * 32}"'}
        proxy.add(Fault("rewrite", method="PUT", path_ends="/k", headers=managed))

        R2Client(seaweed.settings_at(proxy.url), bucket).put_file("k", path, sha256=sha256)

        assert len(proxy.seen("GET", "/k")) == 1


def test_an_object_of_another_size_after_the_put_is_an_error(seaweed: Seaweed, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, b"content")
    with FaultProxy("localhost", seaweed.port) as proxy:
        proxy.add(Fault("rewrite", method="HEAD", headers={"Content-Length": "6"}))

        with pytest.raises(IntegrityError, match="has 6 bytes after a put of 7 bytes"):
            R2Client(seaweed.settings_at(proxy.url), bucket).put_file("k", path, sha256=sha256)


def test_a_store_made_of_a_client_works_and_says_that_it_cannot_travel(seaweed: Seaweed, bucket: str) -> None:
    store = R2Client(connect(seaweed.settings), bucket)
    store.probe("p")
    store.put_bytes("k", b"x")

    assert store.get("k") == b"x"
    with pytest.raises(TypeError, match="make it of settings"):
        store.__getstate__()
