"""`fetch`: the file behind a URL."""

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator

from data_bridge.clients.host_limits import HostLimits
from data_bridge.clients.web import Fetched, WebClient, WebRules
from data_bridge.clients.web_connection import Unfetched
from data_bridge.config.fields import Count, Size
from data_bridge.errors import RetryableError
from data_bridge.model.batch import Media, Row
from data_bridge.model.source import Field
from data_bridge.rows.magic import file_kind
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.runtime.threaded import Threaded
from data_bridge.stages.columns import TEXT_TYPES, demand, with_fields
from data_bridge.utils.retry import Retry

FAMILIES = {
    "image": frozenset({"jpg", "png", "gif", "webp", "tiff", "bmp", "avif", "heic", "jp2"}),
    "audio": frozenset({"flac", "ogg", "mp3", "wav", "m4a"}),
    "video": frozenset({"mp4", "mov", "webm", "mkv", "avi"}),
}
DISALLOWING = ("noai", "noimageai", "noindex", "noimageindex")
OK = "ok"
_PATIENCE_S = 120.0
_LONGEST_NAME = 200
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_BATCH_THREADS = 8


def _one_line(value: str) -> str:
    if not value.isascii() or not value.isprintable() or not value.strip():
        raise ValueError("a user agent is one line of ASCII text")
    return value


class FetchOptions(StageOptions):
    field: str = option("url", description="text field with the URL (http, https)")
    to: str = option(
        "jpg", description="field that gets the file; named as an extension, it is a tar member of that name"
    )
    timeout_s: float = option(
        30.0, live="any", gt=0, description="seconds for one request, from the connection to the last byte"
    )
    retries: Count = option(
        2, live="any", ge=0, le=20, description="further tries after a fault that may pass; `Retry-After` is honoured"
    )
    redirects: Count = option(5, ge=0, le=20, description="redirects that are followed")
    max_bytes: Size = option(50_000_000, gt=0, description="a larger file is a failure")
    per_host: Count = option(16, live="any", gt=0, description="requests at a time to one host, in each slot")
    rate: float | None = option(None, live="any", gt=0, description="requests a second to one host, in each slot")
    accept: tuple[str, ...] = option(
        ("image",), description="kinds of file by their first bytes: `image`, `audio`, `video`, extensions; empty = any"
    )
    content_types: tuple[str, ...] = option(
        (), description="media types the server may declare (`image/*`); empty = any"
    )
    sha256_field: str | None = option(None, description="field with the SHA-256 the file must have, in hexadecimal")
    user_agent: Annotated[str, AfterValidator(_one_line)] = option(
        "data-bridge", live="any", description="what servers are told who asks"
    )
    disallow: tuple[str, ...] = option(
        DISALLOWING, description="`X-Robots-Tag` directives that make a file a failure; empty = ignore the header"
    )
    allow_private: bool = option(False, description="also fetch from loopback and private addresses")
    status: str | None = option(
        None, description="field that gets `ok` or the reason: then no sample fails, the file is null instead"
    )


class Fetch(Stage[FetchOptions]):
    """The file behind a URL, for many samples at a time.

    What servers send is theirs to decide: the same config gives the same bytes as long as they do.
    """

    kind = "fetch"
    Options = FetchOptions
    executor = "thread"
    bypassable = False

    def fields(self, fields: Fields) -> Fields:
        options = self.options
        demand(fields, options.field, "field", TEXT_TYPES)
        if options.sha256_field is not None:
            demand(fields, options.sha256_field, "sha256_field", TEXT_TYPES)
        made = [Field(name=options.to, type="media", nullable=options.status is not None)]
        if options.status is not None:
            made.append(Field(name=options.status, type="string", nullable=False))
        return with_fields(fields, *made)

    @property
    def row_bytes(self) -> int:
        return self.options.max_bytes

    def setup(self) -> None:
        options = self.options
        self._limits = HostLimits(options.per_host, options.rate)
        self._client = WebClient(
            WebRules(
                timeout_s=options.timeout_s,
                redirects=options.redirects,
                max_bytes=options.max_bytes,
                allow_private=options.allow_private,
                user_agent=options.user_agent,
            ),
            self._limits,
        )
        self._retry = Retry(tries=options.retries + 1, total_s=_PATIENCE_S, sleep=self._limits.wait)
        self._accepted = frozenset(kind for name in options.accept for kind in FAMILIES.get(name, {_kind(name)}))
        self._agent = options.user_agent.partition("/")[0].strip().lower()
        self._disallowed = frozenset(directive.strip().lower() for directive in options.disallow)

    def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()

    def interrupt(self) -> None:
        """Give up what is under way; `setup` starts anew."""
        self._limits.stop()
        self._client.abort()

    def one(self, row: Row) -> Row:
        """The row with its file. Raises Skip with the reason where there is none."""
        options = self.options
        try:
            media = self._fetched(row)
        except Skip as failure:
            if options.status is None:
                raise
            return {**row, options.to: None, options.status: str(failure)}
        made = {**row, options.to: media}
        if options.status is not None:
            made[options.status] = OK
        return made

    def process(self, batch: StageBatch) -> Result:
        with Threaded[StageBatch](self, _BATCH_THREADS, 1) as threaded:
            (landed,) = threaded.map([batch], lambda batch: batch)
        assert isinstance(landed.result, Result), "the stage is asked row by row"
        return landed.result

    def _fetched(self, row: Row) -> Media:
        url = row.get(self.options.field)
        if url is None:
            raise Skip("no URL")
        if not isinstance(url, str):
            raise Skip(f"field {self.options.field!r} is not text")
        try:
            found = self._retry(lambda: self._client.get(url))
        except (Unfetched, RetryableError) as error:
            raise Skip(str(error)) from None
        kind = file_kind(found.data)
        self._check(found, kind, row)
        return Media(found.data, _name(found.url, kind))

    def _check(self, found: Fetched, kind: str | None, row: Row) -> None:
        options = self.options
        if self._disallowed and disallowed(found.headers.get_all("X-Robots-Tag", []), self._agent, self._disallowed):
            raise Skip("disallowed by X-Robots-Tag")
        if not found.data:
            raise Skip("empty")
        if options.content_types:
            declared = found.headers.get_content_type()
            if not any(fnmatchcase(declared, wanted.lower()) for wanted in options.content_types):
                raise Skip(f"content type {declared[:60]}")
        if self._accepted and kind not in self._accepted:
            raise Skip(f"not {' or '.join(options.accept)}, but {kind or 'something else'}")
        if options.sha256_field is not None:
            wanted = row.get(options.sha256_field)
            if not isinstance(wanted, str) or hashlib.sha256(found.data).hexdigest() != wanted.strip().lower():
                raise Skip("another SHA-256")


def disallowed(values: Sequence[str], agent: str, directives: frozenset[str]) -> bool:
    """Whether `X-Robots-Tag` headers hold one of the directives, for everybody or for this agent (lower case)."""
    for value in values:
        name, colon, rest = value.partition(":")
        named = colon and re.fullmatch(r"\s*[\w.*-]+\s*", name) and name.strip().lower() not in _WITH_VALUE
        if named and name.strip().lower() not in (agent, "*"):
            continue
        if directives & {each.strip().lower() for each in (rest if named else value).split(",")}:
            return True
    return False


def _kind(extension: str) -> str:
    """An extension as `file_kind` names it."""
    name = extension.lower().lstrip(".")
    return {"jpeg": "jpg", "tif": "tiff", "oga": "ogg", "opus": "ogg", "heif": "heic"}.get(name, name)


def _name(url: str, kind: str | None) -> str:
    """What the file is called at its address, with the extension of its content."""
    path = re.split(r"[?#]", re.sub(r"[\t\r\n]", "", url), maxsplit=1)[0].partition("://")[2]
    name = unquote(path.partition("/")[2].rpartition("/")[2])[-_LONGEST_NAME:]
    if kind is None or _kind(name.rpartition(".")[2]) == kind:
        return name
    stem = name.rpartition(".")[0] or name
    return f"{stem or 'file'}.{kind}"
