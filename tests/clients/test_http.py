"""The web client: identities, ranges, redirects and refusals, against a real server on loopback."""

import os
import pickle
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.http_server import HttpServer, etag_of
from support.http_server import http_server as server
from support.tls import authority

from data_bridge.clients.http import CutError, HttpClient, HttpFile
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError

__all__ = ["server"]

DATA = bytes(range(256)) * 4000


@pytest.fixture
def client() -> HttpClient:
    return HttpClient(timeout_s=5)


def read(client: HttpClient, url: str, start: int = 0, end: int | None = None, known: HttpFile | None = None) -> bytes:
    known = known or client.stat(url)
    assert known is not None
    body = client.open(url, start, end, known=known)
    try:
        return b"".join(body)
    finally:
        body.close()


def test_stat_tells_size_and_etag(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA)

    assert client.stat(site.url) == HttpFile(len(DATA), etag_of(DATA))
    assert site.asked("GET") == 0


def test_without_an_etag_the_date_identifies_a_file(server: HttpServer, client: HttpClient) -> None:
    date = "Tue, 15 Nov 1994 12:45:26 GMT"
    site = server.serve("/a.bin", DATA, etag=None, last_modified=date)

    known = client.stat(site.url)
    assert known == HttpFile(len(DATA), f"last-modified:{date}")

    site.last_modified = "Tue, 15 Nov 1994 12:45:27 GMT"
    with pytest.raises(SourceError, match="changed"):
        read(client, site.url, known=known)


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_refused_head_is_asked_again_as_a_get_of_one_byte(
    server: HttpServer, client: HttpClient, status: int
) -> None:
    site = server.serve("/a.bin", DATA, head_status=status)
    if status == 501:
        site.head_status = 400

    assert client.stat(site.url) == HttpFile(len(DATA), etag_of(DATA))
    assert site.ranges == ["bytes=0-0"]


def test_an_empty_file_without_head_has_size_zero(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/empty", b"", head_status=403)

    assert client.stat(site.url) == HttpFile(0, None)
    assert read(client, site.url) == b""


def test_a_missing_file_is_none(server: HttpServer, client: HttpClient) -> None:
    assert client.stat(server.origin + "/none") is None
    assert client.stat(server.serve("/gone", b"x", status=410).url) is None


@pytest.mark.parametrize("status", [401, 403])
def test_no_access_is_a_config_error_before_and_a_source_error_while_reading(
    server: HttpServer, client: HttpClient, status: int
) -> None:
    site = server.serve("/a.bin", DATA)
    known = client.stat(site.url)
    site.status = status

    with pytest.raises(ConfigError, match=str(status)):
        client.stat(site.url)
    with pytest.raises(SourceError, match=str(status)):
        read(client, site.url, known=known)


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, len(DATA)), (0, 10), (5, 10), (1000, None), (len(DATA) - 1, None)]
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_range_is_exactly_those_bytes(
    server: HttpServer, client: HttpClient, start: int, end: int | None, framing: str
) -> None:
    site = server.serve("/a.bin", DATA, framing=framing)

    assert read(client, site.url, start, end) == DATA[start:end]


def test_a_server_that_ignores_ranges_is_read_from_its_start_if_it_identifies_the_file(
    server: HttpServer, client: HttpClient
) -> None:
    site = server.serve("/a.bin", DATA, ranges_work=False)
    assert read(client, site.url, 300_000, 300_007) == DATA[300_000:300_007]

    site.etag = None
    with pytest.raises(SourceError, match="ignores ranges"):
        read(client, site.url, 300_000, None)


def test_a_range_under_status_200_is_believed_only_if_its_length_agrees(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA, range_status=200)
    assert read(client, site.url, 100, 200) == DATA[100:200]

    site.ranges_work = False
    site.headers = {"Content-Range": f"bytes 100-199/{len(DATA)}"}
    with pytest.raises(SourceError, match="asked for bytes from 100"):
        read(client, site.url, 100, 200, known=HttpFile(len(DATA), None))


def test_another_range_than_the_asked_one_is_refused(server: HttpServer, client: HttpClient) -> None:
    site = server.serve(
        "/a.bin", DATA, ranges_work=False, headers={"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}"}
    )

    with pytest.raises(SourceError, match="asked for bytes from 5"):
        read(client, site.url, 5, None, known=HttpFile(len(DATA), etag_of(DATA)))


@pytest.mark.parametrize("if_match_works", [True, False])
@pytest.mark.parametrize("content", [DATA[::-1], DATA + b"x", DATA[:-1], b""])
def test_a_replaced_file_is_an_error(
    server: HttpServer, client: HttpClient, content: bytes, if_match_works: bool
) -> None:
    site = server.serve("/a.bin", DATA, if_match_works=if_match_works)
    known = client.stat(site.url)
    site.replace(content)

    for start in (0, 700_000):
        with pytest.raises(SourceError, match="changed while being read"):
            read(client, site.url, start, None, known=known)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_file_that_grew_without_an_etag_is_an_error(server: HttpServer, client: HttpClient, framing: str) -> None:
    site = server.serve("/a.bin", DATA, etag=None, framing=framing)
    known = client.stat(site.url)
    site.replace(DATA + b"more")

    with pytest.raises(SourceError, match="changed while being read"):
        read(client, site.url, 0, len(DATA), known=known)


def test_a_weak_etag_is_compared_but_never_sent(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA, etag='W/"1"')
    known = client.stat(site.url)
    assert read(client, site.url, known=known) == DATA
    assert all("if-match" not in headers for _, headers in site.requests)

    site.etag = 'W/"2"'
    with pytest.raises(SourceError, match="changed"):
        read(client, site.url, known=known)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_body_is_an_error_not_a_shorter_file(
    server: HttpServer, client: HttpClient, framing: str, reset: bool
) -> None:
    site = server.serve("/a.bin", DATA, framing=framing, cut_after=500_000, reset=reset)

    with pytest.raises(CutError):
        read(client, site.url)


@pytest.mark.parametrize("known_size", [len(DATA), None])
def test_a_body_without_any_end_mark_is_refused_unless_the_size_is_known(
    server: HttpServer, client: HttpClient, known_size: int | None
) -> None:
    site = server.serve("/a.bin", DATA, framing="close", head_says_length=False, ranges_work=False)

    with pytest.raises(SourceError, match="neither the size"):
        client.stat(site.url)
    if known_size is None:
        with pytest.raises(SourceError, match="where the file ends"):
            read(client, site.url, known=HttpFile(None, etag_of(DATA)))
    else:
        assert read(client, site.url, 0, known_size, known=HttpFile(known_size, etag_of(DATA))) == DATA


def test_a_chunked_body_of_unknown_size_is_read_to_its_terminator(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA, framing="chunked", head_says_length=False, ranges_work=False)

    assert client.stat(site.url) == HttpFile(None, etag_of(DATA))
    assert read(client, site.url) == DATA

    site.cut_after = 100_000
    with pytest.raises(CutError):
        read(client, site.url)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_passing_faults_are_retryable_and_carry_the_wait(server: HttpServer, client: HttpClient, status: int) -> None:
    site = server.serve("/a.bin", DATA, busy=2, busy_status=status, retry_after="7")

    for attempt in (lambda: client.stat(site.url), lambda: client.open(site.url, 0, None, known=HttpFile(None, None))):
        with pytest.raises(RetryableError, match=str(status)) as caught:
            attempt()
        assert getattr(caught.value, "retry_after", None) == 7.0


def test_retry_after_may_be_a_date_or_nonsense(server: HttpServer, client: HttpClient) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    site = server.serve("/a.bin", DATA, busy=9, retry_after=soon)

    with pytest.raises(RetryableError) as caught:
        client.stat(site.url)
    assert 50 < getattr(caught.value, "retry_after", 0) <= 60

    site.retry_after = "soonish"
    with pytest.raises(RetryableError) as caught:
        client.stat(site.url)
    assert getattr(caught.value, "retry_after", 0) is None


def test_no_server_and_no_host_are_retryable(server: HttpServer, client: HttpClient) -> None:
    url = server.origin + "/a"
    server.close()

    with pytest.raises(RetryableError, match="connection failed"):
        client.stat(url)
    with pytest.raises(RetryableError, match="cannot be resolved"):
        client.stat("http://no-such-host.invalid/a")


def test_a_silent_server_is_a_retryable_timeout(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, stall_after=1000)

    with pytest.raises(RetryableError, match="in time"):
        read(HttpClient(timeout_s=0.1), site.url)


def test_redirects_are_followed(server: HttpServer, client: HttpClient) -> None:
    target = server.serve("/cdn/x y", DATA).url
    server.sites["/cdn/x%20y"] = server.sites.pop("/cdn/x y")
    first = server.serve("/a.bin", b"", location="/b.bin")
    server.serve("/b.bin", b"", location=target)

    assert client.stat(first.url) == HttpFile(len(DATA), etag_of(DATA))
    assert read(client, first.url, 10, 20) == DATA[10:20]


def test_a_redirect_loop_ends_in_an_error(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", b"", location="/a.bin")

    with pytest.raises(SourceError, match="redirects"):
        client.stat(site.url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x"])
def test_a_redirect_to_another_scheme_is_refused(server: HttpServer, client: HttpClient, target: str) -> None:
    site = server.serve("/a.bin", b"", location=target)

    with pytest.raises(SourceError, match="not allowed"):
        client.stat(site.url)


def test_a_token_stays_with_its_host(server: HttpServer, client: HttpClient) -> None:
    with HttpServer() as other:
        away = other.serve("/away", DATA)
        home = server.serve("/home", DATA, token="hf_secret")
        server.serve("/to-away", b"", token=None, location=away.url)
        server.serve("/to-home", b"", token=None, location=home.url)

        assert client.stat(f"{server.origin}/to-home", token="hf_secret") is not None
        assert client.stat(f"{server.origin}/to-away", token="hf_secret") is not None

        assert "authorization" in server.sites["/to-away"].requests[0][1]
        assert away.requests and all("authorization" not in headers for _, headers in away.requests)


def test_what_the_hub_says_of_linked_content_decides(server: HttpServer, client: HttpClient) -> None:
    sha = "ab" * 32
    cdn = server.serve("/cdn", DATA, etag='"of-the-cdn"')
    linked = {"X-Linked-Size": str(len(DATA)), "X-Linked-ETag": f'"{sha}"', "ETag": '"of-the-redirect"'}
    site = server.serve("/resolve", b"", location=cdn.url, headers=linked)

    known = client.stat(site.url)
    assert known == HttpFile(len(DATA), sha)
    assert cdn.requests == []
    assert read(client, site.url, 100, 200, known=known) == DATA[100:200]
    assert all("if-match" not in headers for _, headers in cdn.requests)

    site.headers = {**linked, "X-Linked-ETag": '"other"'}
    with pytest.raises(SourceError, match="changed"):
        read(client, site.url, 100, 200, known=known)


def test_an_encoding_that_is_not_how_the_file_is_stored_is_refused(server: HttpServer, client: HttpClient) -> None:
    plain = server.serve("/a.jsonl", DATA, headers={"Content-Encoding": "gzip"})
    packed = server.serve("/a.jsonl.gz", DATA, headers={"Content-Encoding": "gzip"})

    with pytest.raises(SourceError, match="encoded as gzip"):
        read(client, plain.url)
    assert read(client, packed.url) == DATA
    assert all(headers["accept-encoding"] == "identity" for _, headers in packed.requests)


def test_no_message_shows_a_query(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin?X-Amz-Signature=SECRET", DATA)
    errors: list[BridgeError] = []

    def fail(url: str, **faults: object) -> None:
        for name, value in faults.items():
            setattr(site, name, value)
        with pytest.raises(BridgeError) as caught:
            read(client, url)
        errors.append(caught.value)

    fail(site.url, status=403)
    fail(site.url, status=200, busy=1)
    fail(site.url, cut_after=10)
    fail(site.url, location="/a.bin?token=SECRET")
    server.close()
    fail(site.url)
    assert len(errors) == 5
    assert not [error for error in errors if "SECRET" in error.message + error.hint]


def test_https_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer(authority().server_context()) as server:
        site = server.serve("/a.bin", DATA, cut_after=600_000, cuts=1)
        monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
        with pytest.raises(SourceError, match="certificate is not trusted") as caught:
            HttpClient().stat(site.url)
        assert "SSL_CERT_FILE" in caught.value.hint

        monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
        client = HttpClient()
        with pytest.raises(CutError):
            read(client, site.url)
        assert read(client, site.url) == DATA
        with pytest.raises(SourceError, match="not allowed"):
            client.stat(server.serve("/down", b"", location="http://127.0.0.1/x").url)
    assert ssl.get_default_verify_paths().cafile == str(authority().ca_file)


def test_connections_are_used_again(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA)
    before = threading.active_count()

    for at in range(0, 100_000, 10_000):
        assert read(client, site.url, at, at + 100) == DATA[at : at + 100]

    assert threading.active_count() <= before + 1  # the server has one thread per connection


def test_a_client_crosses_processes_without_its_connections(server: HttpServer, client: HttpClient) -> None:
    site = server.serve("/a.bin", DATA)
    assert read(client, site.url) == DATA

    copy = pickle.loads(pickle.dumps(client))

    assert copy.timeout_s == client.timeout_s
    assert read(copy, site.url) == DATA


def test_a_proxy_of_the_environment_is_used(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    site = server.serve("http://far.invalid/a.bin", DATA)
    site.url = "http://far.invalid/a.bin"
    monkeypatch.setenv("http_proxy", server.origin)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert HttpClient().stat(site.url) == HttpFile(len(DATA), etag_of(DATA))
    assert HttpClient().stat(server.serve("/near", b"near").url) == HttpFile(4, etag_of(b"near"))
