"""A proxy on loopback, TLS or plain, that passes requests on and spoils those a test chooses.

with FaultProxy("localhost", server.port) as proxy:
    proxy.add(Fault("status", status=503, times=2, method="PUT"))
    ...requests to proxy.url...
    assert proxy.requests[0].headers["content-length"] == "5"
"""

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from support.tls import authority

CHUNK_BYTES = 64 * 1024
PATIENCE_S = 60.0
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})

Kind = Literal["status", "cut_request", "cut_response", "lose_answer", "stall", "stall_response", "rewrite"]


@dataclass(frozen=True)
class Seen:
    """One request that reached the proxy; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    fault: Kind | None = None
    at_s: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """What happens to the next `times` requests that fit `method`, `path_ends`, `query_has` and `where`.

    status        answer with `status`, `headers` and S3's error `code` (an empty one: no body) without asking the server;
                  the request's body is read and dropped
    rewrite       pass everything on, but put `headers` into the answer
    cut_request   reset the connection after `after` bytes of the request's body; the server sees it cut too
    cut_response  reset the connection after `after` bytes of the answer's body
    lose_answer   let the server do it, then reset the connection instead of answering
    stall         pass `after` bytes of the request's body on, set `stalled`, then hold still until `release` is set
    stall_response  the same after `after` bytes of the answer's body
    """

    kind: Kind
    method: str = ""
    path_ends: str = ""
    query_has: str = ""
    where: Callable[[Seen], bool] = field(default=lambda seen: True)
    times: int = 1
    skip: int = 0
    after: int = 0
    status: int = 503
    code: str = "ServiceUnavailable"
    headers: Mapping[str, str] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    hits: int = 0

    def fits(self, seen: Seen) -> bool:
        return (
            self.method in ("", seen.method)
            and seen.path.endswith(self.path_ends)
            and self.query_has in seen.query
            and self.where(seen)
        )


class _Cut(Exception):
    """The client's connection is to be reset now."""


class FaultProxy:
    """Runs while its `with` block does. `requests` are all requests in the order their headers arrived.

    `upload_bytes_s` is what each connection passes on of requests' bodies in a second: None = all there is.
    """

    def __init__(
        self, host: str, port: int, *, tls: bool = True, upstream_tls: bool = True, upload_bytes_s: float | None = None
    ) -> None:
        self.upstream = (host, port, upstream_tls)
        self.upload_bytes_s = upload_bytes_s
        self.closing = threading.Event()
        self.requests: list[Seen] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls:
            # the handshake belongs to the connection's own thread, not to the one that accepts
            self._server.socket = (
                authority()
                .server_context()
                .wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            )
        self.url = f"{'https' if tls else 'http'}://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        for fault in self._faults:
            fault.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, fault: Fault) -> Fault:
        """Arm a fault; of several that fit a request the one added first strikes."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def seen(self, method: str, path_ends: str = "") -> list[Seen]:
        """Requests so far of one method, to paths with this end."""
        return [seen for seen in self.requests if seen.method == method and seen.path.endswith(path_ends)]

    def admit(self, seen: Seen) -> Fault | None:
        """Record a request and choose what strikes it."""
        with self._lock:
            struck = next((fault for fault in self._faults if self._strikes(fault, seen)), None)
            self.requests.append(
                Seen(seen.method, seen.path, seen.query, seen.headers, struck.kind if struck else None)
            )
        return struck

    @staticmethod
    def _strikes(fault: Fault, seen: Seen) -> bool:
        if not fault.fits(seen):
            return False
        fault.hits += 1
        return fault.skip < fault.hits <= fault.skip + fault.times


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what the proxy is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S
    owner: FaultProxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests look at `requests`, not at a log."""

    def handle_expect_100(self) -> bool:
        # as R2: no HTTP 100 comes
        return True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.owner.admit(Seen(self.command, parts.path, parts.query, headers))
        try:
            if fault is not None and fault.kind == "status":
                self._refuse(fault)
            else:
                self._relay(fault)
        except _Cut:
            self._reset()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _refuse(self, fault: Fault) -> None:
        for _ in self._body():
            pass
        text = b""
        if fault.code:
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _relay(self, fault: Fault | None) -> None:
        kind = fault.kind if fault is not None else None
        after = fault.after if fault is not None else 0
        host, port, tls = self.owner.upstream
        upstream: http.client.HTTPConnection
        if tls:
            upstream = http.client.HTTPSConnection(host, port, context=authority().client_context(), timeout=PATIENCE_S)
        else:
            upstream = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        try:
            self._send(upstream, fault, after)
            answer = upstream.getresponse()
            if kind == "lose_answer":
                answer.read()
                raise _Cut
            own = {name.lower(): value for name, value in answer.getheaders()}
            if fault is not None and kind == "rewrite":
                own |= {name.lower(): value for name, value in fault.headers.items()}
            self._answer(answer, own, fault if kind in ("cut_response", "stall_response") else None)
        finally:
            upstream.close()

    def _send(self, upstream: http.client.HTTPConnection, fault: Fault | None, after: int) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP | {"expect"}:
                upstream.putheader(name, value)
        upstream.endheaders()
        passed = 0
        spoils = fault is not None and fault.kind in ("cut_request", "stall")
        for block in self._body():
            if self.owner.upload_bytes_s is not None:
                self.owner.closing.wait(len(block) / self.owner.upload_bytes_s)
            if fault is not None and spoils and passed + len(block) >= after:
                upstream.send(block[: after - passed])
                self._hold_or_cut(fault)
                upstream.send(block[after - passed :])
                spoils = False
            else:
                upstream.send(block)
            passed += len(block)
        if fault is not None and spoils:
            self._hold_or_cut(fault)

    @staticmethod
    def _hold_or_cut(fault: Fault) -> None:
        if fault.kind in ("cut_request", "cut_response"):
            raise _Cut
        fault.stalled.set()
        fault.release.wait(PATIENCE_S)

    def _answer(self, answer: http.client.HTTPResponse, headers: Mapping[str, str], fault: Fault | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in headers.items():
            if name not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.length is None and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        left = fault.after if fault is not None else 0
        while block := answer.read(CHUNK_BYTES):
            if fault is not None and len(block) >= left:
                self.wfile.write(block[:left])
                self.wfile.flush()
                self._hold_or_cut(fault)
                block, fault = block[left:], None
            self.wfile.write(block)
            left -= len(block)
        self.wfile.flush()

    def _body(self) -> "list[bytes] | _Blocks":
        length = int(self.headers.get("content-length") or 0)
        return _Blocks(self.rfile.read, length) if length else []

    def _reset(self) -> None:
        """Close so that the other side sees a reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(self.connection, ssl.SSLSocket):
            # the buffered files of the handler keep the socket open: take the descriptor from under them
            socket.socket(fileno=self.connection.detach()).close()
        else:
            self.connection.shutdown(socket.SHUT_RD)
            self.connection.close()


class _Blocks:
    """A request's body, block by block."""

    def __init__(self, read: Callable[[int], bytes], length: int) -> None:
        self._read = read
        self._left = length

    def __iter__(self) -> "_Blocks":
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        block = self._read(min(CHUNK_BYTES, self._left))
        if not block:
            raise ConnectionResetError("the client went away")
        self._left -= len(block)
        return block
