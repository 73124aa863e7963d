"""A bucket as destination when the network and the server misbehave: cut, lost, refused, overloaded, killed."""

import hashlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault_proxy import Fault, FaultProxy
from support.seaweed import Seaweed
from support.store_contract import written

from data_bridge.clients.s3 import connect
from data_bridge.errors import RetryableError, StoreError
from data_bridge.storage.multipart import MIB
from data_bridge.storage.r2 import R2Client
from data_bridge.utils.retry import Retry

CONTENT = hashlib.shake_256(b"content").digest(10 * MIB + 12345)


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy("localhost", seaweed.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def bucket(seaweed: Seaweed) -> str:
    """One for all tests here: the first write to a bucket takes the server a while."""
    return seaweed.new_bucket()


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(6)


@pytest.fixture(params=["crc32", "md5"])
def store(request: pytest.FixtureRequest, seaweed: Seaweed, bucket: str, prefix: str, proxy: FaultProxy) -> R2Client:
    """A store behind the proxy whose only patience is the product's own loop, without its waits."""
    client = connect(seaweed.settings_at(proxy.url), attempts=1)
    retry = Retry(tries=4, sleep=lambda seconds: None)
    made = R2Client(client, bucket, prefix, single_put_bytes=5 * MIB, part_bytes=5 * MIB, retry=retry)
    made._checks_crc32 = request.param == "crc32"  # the requests that find it out are not what these tests count
    return made


@pytest.fixture
def big(tmp_path: Path) -> tuple[Path, str]:
    return written(tmp_path, CONTENT)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, str]:
    return written(tmp_path, CONTENT[: 2 * MIB], "small.bin")


def open_uploads(seaweed: Seaweed, bucket: str, prefix: str) -> list[str]:
    answer = seaweed.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in answer.get("Uploads", [])]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=500, code="InternalError"),
        Fault("status", status=503, code="SlowDown", times=3),
        Fault("status", status=429, code="TooManyRequests", times=2),
        Fault("status", status=400, code="IncompleteBody"),
        Fault("cut_request", after=MIB),
        Fault("cut_request", times=2),
        Fault("lose_answer"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.times}",
)
def test_a_passing_fault_delays_a_put_and_no_more(
    store: R2Client, proxy: FaultProxy, small: tuple[Path, str], fault: Fault
) -> None:
    fault.method, fault.path_ends, fault.hits = "PUT", "/k", 0
    proxy.add(fault)

    store.put_file("k", small[0], sha256=small[1])

    assert fault.hits == fault.times + 1
    assert store.get("k") == CONTENT[: 2 * MIB]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=503, times=3, query_has="partNumber=2"),
        Fault("cut_request", after=MIB, query_has="partNumber=1"),
        Fault("lose_answer", query_has="partNumber=3"),
        Fault("status", status=400, code="BadDigest", query_has="partNumber=2"),
        Fault("rewrite", headers={"ETag": f'"{"0" * 32}"'}, query_has="partNumber=2"),
        Fault("status", status=503, method="POST", query_has="uploads"),
        Fault("status", status=500, method="POST", query_has="uploadId"),
        Fault("lose_answer", method="POST", query_has="uploadId"),
        Fault("status", status=400, code="InvalidPart", method="POST", query_has="uploadId"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}-{fault.query_has}",
)
def test_a_passing_fault_delays_an_upload_in_parts_and_no_more(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str, big: tuple[Path, str], fault: Fault
) -> None:
    fault.path_ends, fault.hits = "/k", 0
    proxy.add(fault)

    store.put_file("k", big[0], sha256=big[1])

    assert fault.hits >= fault.times
    assert hashlib.sha256(b"".join(store.read("k"))).hexdigest() == big[1]
    assert open_uploads(seaweed, bucket, prefix) == []


def test_a_completion_whose_answer_was_lost_is_found_done(
    store: R2Client, proxy: FaultProxy, big: tuple[Path, str]
) -> None:
    # as R2 does: the repeated completion of an upload that is complete knows of no such upload
    proxy.add(Fault("lose_answer", method="POST", query_has="uploadId"))
    proxy.add(Fault("status", status=404, code="NoSuchUpload", method="POST", query_has="uploadId"))

    store.put_file("k", big[0], sha256=big[1])

    assert len([seen for seen in proxy.seen("POST") if "uploads" in seen.query]) == 1
    assert hashlib.sha256(b"".join(store.read("k"))).hexdigest() == big[1]


def test_an_upload_the_store_lost_starts_afresh(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str, big: tuple[Path, str]
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=bytes(len(CONTENT)))
    proxy.add(Fault("status", status=404, code="NoSuchUpload", method="POST", query_has="uploadId"))
    proxy.add(Fault("status", status=404, code="NoSuchUpload", method="PUT", query_has="partNumber=2", skip=1))

    store.put_file("k", big[0], sha256=big[1])

    assert len([seen for seen in proxy.seen("POST") if "uploads" in seen.query]) == 3
    assert hashlib.sha256(b"".join(store.read("k"))).hexdigest() == big[1]


def test_an_upload_that_is_lost_every_time_is_an_error(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str, big: tuple[Path, str]
) -> None:
    proxy.add(Fault("status", status=404, code="NoSuchUpload", method="POST", query_has="uploadId", times=99))

    with pytest.raises(StoreError, match="lost the upload 3 times"):
        store.put_file("k", big[0], sha256=big[1])

    assert store.head("k") is None
    assert open_uploads(seaweed, bucket, prefix) == []


def test_a_part_the_store_lost_is_sent_again(store: R2Client, proxy: FaultProxy, big: tuple[Path, str]) -> None:
    etag = hashlib.md5(CONTENT[5 * MIB : 10 * MIB]).hexdigest()
    proxy.add(Fault("status", status=200, code="", query_has="partNumber=2", headers={"ETag": f'"{etag}"'}))

    store.put_file("k", big[0], sha256=big[1])

    sent = [seen.query.partition("partNumber=")[2][0] for seen in proxy.seen("PUT") if "partNumber" in seen.query]
    assert sorted(sent) == ["1", "2", "2", "3"]
    assert hashlib.sha256(b"".join(store.read("k"))).hexdigest() == big[1]


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(503, "SlowDown", RetryableError), (403, "AccessDenied", StoreError)]
)
def test_a_lasting_fault_of_a_part_leaves_no_object_and_no_parts(
    store: R2Client,
    proxy: FaultProxy,
    seaweed: Seaweed,
    bucket: str,
    prefix: str,
    big: tuple[Path, str],
    status: int,
    code: str,
    kind: type[Exception],
) -> None:
    proxy.add(Fault("status", status=status, code=code, query_has="partNumber=2", times=999))

    with pytest.raises(kind, match=f"put part 2 of {prefix}/k: the store answered {status} {code}"):
        store.put_file("k", big[0], sha256=big[1])

    assert store.head("k") is None
    assert open_uploads(seaweed, bucket, prefix) == []


def test_a_store_that_stays_down_is_an_error_worth_another_try(
    store: R2Client, proxy: FaultProxy, small: tuple[Path, str]
) -> None:
    store.put_file("before", small[0], sha256=small[1])
    proxy.add(Fault("status", status=503, times=9999))

    with pytest.raises(RetryableError, match="503 ServiceUnavailable") as caught:
        store.put_file("k", small[0], sha256=small[1])

    assert caught.value.hint
    assert len(proxy.seen("PUT", "/k")) == 4
    for call in (lambda: store.get("k"), lambda: store.put_if_absent("k", b""), lambda: list(store.list())):
        with pytest.raises(RetryableError):
            call()


def test_a_put_if_absent_whose_answer_was_lost_is_ours(store: R2Client, proxy: FaultProxy) -> None:
    lost = proxy.add(Fault("lose_answer", method="PUT", path_ends="/k", times=2))

    assert store.put_if_absent("k", b"mine") is True

    assert lost.hits == 3
    assert store.get("k") == b"mine"


def test_a_put_if_absent_that_lost_the_race_and_the_answer_is_not_ours(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=b"theirs")
    proxy.add(Fault("lose_answer", method="PUT", path_ends="/k"))

    assert store.put_if_absent("k", b"mine") is False


@pytest.mark.parametrize(("status", "code"), [(429, "TooManyRequests"), (409, "ConditionalRequestConflict")])
def test_a_put_if_absent_among_others_is_tried_again(
    store: R2Client, proxy: FaultProxy, status: int, code: str
) -> None:
    proxy.add(Fault("status", status=status, code=code, method="PUT", path_ends="/k", times=2))

    assert store.put_if_absent("k", b"mine") is True


def test_the_clients_own_repetition_of_a_lost_put_is_resolved_too(
    seaweed: Seaweed, bucket: str, prefix: str, proxy: FaultProxy
) -> None:
    store = R2Client(seaweed.settings_at(proxy.url), bucket, prefix)
    proxy.add(Fault("lose_answer", method="PUT", path_ends="/k"))

    assert store.put_if_absent("k", b"mine") is True

    assert len(proxy.seen("PUT", "/k")) == 2


def test_a_body_cut_many_times_is_read_to_its_end(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=CONTENT)
    proxy.add(Fault("cut_response", method="GET", after=MIB + 7, times=6))

    assert hashlib.sha256(b"".join(store.read("k"))).digest() == hashlib.sha256(CONTENT).digest()

    gets = proxy.seen("GET", "/k")
    starts = [int(get.headers["range"].removeprefix("bytes=").partition("-")[0]) for get in gets]
    assert len(gets) == 7
    assert starts == sorted(set(starts))
    assert all("if-match" in get.headers for get in gets)


def test_a_body_that_is_always_cut_is_an_error_not_a_shorter_object(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=CONTENT[: 2 * MIB])
    proxy.add(Fault("cut_response", method="GET", after=1000, times=99))

    with pytest.raises(RetryableError):
        list(store.read("k"))
    with pytest.raises(RetryableError):
        store.get("k")


def test_a_small_object_cut_once_is_whole(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=b"0123456789")
    proxy.add(Fault("cut_response", method="GET", after=4))

    assert store.get("k") == b"0123456789"


def test_an_object_replaced_while_it_is_read_is_an_error_not_a_mixture(
    store: R2Client, proxy: FaultProxy, seaweed: Seaweed, bucket: str, prefix: str
) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=bytes(3 * MIB))
    proxy.add(Fault("cut_response", method="GET", after=2 * MIB))
    blocks = store.read("k")
    next(blocks)

    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=b"\xff" * (3 * MIB))

    with pytest.raises(StoreError, match="412"):
        list(blocks)


def test_every_page_of_a_list_is_tried_again(store: R2Client, proxy: FaultProxy) -> None:
    store.put_bytes("a", b"")
    proxy.add(Fault("status", status=503, method="GET", query_has="list-type=2", times=3))

    assert [item.key for item in store.list()] == ["a"]


def test_the_pages_of_a_folder_that_is_left_out_are_not_asked_for(store: R2Client, proxy: FaultProxy) -> None:
    for key in ("a", "b/c", "left/d", "left/e/f"):
        store.put_bytes(key, b"")
    before = len(proxy.requests)

    assert [item.key for item in store.list(without="left/")] == ["a", "b/c"]

    asked = [seen.query for seen in proxy.requests[before:]]
    assert len(asked) == 2
    assert not [query for query in asked if "left" in query]


KILLED_PUT = """
import sys
from pathlib import Path
from pydantic import SecretStr
from data_bridge.config import S3Settings
from data_bridge.storage.r2 import R2Client

endpoint, bucket, prefix, path, sha256, single = sys.argv[1:]
settings = S3Settings(
    endpoint_url=endpoint, region="auto", access_key_id=SecretStr("OWNERKEY"), secret_access_key=SecretStr("owner-secret")
)
store = R2Client(settings, bucket, prefix, single_put_bytes=int(single), part_bytes=5 << 20)
store.put_file("k", Path(path), sha256=sha256)
"""


@pytest.mark.parametrize(
    ("single", "fault"),
    [
        (100 * MIB, Fault("stall", method="PUT", path_ends="/k", after=6 * MIB)),
        (1, Fault("stall", method="PUT", query_has="partNumber=2", after=2 * MIB)),
        (1, Fault("stall", method="POST", query_has="uploadId")),
    ],
    ids=["in one request", "in a part", "before completion"],
)
def test_a_put_killed_on_its_way_leaves_no_visible_object(
    store: R2Client,
    proxy: FaultProxy,
    seaweed: Seaweed,
    bucket: str,
    prefix: str,
    big: tuple[Path, str],
    single: int,
    fault: Fault,
) -> None:
    proxy.add(fault)
    command = [sys.executable, "-c", KILLED_PUT, proxy.url, bucket, prefix, str(big[0]), big[1], str(single)]
    child = subprocess.Popen(command)
    assert fault.stalled.wait(30)

    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    visible_then = store.head("k")

    assert visible_then is None
    assert list(store.list()) == []

    store.put_file("k", big[0], sha256=big[1])
    assert hashlib.sha256(b"".join(store.read("k"))).hexdigest() == big[1]
