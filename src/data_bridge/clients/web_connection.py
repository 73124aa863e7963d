"""One connection to a web server that nobody vouches for, and what comes over it."""

import base64
import http.client
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from data_bridge.errors import ConfigError, RetryableError

_BLOCK = 1 << 18
_SMALL_BYTES = 1 << 14


class Unfetched(Exception):
    """Another try would end the same; the message is the reason."""


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
        self.proxied: Mapping[str, str] | None = None
        """Headers for the proxy, where the whole URL is asked of it."""
        self._server = host
        self._opened = opened
        self._tls = tls
        self._create_connection = dial  # where http.client looks for it

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
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server, do_handshake_on_connect=False)
            self._opened(self.sock)
            self.sock.do_handshake()
        self.live = self.sock


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


def body(connection: Connection, response: http.client.HTTPResponse, most: int, deadline_s: float) -> bytes:
    """All of it. Raises Unfetched for more than `most` bytes, IncompleteRead for less than promised."""
    promised = response.length
    if promised is not None and promised > most:
        raise Unfetched(f"over {most} bytes")
    pieces: list[bytes] = []
    size = 0
    while True:
        connection.live.settimeout(left_s(deadline_s))
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
    unpacker = zlib.decompressobj(31)
    try:
        found = unpacker.decompress(data, most + 1)
    except zlib.error:
        raise Unfetched("damaged gzip") from None
    if len(found) > most:
        raise Unfetched(f"over {most} bytes")
    if not unpacker.eof:
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
