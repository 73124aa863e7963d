"""One connection to a web server that nobody vouches for, and what comes over it."""

import base64
import gzip
import http.client
import io
import select
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from data_bridge.errors import ConfigError, RetryableError

_BLOCK = 1 << 18
_SMALL_BYTES = 1 << 14


class Unfetched(Exception):
    """Another try would end the same; the message is the reason."""


class _Reading(io.RawIOBase):
    """What comes over a connection: no byte is waited for behind the connection's deadline."""

    def __init__(self, connection: "Connection", sock: socket.socket) -> None:
        self._connection = connection
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open while the answer is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(left_s(self._connection.deadline_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Readable(msgspec.Struct):
    """A socket as `http.client` asks it for a file."""

    connection: "Connection"
    sock: socket.socket

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self.connection, self.sock))


class _Response(http.client.HTTPResponse):
    """The answer itself: those that announce it (`103 Early Hints`) are passed over."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = self.msg = None  # type: ignore[assignment] # so it reads on
            super().begin()


class Connection(http.client.HTTPConnection):
    """A connection that is dialled by us, through TLS where `tls` is given, through a proxy where it is told to."""

    def __init__(
        self,
        host: str,
        port: int,
        dial: Callable[..., socket.socket],
        opened: Callable[[socket.socket], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(host, port)
        self.default_port = 80 if tls is None else 443
        self.sockets: set[socket.socket] = set()
        """All that were opened for it."""
        self.live: socket.socket
        """The one in use, also when the server has said that this answer is its last."""
        self.deadline_s = 0.0
        """When the request in work must have ended, by the monotonic clock."""
        self.proxied: Mapping[str, str] | None = None
        """Headers for the proxy, where the whole URL is asked of it."""
        self._server = host
        self._opened = opened
        self._tls = tls
        self._create_connection = dial  # where http.client looks for it
        self.response_class = self._responding  # type: ignore[assignment] # a method does

    def go_through(self, proxy: str) -> None:
        """Use a proxy. Raises ConfigError for a kind that is not known."""
        parts = urlsplit(proxy)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError("`fetch` goes through proxies of the form http://host:port alone")
        headers = {}
        if parts.username:
            word = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(word).decode()
        if self._tls is not None:
            self.set_tunnel(self.host, self.port, headers)
        else:
            self.proxied = headers
        self.host, self.port = parts.hostname, parts.port or 80

    def connect(self) -> None:
        super().connect()
        if self._tls is not None:
            # no handshake before it can be interrupted
            self.sock = self._tls.wrap_socket(
                self.sock,
                server_hostname=self._server,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # a body that was cut is not one that ended
            )
            self._opened(self.sock)
            self.sock.settimeout(left_s(self.deadline_s))
            self.sock.do_handshake()
        self.live = self.sock

    @property
    def quiet(self) -> bool:
        """Whether nothing came since the last answer: neither its end nor an answer that nobody asked for."""
        if isinstance(self.live, ssl.SSLSocket) and self.live.pending():
            return False
        poll = select.poll()
        poll.register(self.live, select.POLLIN)
        return not poll.poll(0)

    def _responding(self, sock: socket.socket, *args: Any, **more: Any) -> _Response:
        return _Response(_Readable(self, sock), *args, **more)  # type: ignore[arg-type] # a file is all it asks for


def left_s(deadline_s: float) -> float:
    """Seconds until the deadline. Raises TimeoutError behind it."""
    left = deadline_s - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def drain(response: http.client.HTTPResponse) -> None:
    """Read what little is left, so that the connection can be used again."""
    if response.length is not None and response.length <= _SMALL_BYTES:
        response.read()
        response.close()


def body(response: http.client.HTTPResponse, most: int) -> bytes:
    """All of it. Raises Unfetched for more than `most` bytes, IncompleteRead for less than promised."""
    promised = response.length
    if promised is not None and promised > most:
        raise Unfetched(f"over {most} bytes")
    pieces: list[bytes] = []
    size = 0
    while True:
        piece = response.read1(_BLOCK)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise Unfetched(f"over {most} bytes")
        if size == promised:
            break
    if promised is not None and size < promised:
        raise http.client.IncompleteRead(b"", promised - size)
    response.close()
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decoded(data: bytes, encoding: str | None, most: int) -> bytes:
    """The file itself, where a server packs it though nobody asked for that."""
    name = (encoding or "").strip().lower()
    if name in ("", "identity"):
        return data
    if name not in ("gzip", "x-gzip"):
        raise Unfetched(f"packed as {name[:20]}")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(most + 1)
    except (OSError, EOFError, zlib.error):
        raise Unfetched("damaged gzip") from None
    if len(found) > most:
        raise Unfetched(f"over {most} bytes")
    if not data:
        raise Unfetched("damaged gzip")
    return found


def translated(error: Exception) -> Exception:
    """A foreign error as a reason: Unfetched where another try would end the same."""
    match error:
        case TimeoutError():
            return RetryableError("timeout")
        case socket.gaierror():
            unknown = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            return Unfetched("unknown host") if unknown else RetryableError("unknown host")
        case ssl.SSLCertVerificationError():
            return Unfetched("certificate not trusted")
        case ssl.SSLEOFError():
            return RetryableError("connection lost")
        case ssl.SSLError():
            return RetryableError("TLS failed")
        case ConnectionRefusedError():
            return RetryableError("connection refused")
        case http.client.RemoteDisconnected() | http.client.IncompleteRead() | ConnectionError():
            return RetryableError("connection lost")
        case UnicodeError():  # a host name that no name server could be asked for
            return Unfetched("not a URL")
        case http.client.HTTPException() | ValueError():
            return Unfetched("not HTTP")
        case _:
            return RetryableError("network unreachable")
