"""Whole files of any number of hosts that nobody vouches for: one GET each, over connections that are kept.

On Python's own `http.client`, because the CPU of a request decides here: urllib3, which reads sources, takes more than
twice as much. One try per call; a `RetryableError` tells the caller that another may succeed. The messages are reasons:
a few words without the URL, the same for the same fault.
"""

import http.client
import re
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias
from urllib.parse import urljoin

import msgspec

from data_bridge import config
from data_bridge.clients.addresses import PrivateAddress, connect, is_public
from data_bridge.clients.host_limits import HostLimits
from data_bridge.clients.http_answer import retry_after_s
from data_bridge.clients.web_connection import Connection, Unfetched, body, decoded, drain, left_s, translated
from data_bridge.errors import RetryableError

MOST_IDLE = 256
"""Connections that are kept open without a request."""
LONGEST_SPARE_S = 60.0
"""How long one server's answer keeps us from asking its host."""
_TEMPORARY = frozenset({408, 421, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PLAIN_URL = re.compile(r"(https?)://([A-Za-z0-9][A-Za-z0-9.-]*)(?::(\d{1,5}))?(/[!$-;=?-Z_a-z~]*)?", re.ASCII)
_NAME = re.compile(r"[a-z0-9._-]+", re.ASCII)
_NUMERIC = re.compile(r".*:.*|(.*\.)?(\d+|0x[0-9a-f]*)", re.ASCII)
"""An address and no name, by its last part."""

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host, port."""


class Fetched(msgspec.Struct, frozen=True):
    """A file and what the server said of it. `url` is where it was found, after redirects."""

    url: str
    data: bytes
    headers: "http.client.HTTPMessage"


class WebRules(msgspec.Struct, frozen=True):
    """What is asked for and put up with. `timeout_s` is for one request, from the connection to the last byte."""

    timeout_s: float = 30.0
    redirects: int = 5
    max_bytes: int = 50_000_000
    allow_private: bool = False
    user_agent: str = "data-bridge"


class WebClient:
    """Fetches files for any number of threads. `limits` say how hard each host is asked."""

    def __init__(self, rules: WebRules, limits: HostLimits) -> None:
        self._rules = rules
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[Origin, Connection]] = OrderedDict()
        self._by_origin: dict[Origin, list[Connection]] = {}
        self._sockets: set[socket.socket] = set()
        self._tls: ssl.SSLContext | None = None
        self._headers = {"User-Agent": rules.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}

    def get(self, url: str) -> Fetched:
        """The file at a URL. Raises Unfetched or RetryableError with the reason."""
        for _ in range(self._rules.redirects + 1):
            origin, target = parse(url)
            if not self._limits.enter(origin[1]):
                raise Unfetched("stopped")
            try:
                found = self._ask(url, origin, target, time.monotonic() + self._rules.timeout_s)
            finally:
                self._limits.leave(origin[1])
            if isinstance(found, Fetched):
                return found
            try:
                url = urljoin(url, found)
            except ValueError:
                raise Unfetched("not a URL") from None
        raise Unfetched(f"more than {self._rules.redirects} redirects")

    def abort(self) -> None:
        """Wake every thread that waits for a server: it gets an error. From any thread."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not that of TLS, which would write first
            except OSError:
                continue  # it is closed already

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle = [connection for _, connection in self._idle.values()]
            self._idle.clear()
            self._by_origin.clear()
        for connection in idle:
            connection.close()

    # ---- one request

    def _ask(self, url: str, origin: Origin, target: str, deadline_s: float) -> Fetched | str:
        """The file, or where the server says it is."""
        try:
            connection, response = self._response(origin, target, deadline_s)
            with self._dropped_if_it_fails(connection), ExitStack() as failing:
                failing.callback(response.close)
                found = self._answer(url, origin[1], response)
                failing.pop_all()
        except PrivateAddress:
            raise Unfetched("private address") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise translated(error) from error
        if response.isclosed() and connection.sock is not None and response.status >= 200:
            self._keep(origin, connection)
        else:
            response.close()
            self._drop(connection)
        if isinstance(found, Exception):
            raise found
        return found

    def _response(self, origin: Origin, target: str, deadline_s: float) -> tuple[Connection, http.client.HTTPResponse]:
        connection = self._kept(origin)
        if connection is not None:
            # a server may have closed it between two requests: that is no try
            closed = suppress(http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError)
            with closed, self._dropped_if_it_fails(connection):
                return connection, self._send(connection, origin, target, deadline_s)
        connection = self._new(origin, deadline_s)
        with self._dropped_if_it_fails(connection):
            return connection, self._send(connection, origin, target, deadline_s)

    def _send(self, connection: Connection, origin: Origin, target: str, deadline_s: float) -> http.client.HTTPResponse:
        connection.deadline_s = deadline_s
        connection.live.settimeout(left_s(deadline_s))
        if connection.proxied is None:
            connection.request("GET", target, headers=self._headers)
        else:
            # the address that was checked, and not the text it was read from: a proxy may read it otherwise
            connection.request("GET", _written(origin) + target, headers={**self._headers, **connection.proxied})
        return connection.getresponse()

    def _answer(self, url: str, host: str, response: http.client.HTTPResponse) -> Fetched | str | Exception:
        """What is to be done with an answer; an exception where it is a refusal that leaves the connection in order."""
        status, headers = response.status, response.headers
        if status in (200, 203):
            data = body(response, self._rules.max_bytes)
            return Fetched(url, decoded(data, headers.get("Content-Encoding"), self._rules.max_bytes), headers)
        drain(response)
        if status in _REDIRECTS and (location := headers.get("Location")):
            return location
        if status not in _TEMPORARY:
            return Unfetched(f"HTTP {status}")
        error = RetryableError(f"HTTP {status}")
        wait_s = retry_after_s(headers.get("Retry-After"))
        if wait_s is not None:
            error.retry_after = wait_s  # type: ignore[attr-defined]
            self._limits.spare(host, min(wait_s, LONGEST_SPARE_S))
        return error

    # ---- connections

    def _kept(self, origin: Origin) -> Connection | None:
        """A connection to the origin that was used before, over which nothing came since."""
        while (connection := self._idle_one(origin)) is not None:
            if connection.quiet:
                return connection
            self._drop(connection)
        return None

    def _idle_one(self, origin: Origin) -> Connection | None:
        with self._lock:
            kept = self._by_origin.get(origin)
            if not kept:
                return None
            connection = kept.pop()
            if not kept:
                del self._by_origin[origin]
            del self._idle[id(connection)]
            return connection

    def _keep(self, origin: Origin, connection: Connection) -> None:
        oldest = None
        with self._lock:
            self._idle[id(connection)] = (origin, connection)
            self._by_origin.setdefault(origin, []).append(connection)
            if len(self._idle) > MOST_IDLE:
                _, (old, oldest) = self._idle.popitem(last=False)
                self._by_origin[old].remove(oldest)
                if not self._by_origin[old]:
                    del self._by_origin[old]
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._sockets -= connection.sockets
        connection.close()

    def _new(self, origin: Origin, deadline_s: float) -> Connection:
        scheme, host, port = origin
        proxy = config.http_proxy(f"{scheme}://{host}:{port}/")
        allowed = self._rules.allow_private
        if proxy is not None and not allowed:
            _refuse_by_name(host)

        def opened(sock: socket.socket) -> None:
            connection.sockets.add(sock)
            with self._lock:
                self._sockets.add(sock)
            if self._limits.stopped:
                raise ConnectionAbortedError("stopped")

        def dial(address: tuple[str, int], *_: Any) -> socket.socket:
            return connect(*address, deadline_s, allow_private=allowed or proxy is not None, opened=opened)

        connection = Connection(host, port, dial, opened, self._context() if scheme == "https" else None)
        if proxy is not None:
            connection.go_through(proxy)
        with self._dropped_if_it_fails(connection):
            connection.deadline_s = deadline_s
            connection.connect()
        return connection

    @contextmanager
    def _dropped_if_it_fails(self, connection: Connection) -> Generator[None]:
        with ExitStack() as failing:
            failing.callback(self._drop, connection)
            yield
            failing.pop_all()

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
                self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls


def parse(url: str) -> tuple[Origin, str]:
    """Scheme, host and port of a URL, and what to ask the server for. Raises Unfetched for what is no web address."""
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return _parse_odd(url)
    scheme, host, port, target = match.groups()
    number = int(port) if port else 443 if scheme == "https" else 80
    if not 0 < number < 1 << 16:
        raise Unfetched("not a URL")
    return (scheme, host.lower(), number), target or "/"


def _parse_odd(url: str) -> tuple[Origin, str]:
    """With letters of any script, blanks, capitals, a fragment or an IPv6 address."""
    from urllib3.util import parse_url

    try:
        parts = parse_url(url.strip())
    except ValueError:
        raise Unfetched("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.host or parts.auth:
        raise Unfetched("not a URL")
    host = parts.host.strip("[]")
    if ":" not in host and not _NAME.fullmatch(host):
        raise Unfetched("not a URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (parts.scheme, host, port), parts.request_uri


def _written(origin: Origin) -> str:
    scheme, host, port = origin
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port == (443 if scheme == "https" else 80) else f"{scheme}://{name}:{port}"


def _refuse_by_name(host: str) -> None:
    """Behind a proxy only the proxy knows the address; a URL that names a private one is refused all the same."""
    name = host.rstrip(".").lower()
    local = name in ("", "localhost") or name.endswith((".localhost", ".local", ".internal"))
    try:
        public = not local and (not _NUMERIC.fullmatch(name) or is_public(_numbers(name)))
    except (ValueError, OSError):  # no address at all
        public = False
    if not public:
        raise PrivateAddress(host)


def _numbers(name: str) -> str:
    """An address of numbers the usual way: `0x7f.1` is 127.0.0.1."""
    return name if ":" in name else socket.inet_ntoa(socket.inet_aton(name))
