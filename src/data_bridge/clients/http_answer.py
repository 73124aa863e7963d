"""What an HTTP answer says of a file: its size, its identity, which bytes follow, or why there are none."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

TEMPORARY = frozenset({408, 409, 421, 425, 429})
_MODIFIED = "last-modified:"
_STORED_ENCODINGS: Mapping[str, tuple[str, ...]] = {
    "gzip": (".gz", ".gzip", ".tgz"),
    "x-gzip": (".gz", ".gzip", ".tgz"),
    "zstd": (".zst", ".zstd", ".tzst"),
}


class HttpFile(msgspec.Struct, frozen=True):
    """What a server says of a file.

    `identity` is an ETag as sent (`"…"` or `W/"…"`), the Hub's content hash without quotes, or
    `last-modified:<date>`; None when the server sends nothing of the kind.
    """

    size: int | None
    identity: str | None


def shown(url: str) -> str:
    """The URL as it may stand in a message: without user, password and query, where signatures and tokens live."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?…' if parts.query else ''}"


class Answer(msgspec.Struct, frozen=True):
    """One response after redirects. `linked` is what the redirecting Hub said of the content (`size`, `etag`)."""

    url: str
    response: "BaseHTTPResponse"
    linked: Mapping[str, str] = msgspec.field(default_factory=dict)

    def header(self, name: str) -> str | None:
        value = self.response.headers.get(name)
        return value.strip() if value is not None else None

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def chunked(self) -> bool:
        return "chunked" in (self.header("Transfer-Encoding") or "").lower()

    @property
    def content_range(self) -> tuple[int, int, int | None] | None:
        """First byte, end (exclusive) and size of the whole, None when absent or malformed."""
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", self.header("Content-Range") or "")
        if match is None:
            return None
        return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])

    @property
    def size(self) -> int | None:
        """Bytes of the whole file."""
        if "size" in self.linked:
            return int(self.linked["size"])
        if self.content_range is not None:
            return self.content_range[2]
        length = self.header("Content-Length") or ""
        return int(length) if length.isascii() and length.isdigit() and not self.chunked else None

    @property
    def identity(self) -> str | None:
        if "etag" in self.linked:
            return self.linked["etag"].removeprefix("W/").strip('"')
        if etag := self.header("ETag"):
            return etag
        modified = self.header("Last-Modified")
        return _MODIFIED + modified if modified else None

    @property
    def file(self) -> HttpFile:
        return HttpFile(self.size, self.identity)

    def is_of(self, known: HttpFile) -> bool | None:
        """Whether the content is the known one; None when the answer does not carry the same kind of identity."""
        if known.identity is None:
            return None
        if known.identity.startswith(_MODIFIED):
            modified = self.header("Last-Modified")
            return None if modified is None else _MODIFIED + modified == known.identity
        if not known.identity.endswith('"'):
            return self.identity == known.identity if "etag" in self.linked else None
        etag = self.header("ETag")
        return None if etag is None else etag.removeprefix("W/") == known.identity.removeprefix("W/")

    def refusal(self, *, reading: bool) -> BridgeError | None:
        """The error a status stands for, None for 200 and 206."""
        status, name = self.status, self.name
        if status in (200, 206):
            return None
        said = f"{status} {self.response.reason or ''}".strip()
        code = self.header("X-Error-Code")
        said += f" ({code})" if code else ""
        if status in TEMPORARY or status >= 500:
            error = RetryableError(f"{name}: the server answers {said}", hint="try again later")
            error.retry_after = retry_after_s(self.header("Retry-After"))  # type: ignore[attr-defined]
            return error
        if status in (401, 403):
            kind = SourceError if reading else ConfigError
            hint = "check the token or the account's access; a presigned URL may have expired"
            return kind(f"{name}: access refused: {said}", hint=hint)
        if status in (404, 410):
            return SourceError(f"{name} is not there: {said}", hint="it was moved or deleted, or the name is wrong")
        if status in (412, 416):
            return changed(name, f"the server answers {said}")
        return SourceError(f"{name}: the server answers {said}", hint="check the URL in a browser")

    def first_byte(self, start: int, known: HttpFile) -> int:
        """How many bytes of the body stand before byte `start` of the file.

        Raises SourceError when the body is not (or cannot be shown to be) of the known file, or starts elsewhere.
        """
        same = self.is_of(known)
        if same is False:
            raise changed(self.name, f"its identity was {known.identity} and is {self.identity}")
        if None not in (known.size, self.size) and known.size != self.size:
            raise changed(self.name, f"it had {known.size} bytes and has {self.size}")
        self._demand_stored_bytes()
        span = self.content_range
        if self.status == 206 or span is not None:
            # some servers send a range under status 200: believe it if the length agrees
            length = self.header("Content-Length")
            agrees = span is not None and (length is None or int(length) == span[1] - span[0])
            if span is None or span[0] != start or not (agrees or self.status == 206):
                raise SourceError(
                    f"{self.name}: asked for bytes from {start}, the server sent {self.header('Content-Range')!r}",
                    hint="the server handles ranges wrongly; download the file and read it from disk",
                )
            return 0
        if start and not same:
            raise SourceError(
                f"{self.name}: the server ignores ranges and does not identify the file, so reading cannot go on at byte {start}",
                hint="download the file and read it from disk",
            )
        return start

    def _demand_stored_bytes(self) -> None:
        encoding = (self.header("Content-Encoding") or "identity").lower()
        path = urlsplit(self.url).path.lower()
        if encoding not in ("identity", "") and not path.endswith(_STORED_ENCODINGS.get(encoding, ("\0",))):
            raise SourceError(
                f"{self.name}: the server insists on sending it encoded as {encoding}",
                hint="download the file and read it from disk",
            )


def changed(name: str, how: str) -> SourceError:
    return SourceError(
        f"{name} changed while being read: {how}",
        hint="restore the file, or start over with a new destination or --fresh",
    )


def retry_after_s(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, which may hold seconds or a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
