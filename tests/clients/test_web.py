"""Files of hosts nobody vouches for, from real servers on loopback: what arrives is whole, or there is a reason."""

import gzip
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def conversation(*talks: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server with a way to talk over each of its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for talk in talks:
                connection, _ = listening.accept()
                with connection, suppress(OSError):  # the client may have had enough
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def asked(connection: socket.socket) -> bytes:
    """The next request."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += (more := connection.recv(1))
        if not more:
            break
    return request


def good(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


def test_answers_that_announce_another_are_passed_over(client: Clients) -> None:
    def talk(connection: socket.socket) -> None:
        for number in (b"1", b"2", b"3"):
            path = asked(connection).split()[1]
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + HINT + HINT + good(path + b" " + number))

    with conversation(talk) as url:
        web = client()
        assert [web.get(url + end).data for end in ("a", "b", "c")] == [b"/xa 1", b"/xb 2", b"/xc 3"]
        web.close()


def test_a_server_that_goes_over_to_another_protocol_is_not_asked_again(client: Clients) -> None:
    def talk(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")

    with conversation(talk) as url:
        web = client()
        with pytest.raises(Unfetched, match=r"^HTTP 101$"):
            web.get(url)
        assert not web._idle


def test_an_answer_nobody_asked_for_is_not_that_to_the_next_request(client: Clients) -> None:
    def first(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(good(b"a"))
        taken.wait(LIMIT_S)
        connection.sendall(good(b"stale"))
        asked(connection)

    def second(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(good(b"b"))

    taken = threading.Event()
    with conversation(first, second) as url:
        web = client()
        assert web.get(url).data == b"a"
        taken.set()
        ((_, connection),) = web._idle.values()
        assert select.select([connection.live], [], [], LIMIT_S)[0]
        assert web.get(url).data == b"b"


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 20", b"0"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b"a"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 10000\r\n\r\n", b"a"),
    ],
    ids=["continue", "status", "header", "chunk", "trailer", "body", "refusal"],
)
def test_a_server_that_drips_is_a_timeout(start: bytes, drop: bytes, client: Clients) -> None:
    def talk(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(start)
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            # an RST when the client is gone raises here
            connection.sendall(drop)
            select.select([connection], [], [], 0.01)

    with conversation(talk) as url, pytest.raises(RetryableError, match=r"^timeout$"):
        client(timeout_s=0.3).get(url)


def test_a_proxy_that_drips_is_a_timeout(monkeypatch: pytest.MonkeyPatch, client: Clients) -> None:
    def talk(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        until_s = time.monotonic() + LIMIT_S
        while time.monotonic() < until_s:
            connection.sendall(b"a: b\r\n")
            select.select([connection], [], [], 0.01)

    with conversation(talk) as url:
        monkeypatch.setenv("https_proxy", url.removesuffix("/x"))
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(RetryableError, match=r"^timeout$"):
            client(timeout_s=0.3).get("https://example.org/a")


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
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://me:word@[x/\r\n\r\n", Unfetched, "not a URL"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://me:word@a/\r\n\r\n", Unfetched, "not a URL"),
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


def test_a_packed_file_may_have_several_parts(server: HttpServer, client: Clients) -> None:
    parts = gzip.compress(DATA) + gzip.compress(b"and more")
    packed = {"Content-Encoding": "gzip"}
    whole = server.serve("/whole", parts, headers=packed)
    cut = server.serve("/cut", parts[:-9], headers=packed)
    junk = server.serve("/junk", parts + b"junk", headers=packed)
    size = len(DATA) + len(b"and more")
    assert client(max_bytes=size).get(whole.url).data == DATA + b"and more"
    for url, reason in ((whole.url, f"over {size - 1} bytes"), (cut.url, "damaged gzip")):
        with pytest.raises(Unfetched, match=reason):
            client(max_bytes=size - 1 if url == whole.url else size).get(url)
    with pytest.raises(Unfetched, match="damaged gzip"):
        client().get(junk.url)


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


@pytest.mark.parametrize("said", ["Mon, 01 Jan 2026 00:00:00 +99999999999999", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "soon"])  # fmt: skip
def test_a_senseless_retry_after_says_nothing(server: HttpServer, said: str, client: Clients) -> None:
    site = server.serve("/a", b"", busy=1, busy_status=429, retry_after=said)
    with pytest.raises(RetryableError, match=r"^HTTP 429$") as error:
        client().get(site.url)
    assert not hasattr(error.value, "retry_after")


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


@pytest.mark.parametrize("ended", [False, True])
def test_a_body_that_ends_with_its_tls_connection_must_be_said_to_end(
    monkeypatch: pytest.MonkeyPatch, ended: bool, client: Clients
) -> None:
    def talk(connection: socket.socket) -> None:
        with authority().server_context().wrap_socket(connection, server_side=True) as tls:
            asked(tls)
            tls.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi")
            if ended:
                tls.unwrap()

    monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
    with conversation(talk) as url:
        if ended:
            assert client().get(url.replace("http", "https")).data == b"hi"
        else:
            with pytest.raises(RetryableError, match=r"^connection lost$"):
                client().get(url.replace("http", "https"))


def test_one_tls_connection_serves_many_requests_until_its_server_leaves(
    monkeypatch: pytest.MonkeyPatch, client: Clients
) -> None:
    def talk(connection: socket.socket) -> None:
        with authority().server_context().wrap_socket(connection, server_side=True) as tls:
            for _ in range(3):
                asked(tls)
                tls.sendall(good(b"hi"))

    monkeypatch.setenv("SSL_CERT_FILE", str(authority().ca_file))
    with conversation(talk, talk) as url:
        web = client()
        assert [web.get(url.replace("http", "https")).data for _ in range(6)] == 6 * [b"hi"]


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
        private = [
            "localhost", "localhost.", "LOCALHOST", "a.localhost.", "127.0.0.1", "127.0.0.1.", "127.1", "0x7f.1", "0177.1",
            "2130706433", "0x7f000001", "1.2.3.4.5", "[::1]", "[fe80::1%25eth0]", "[::ffff:127.0.0.1]", "db.internal",
            "db.internal.", "%6cocalhost",
        ]  # fmt: skip
        for host in private:
            with pytest.raises(Unfetched, match=r"^private address$"):
                web.get(f"http://{host}/a")
        assert web.get(" http://EXAMPLE.org:80/a\tb?b=c#d").data == b"hi"
        (request,) = asked
    assert request.startswith(b"GET http://example.org/a%09b?b=c HTTP/1.1\r\n")
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
