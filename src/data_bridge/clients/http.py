"""HTTP(S) for reading files: what a server says of a file, and its bytes, with foreign errors turned into ours.

One try per call; a `RetryableError` tells the caller to try again. Redirects are followed, and a bearer token
never leaves the host it was given for.
"""

import os
import re
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from data_bridge import config
from data_bridge.clients.http_answer import TEMPORARY, Answer, HttpFile, changed, shown
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError

if TYPE_CHECKING:
    from urllib3 import PoolManager

__all__ = ["CutError", "HttpBody", "HttpClient", "HttpFile", "changed", "shown", "translated"]

_READ_BYTES = 1 << 20
_MOST_REDIRECTS = 10
_SMALL_BYTES = 1 << 14


class CutError(RetryableError):
    """A body that ended before its last byte."""


class HttpClient:
    """Connections to any number of hosts, shared by threads; a forked or unpickled copy makes its own."""

    def __init__(self, *, timeout_s: float = 30.0, connect_timeout_s: float = 10.0, connections: int = 16) -> None:
        self.timeout_s = timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.connections = connections
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pools: dict[str | None, PoolManager] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("timeout_s", "connect_timeout_s", "connections")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def stat(self, url: str, *, token: str | None = None) -> HttpFile | None:
        """Size and identity of the file, None when the server says it does not exist.

        Raises ConfigError without access, RetryableError for a passing fault, and SourceError when nothing the
        server sends would tell the end of the file from a cut connection.
        """
        answer = self._request("HEAD", url, token, {})
        _discard(answer)
        if answer.linked or (answer.status == 200 and answer.size is not None):
            return answer.file
        if answer.status in TEMPORARY or answer.status >= 500:
            _raise_refusal(answer, reading=False)
        return self._stat_by_get(url, token)  # a presigned GET answers HEAD with 403; some servers know no HEAD

    def _stat_by_get(self, url: str, token: str | None) -> HttpFile | None:
        answer = self._request("GET", url, token, {"Range": "bytes=0-0"})
        _discard(answer)
        if answer.status in (404, 410):
            return None
        if answer.status == 416 and re.fullmatch(r"bytes \*/0", answer.header("Content-Range") or ""):
            return HttpFile(0, answer.identity)
        _raise_refusal(answer, reading=False)
        if answer.size is None and not answer.chunked:
            raise SourceError(
                f"{shown(url)}: the server tells neither the size of the file nor where it ends, "
                "so a cut connection would look like the end",
                hint="download the file and read it from disk",
            )
        return answer.file

    def open(self, url: str, start: int, end: int | None, *, known: HttpFile, token: str | None = None) -> "HttpBody":
        """The stored bytes [start, end) of the file that `known` describes; `end` None = to its end.

        Raises SourceError when the file is gone, refused or not the known one any more. The body itself may
        raise CutError or RetryableError at any block, and may end early only where `end` says where it should.
        """
        headers = {}
        to_the_end = end is None or end == known.size
        if start > 0 or not to_the_end:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if known.identity is not None and known.identity.startswith('"'):
            headers["If-Match"] = known.identity
        answer = self._request("GET", url, token, headers)
        try:
            _raise_refusal(answer, reading=True)
            skip = answer.first_byte(start, known)
            if end is None and answer.size is None and not answer.chunked:
                raise SourceError(
                    f"{answer.name}: the server does not tell where the file ends", hint="download it first"
                )
            ranged = "Range" not in headers or answer.content_range is not None
            left = None if end is None else end - start
            return HttpBody(answer, skip, left, to_the_end=to_the_end, ranged=ranged)
        except BaseException:
            _discard(answer)
            raise

    def _request(self, method: str, url: str, token: str | None, headers: Mapping[str, str]) -> Answer:
        first = url
        linked: dict[str, str] = {}
        for _ in range(_MOST_REDIRECTS):
            sent = {"Accept-Encoding": "identity", "User-Agent": "data-bridge", **headers}
            if token is not None and _origin(url) == _origin(first):
                sent["Authorization"] = f"Bearer {token}"
            with translated(shown(url)):
                response = self._pool(url).request(
                    method,
                    url,
                    headers=sent,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
            for key, name in (("size", "X-Linked-Size"), ("etag", "X-Linked-ETag")):
                if value := response.headers.get(name):
                    linked.setdefault(key, value)
            answer = Answer(url, response, linked)
            target = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not target:
                return answer
            if method == "HEAD" and len(linked) == 2:
                return answer
            _discard(answer)
            url = _redirected(url, target)
        raise SourceError(f"{shown(first)}: more than {_MOST_REDIRECTS} redirects", hint="check the URL in a browser")

    def _pool(self, url: str) -> "PoolManager":
        if self._pid != os.getpid():
            self._forget()  # a forked child must not write into its parent's connections
        proxy = config.http_proxy(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str | None) -> "PoolManager":
        import urllib3

        timeout = urllib3.Timeout(connect=self.connect_timeout_s, read=self.timeout_s)
        if proxy is None:
            return urllib3.PoolManager(maxsize=self.connections, timeout=timeout)
        return urllib3.ProxyManager(proxy, maxsize=self.connections, timeout=timeout)


class HttpBody:
    """The bytes of one answer, to be iterated once and closed. `abort` from another thread wakes a read that waits."""

    def __init__(self, answer: Answer, skip: int, limit: int | None, *, to_the_end: bool, ranged: bool = True) -> None:
        self.ranged = ranged
        """False when the server ignores ranges and sends everything."""
        self._answer = answer
        self._skip = skip
        self._left = limit
        self._to_the_end = to_the_end
        self._error: BridgeError | None = None

    def __iter__(self) -> Iterator[bytes]:
        while self._left is None or self._left > 0:
            block = self._read(_READ_BYTES)
            if not block:
                return
            skipped = min(self._skip, len(block))
            self._skip -= skipped
            block = block[skipped:] if skipped else block
            if self._left is not None:
                if len(block) > self._left and self._to_the_end:
                    raise changed(self._answer.name, "it is longer than before")
                block = block[: self._left]
                self._left -= len(block)
            if block:
                yield block
        if self._to_the_end and self._read(1):
            raise changed(self._answer.name, "it is longer than before")

    def _read(self, amount: int) -> bytes:
        """The next `amount` bytes, fewer at the end or before an error, which the next call then raises."""
        if self._error is not None:
            raise self._error
        pieces: list[bytes] = []
        left = amount
        try:
            with translated(self._answer.name, body=True):
                while left and (piece := self._answer.response.read1(left, decode_content=False)):
                    pieces.append(piece)
                    left -= len(piece)
        except BridgeError as error:
            if not pieces:
                raise
            self._error = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the connection, unless the body was read to its end, which gave it back."""
        self._answer.response.close()

    def abort(self) -> None:
        try:
            self._answer.response.shutdown()
        except (ValueError, RuntimeError, OSError):
            return  # not connected any more: nobody waits


def _discard(answer: Answer) -> None:
    """Done with an answer: keep its connection if little is left to read, as of a HEAD or a redirect."""
    left = getattr(answer.response, "length_remaining", None)
    if left is not None and left <= _SMALL_BYTES:
        answer.response.drain_conn()
    else:
        answer.response.close()


def _raise_refusal(answer: Answer, *, reading: bool) -> None:
    if (error := answer.refusal(reading=reading)) is not None:
        raise error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _redirected(url: str, target: str) -> str:
    new = urljoin(url, target)
    allowed = ("https",) if url.startswith("https:") else ("https", "http")
    if urlsplit(new).scheme not in allowed:
        raise SourceError(f"{shown(url)} redirects to {shown(new)}, which is not allowed", hint="check the URL")
    return new


@contextmanager
def translated(what: str, *, body: bool = False) -> Generator[None]:
    """Turns errors of urllib3 into ours; with `body`, a lost connection is a CutError."""
    from urllib3 import exceptions as foreign

    try:
        yield
    except (foreign.LocationValueError, foreign.URLSchemeUnknown) as error:
        raise ConfigError(f"{what} is not a usable URL", hint="write https://host/path") from error
    except foreign.NameResolutionError as error:
        raise RetryableError(
            f"{what}: the host name cannot be resolved", hint="check the name and the network"
        ) from error
    except foreign.NewConnectionError as error:  # a TimeoutError to urllib3
        raise RetryableError(
            f"{what}: the connection failed: {_reason(error)}", hint="check the network and try again"
        ) from error
    except foreign.TimeoutError as error:
        raise RetryableError(f"{what}: the server did not answer in time", hint="try again later") from error
    except foreign.SSLError as error:
        if isinstance(error.args[0] if error.args else None, ssl.SSLCertVerificationError):
            hint = "set SSL_CERT_FILE to the authority that signed the server's certificate"
            raise SourceError(
                f"{what}: the server's certificate is not trusted: {error.args[0].verify_message}", hint=hint
            ) from error
        raise (CutError if body else RetryableError)(f"{what}: TLS failed: {error}", hint="try again later") from error
    except foreign.HTTPError as error:
        kind = CutError if body else RetryableError
        raise kind(
            f"{what}: the connection failed: {_reason(error)}", hint="check the network and try again"
        ) from error


def _reason(error: Exception) -> str:
    """The innermost cause in a few words, without URLs, which may hold signatures."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return f"{type(inner).__name__}: {inner}" if isinstance(inner, OSError) else type(inner).__name__
