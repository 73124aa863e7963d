"""A web server on loopback whose faults a test chooses per file.

    with HttpServer() as server:
        site = server.serve("/data.jsonl", b"...", cut_after=100, cuts=1)
        ... read site.url ...
        assert site.ranges == [None, "bytes=100-"]

In a `conftest.py` or a test module: `from support.http_server import http_server` and use the fixture.
"""

import hashlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

FOREVER = 1 << 60
CHUNK = 8192


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@dataclass
class Site:
    """One path of the server: its content, how it answers, and what was asked of it. Change it at any time."""

    url: str
    content: bytes
    etag: str | None = "auto"
    """`auto` = made of the content; None = no ETag header."""
    last_modified: str | None = None
    ranges_work: bool = True
    """False: `Range` is ignored, status 200 and everything."""
    range_status: int = 206
    """200 with a Content-Range is what some gateways send."""
    if_match_works: bool = True
    framing: Literal["length", "chunked", "close"] = "length"
    """How the end of a body is told; `close` = by closing the connection, so not at all."""
    head_status: int = 200
    """What HEAD is answered with instead of 200."""
    head_says_length: bool = True
    status: int = 200
    """Every request is answered with this instead, when it is not 200."""
    cut_after: int | None = None
    """Bytes of a GET body after which the connection is closed …"""
    cuts: int = FOREVER
    """… this many times."""
    reset: bool = False
    """Cut by RST instead of FIN."""
    busy: int = 0
    """Requests still to be answered with `busy_status`."""
    busy_status: int = 503
    retry_after: str | None = None
    stall_after: int | None = None
    """Bytes of a GET body after which nothing more comes until the server stops …"""
    stalls: int = FOREVER
    location: str | None = None
    """Answer with 302 to this URL."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent along with every answer."""
    token: str | None = None
    """Demanded as a bearer token."""

    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Method and headers (lower case) of every request that came."""
    sent: int = 0
    """Bytes of bodies that went out."""

    @property
    def ranges(self) -> list[str | None]:
        """The `Range` header of every GET, None where it had none."""
        return [headers.get("range") for method, headers in self.requests if method == "GET"]

    def asked(self, method: str) -> int:
        return sum(1 for each, _ in self.requests if each == method)

    def replace(self, content: bytes) -> None:
        self.content = content

    @property
    def shown_etag(self) -> str | None:
        return etag_of(self.content) if self.etag == "auto" else self.etag


class HttpServer:
    """Serves sites until closed; `tls` makes it https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.sites: dict[str, Site] = {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._held: frozenset[str] = frozenset()
        self._door = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme, port = "http" if tls is None else "https", self._server.server_address[1]
        self.origin = f"{scheme}://127.0.0.1:{port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="http-server", daemon=True
        )
        self._thread.start()

    def serve(self, path: str, content: bytes, **options: Any) -> Site:
        """Put a file at `path` (as it stands in the request line, percent escapes and all)."""
        site = Site(self.origin + path, content, **options)
        self.sites[path.partition("?")[0]] = site
        return site

    def hold(self, paths: Iterable[str] = ()) -> None:
        """Requests for these paths wait, and those for others do not any more."""
        with self._door:
            self._held = frozenset(paths)
            self._door.notify_all()

    def wait_at_the_door(self, path: str) -> None:
        with self._door:
            self._door.wait_for(lambda: path not in self._held or self.stopping.is_set())

    def close(self) -> None:
        self.stopping.set()
        self.hold()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "HttpServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # of more than that connections at once, some come a second late


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        owner: HttpServer = self.server.owner  # type: ignore[attr-defined]
        site = owner.sites.get(self.path.partition("?")[0])
        if site is None:
            return self._plain(404)
        with owner.lock:
            site.requests.append((method, {name.lower(): value for name, value in self.headers.items()}))
            busy = site.busy > 0
            site.busy -= busy
        owner.wait_at_the_door(self.path)
        early = self._early_status(site, method, busy=busy)
        if early is not None:
            return self._plain(early, site)
        content, etag = site.content, site.shown_etag
        wanted = self.headers.get("If-Match")
        if site.if_match_works and wanted is not None and wanted != etag:
            return self._plain(412, site)
        start, end, status = self._span(site, content)
        if status == 416:
            return self._plain(416, site, {"Content-Range": f"bytes */{len(content)}"})
        # faults are dealt out before the client hears of the request: one that only wants the headers may be gone,
        # and the test be at its next step, before the body is begun
        faults = self._faults(owner, site, end - start) if method == "GET" else (False, False)
        self._head(site, method, status, (start, end, len(content)), etag)
        if method == "GET":
            self._body(owner, site, content[start:end], *faults)
        return None

    @staticmethod
    def _faults(owner: HttpServer, site: Site, length: int) -> tuple[bool, bool]:
        """Whether this body is cut, and whether it stalls."""
        with owner.lock:
            cut = site.cut_after is not None and site.cuts > 0 and site.cut_after < length
            site.cuts -= cut
            stall = site.stall_after is not None and site.stalls > 0 and site.stall_after < length
            site.stalls -= stall
        return cut, stall

    def _early_status(self, site: Site, method: str, *, busy: bool) -> int | None:
        if busy:
            return site.busy_status
        if site.location is not None:
            return 302
        if site.token is not None and self.headers.get("Authorization") != f"Bearer {site.token}":
            return 401
        if site.status != 200:
            return site.status
        return site.head_status if method == "HEAD" and site.head_status != 200 else None

    def _span(self, site: Site, content: bytes) -> tuple[int, int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None or not site.ranges_work:
            return 0, len(content), 200
        start = int(match[1])
        end = min(len(content), int(match[2]) + 1) if match[2] else len(content)
        return start, end, 416 if start >= len(content) else site.range_status

    def _plain(self, status: int, site: Site | None = None, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {**(site.headers if site else {}), **(extra or {})}
        if site is not None and status == 302:
            headers["Location"] = site.location or ""
        if site is not None and site.retry_after is not None and status == site.busy_status:
            headers["Retry-After"] = site.retry_after
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _head(self, site: Site, method: str, status: int, span: tuple[int, int, int], etag: str | None) -> None:
        start, end, size = span
        self.send_response(status)
        if "Range" in self.headers and site.ranges_work:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for name, value in {"ETag": etag, "Last-Modified": site.last_modified, **site.headers}.items():
            if value is not None:
                self.send_header(name, value)
        if method == "HEAD":
            if site.head_says_length:
                self.send_header("Content-Length", str(end - start))
        elif site.framing == "length":
            self.send_header("Content-Length", str(end - start))
        elif site.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def _body(self, owner: HttpServer, site: Site, content: bytes, cut: bool, stall: bool) -> None:
        stop = min(site.cut_after if cut else len(content), site.stall_after if stall else len(content))  # type: ignore[type-var]
        assert stop is not None
        for at in range(0, stop, CHUNK):
            block = content[at : min(at + CHUNK, stop)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if site.framing == "chunked" else block)
            with owner.lock:
                site.sent += len(block)
        self.wfile.flush()
        if stall:
            owner.stopping.wait()
        if cut or stall:
            return self._hang_up(reset=site.reset)
        if site.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = site.framing == "close"
        return None

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server
