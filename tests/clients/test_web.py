"""Files of hosts nobody vouches for, from real servers on loopback: what arrives is whole, or there is a reason."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
from support.http_server import HttpServer
from support.tls import authority

from data_bridge.clients.host_limits import HostLimits
from data_bridge.clients.web import Origin, WebClient, WebRules, parse
from data_bridge.clients.web_connection import Unfetched
from data_bridge.errors import RetryableError

Clients: TypeAlias = Callable[..., WebClient]
DATA = bytes(range(256)) * 1000
LIMIT_S = 20.0


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client() -> Iterator[Clients]:
    made: list[WebClient] = []

    def new(**rules: Any) -> WebClient:
        made.append(WebClient(WebRules(**{"timeout_s": 10.0, "allow_private": True, **rules}), HostLimits(8)))
        return made[-1]

    yield new
    for each in made:
        each.close()


@contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives each connection's first request the next of the answers and hangs up."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x", asked
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_file_arrives_whole_however_its_end_is_told(server: HttpServer, framing: str, client: Clients) -> None:
    site = server.serve("/a.bin", DATA, framing=framing)
    web = client()
    for _ in range(3):
        assert web.get(site.url).data == DATA


def test_one_connection_serves_many_requests_also_after_errors_and_redirects(
    server: HttpServer, client: Clients
) -> None:
    site = server.serve("/a.bin", DATA)
    server.serve("/moved", b"", location="/a.bin")
    server.serve("/gone", b"", status=410)
    web = client()
    for path in ("/moved", "/a.bin", "/moved"):
        assert web.get(server.origin + path).data == DATA
        with pytest.raises(Unfetched, match="HTTP 410"):
            web.get(server.origin + "/gone")
    assert len(web._idle) == 1
    assert site.asked("GET") == 3


def test_a_connection_the_server_closed_meanwhile_is_replaced_without_a_try(client: Clients) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    with scripted(answer, answer) as (url, asked):
        web = client()
        assert web.get(url).data == b"hi"
        assert web.get(url).data == b"hi"
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", RetryableError, "connection lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", RetryableError, "connection lost"),
        (b"", RetryableError, "connection lost"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Unfetched, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: br\r\n\r\nhi", Unfetched, "packed as br"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\nhi", Unfetched, "damaged gzip"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: file:///etc/passwd\r\n\r\n", Unfetched, "not a URL"),
    ],
)
def test_what_does_not_arrive_whole_has_a_reason(
    answer: bytes, kind: type[Exception], reason: str, client: Clients
) -> None:
    with scripted(answer) as (url, _), pytest.raises(kind, match=f"^{reason}$"):
        client().get(url)


def test_a_file_a_server_packs_unasked_is_unpacked(server: HttpServer, client: Clients) -> None:
    packed = server.serve("/a.bin", gzip.compress(DATA), headers={"Content-Encoding": "gzip"})
    bomb = server.serve("/bomb", gzip.compress(bytes(10**7)), headers={"Content-Encoding": "gzip"})
    web = client(max_bytes=10**6)
    assert web.get(packed.url).data == DATA
    with pytest.raises(Unfetched, match="over 1000000 bytes"):
        web.get(bomb.url)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_file_over_the_limit_is_not_read_to_its_end(server: HttpServer, framing: str, client: Clients) -> None:
    site = server.serve("/big", bytes(50_000_000), framing=framing)
    with pytest.raises(Unfetched, match="over 1000 bytes"):
        client(max_bytes=1000).get(site.url)
    assert client(max_bytes=50_000_000).get(site.url).data == bytes(50_000_000)


@pytest.mark.parametrize(("status", "kind"), [(404, Unfetched), (403, Unfetched), (503, RetryableError), (429, RetryableError)])  # fmt: skip
def test_a_refusal_is_its_status(server: HttpServer, status: int, kind: type[Exception], client: Clients) -> None:
    site = server.serve("/a", b"", status=status)
    with pytest.raises(kind, match=f"^HTTP {status}$"):
        client().get(site.url)
    with pytest.raises(Unfetched, match=r"^HTTP 404$"):
        client().get(server.origin + "/nothing")


def test_retry_after_is_handed_on(server: HttpServer, client: Clients) -> None:
    site = server.serve("/a", b"", busy=1, busy_status=429, retry_after="17")
    with pytest.raises(RetryableError) as error:
        client().get(site.url)
    assert error.value.retry_after == 17.0  # type: ignore[attr-defined]


def test_redirects_end(server: HttpServer, client: Clients) -> None:
    site = server.serve("/a", b"", location="/a")
    with pytest.raises(Unfetched, match="more than 3 redirects"):
        client(redirects=3).get(site.url)
    assert site.asked("GET") == 4


def test_a_silent_server_is_a_timeout(server: HttpServer, client: Clients) -> None:
    site = server.serve("/a", DATA, stall_after=10)
    with pytest.raises(RetryableError, match=r"^timeout$"):
        client(timeout_s=0.2).get(site.url)


def test_private_addresses_are_refused_before_anything_is_sent(server: HttpServer, client: Clients) -> None:
    site = server.serve("/a", DATA)
    with pytest.raises(Unfetched, match=r"^private address$"):
        client(allow_private=False).get(site.url)
    assert site.requests == []


def test_no_server_no_name_no_url(client: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RetryableError, match=r"^connection refused$"):
        client().get(f"http://127.0.0.1:{port}/")
    for url in ("", "x", "ftp://a/b", "http://", "http://u:p@h/", "http://h:99999/", "http://" + 70 * "a" + ".com/"):
        with pytest.raises(Unfetched, match=r"^not a URL$"):
            client().get(url)


def test_tls_is_checked_against_trusted_authorities(monkeypatch: pytest.MonkeyPatch, client: Clients) -> None:
    with HttpServer(authority().server_context()) as server:
        site = server.serve("/a", DATA)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(Unfetched, match=r"^certificate not trusted$"):
            client().get(site.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
        web = client()
        assert web.get(site.url).data == DATA
        assert web.get(site.url.replace("127.0.0.1", "localhost")).data == DATA


@pytest.mark.parametrize("tls", [False, True])
def test_abort_wakes_who_waits_for_a_server(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
    with HttpServer(authority().server_context() if tls else None) as server:
        site = server.serve("/a", DATA, stall_after=10)
        limits = HostLimits(8)
        web = WebClient(WebRules(timeout_s=1000.0, allow_private=True), limits)
        ended = threading.Event()

        def get() -> None:
            with pytest.raises((RetryableError, Unfetched)):
                web.get(site.url)
            ended.set()

        thread = threading.Thread(target=get)
        thread.start()
        while not site.sent:
            assert thread.is_alive()
        limits.stop()
        web.abort()
        assert ended.wait(LIMIT_S)
        thread.join()


def test_through_a_proxy_the_whole_url_is_asked_and_private_names_are_still_refused(
    monkeypatch: pytest.MonkeyPatch, client: Clients
) -> None:
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") as (url, asked):
        monkeypatch.setenv("http_proxy", url.replace("http://", "http://me:secret@").removesuffix("/x"))
        monkeypatch.setenv("no_proxy", "")
        web = client(allow_private=False)
        for private in ("http://localhost/a", "http://127.0.0.1/a", "http://[::1]/a", "http://db.internal/a"):
            with pytest.raises(Unfetched, match="private address"):
                web.get(private)
        assert web.get("http://example.org/a?b=c").data == b"hi"
        (request,) = asked
    assert request.startswith(b"GET http://example.org/a?b=c HTTP/1.1\r\n")
    assert b"Host: example.org\r\n" in request
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in request


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, client: Clients) -> None:
    moved = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://169.254.169.254/latest/meta-data\r\n\r\n"
    with scripted(moved) as (url, asked):
        monkeypatch.setenv("http_proxy", url.removesuffix("/x"))
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(Unfetched, match=r"^private address$"):
            client(allow_private=False).get("http://example.org/a")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://a.org", ("http", "a.org", 80), "/"),
        ("https://A.org:8443/x?y=1%20", ("https", "a.org", 8443), "/x?y=1%20"),
        (" HTTPS://a.org/ä b#frag", ("https", "a.org", 443), "/%C3%A4%20b"),
        ("http://[::1]:8080/x", ("http", "::1", 8080), "/x"),
        ("http://a.org?q=1", ("http", "a.org", 80), "/?q=1"),
    ],
)
def test_urls_are_understood_as_people_write_them(url: str, origin: Origin, target: str) -> None:
    assert parse(url) == (origin, target)
