"""One class per kind of remote source: what a file is now, and its bytes from an offset. Retried by the caller."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from data_bridge import config
from data_bridge.clients.http import CutError, HttpClient, HttpFile, changed
from data_bridge.config import Settings, SourceOptions
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError
from data_bridge.io import locations
from data_bridge.io.codecs import BLOCK_BYTES, is_compressed
from data_bridge.io.locations import Bucketed, shown
from data_bridge.io.own import parts_of
from data_bridge.io.ranged import Body
from data_bridge.model.source import SourceFile
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from data_bridge.clients.s3 import S3Body


class Remote(Protocol):
    """Files behind some schemes."""

    @property
    def ranges(self) -> bool:
        """Whether several parts of one file may be read at the same time, as far as is known."""

    def find(self, uri: str, retry: Retry) -> list[SourceFile] | None:
        """The files one URI (braces already written out) stands for, None when there is none."""

    def stat(self, uri: str) -> SourceFile | None:
        """The file as it is now, None when there is none."""

    def read(self, file: SourceFile, start: int, end: int | None) -> Body:
        """The bytes from `start` of the file as recorded. Raises SourceError when it has changed."""


class StreamBody:
    """A plain iterator of blocks as a Body."""

    ranged = True

    def __init__(self, blocks: Iterator[bytes], close: Callable[[], None] | None = None) -> None:
        self._blocks = blocks
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        if isinstance(self._blocks, Generator):
            self._blocks.close()
        if self._close is not None:
            self._close()

    def abort(self) -> None:
        """These bodies cannot be woken; their own timeouts end them."""


class WebRemote:
    """`https://`, `http://`, and files of Hub datasets (`hf://`), which are plain HTTPS with a bearer token."""

    ranges = True

    def __init__(self, settings: Settings, client: HttpClient) -> None:
        self._given_token = settings.pipeline.source_options.load_kwargs.get("token")
        self._client = client

    def find(self, uri: str, retry: Retry) -> list[SourceFile] | None:
        check = locations.check_hub_uri if locations.scheme_of(uri) == "hf" else locations.check_url
        check(uri)
        file = retry(lambda: self.stat(uri))
        return None if file is None else [file]

    def stat(self, uri: str) -> SourceFile | None:
        found = self._client.stat(self._url(uri), token=self._token(uri))
        return None if found is None else SourceFile(uri=uri, size=found.size, etag=found.identity)

    def read(self, file: SourceFile, start: int, end: int | None) -> Body:
        known = HttpFile(file.size, file.etag)
        return self._client.open(self._url(file.uri), start, end, known=known, token=self._token(file.uri))

    def _url(self, uri: str) -> str:
        if locations.scheme_of(uri) == "hf":
            return locations.hub_url(uri, config.hf_endpoint())
        return uri

    def _token(self, uri: str) -> str | None:
        """A Hub token for the Hub alone: what the config gives, else what the user is logged in with."""
        if locations.scheme_of(uri) != "hf" or self._given_token is False:
            return None
        token = config.hf_token() if self._given_token in (None, True) else self._given_token
        return token.get_secret_value() if isinstance(token, SecretStr) else token


class BucketRemote:
    """`s3://` and `r2://` objects."""

    ranges = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[tuple[int, str], S3Client] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_settings": self._settings, "_clients": {}}

    def find(self, uri: str, retry: Retry) -> list[SourceFile] | None:
        from data_bridge.clients import s3

        place = Bucketed.parse(uri)
        prefix = place.listed_prefix
        if prefix is not None:
            with _refusals_are(ConfigError, uri):
                objects = {o.key: o for o in s3.list_objects(self._client(place), place.bucket, prefix, retry=retry)}
            keys = place.matching(objects)
            if keys:
                return [SourceFile(uri=place.uri(k), size=objects[k].size, etag=objects[k].etag or None) for k in keys]
            if not place.key or place.key.endswith("/"):
                return None
        file = retry(lambda: self.stat(uri))
        return None if file is None else [file]

    def stat(self, uri: str) -> SourceFile | None:
        from data_bridge.clients import s3

        place = Bucketed.parse(uri)
        try:
            with _refusals_are(ConfigError, uri):
                found = s3.stat_or_why(self._client(place), place.bucket, place.key)
        except _MissingError:
            return None
        return SourceFile(uri=place.uri(place.key), size=found.size, etag=found.etag or None)

    def read(self, file: SourceFile, start: int, end: int | None) -> Body:
        from data_bridge.clients import s3

        place = Bucketed.parse(file.uri)
        with _refusals_are(SourceError, file.uri):
            client = self._client(place)
            return _BucketBody(s3.open_range(client, place.bucket, place.key, start, end, if_match=file.etag), file.uri)

    def _client(self, place: Bucketed) -> "S3Client":
        from data_bridge.clients import s3

        key = (os.getpid(), place.scheme)  # a forked child must not write into its parent's connections
        if key not in self._clients:
            if place.scheme == "r2" and self._settings.r2 is None:
                raise ConfigError(
                    f"{place.scheme}://{place.bucket} needs an `r2` block in the config", hint="add account_id and keys"
                )
            block = self._settings.r2 if place.scheme == "r2" else self._settings.s3
            self._clients[key] = s3.connect(block, attempts=2)  # our own retries go on top
        return self._clients[key]


class _BucketBody:
    """The body of an object; what the store or the connection does to it is told in the words of a source."""

    ranged = True

    def __init__(self, body: "S3Body", uri: str) -> None:
        self._body = body
        self._uri = uri
        self.close = body.close
        self.abort = body.abort

    def __iter__(self) -> Iterator[bytes]:
        try:
            with _refusals_are(SourceError, self._uri):
                yield from self._body
        except RetryableError as error:
            raise CutError(error.message, hint=error.hint) from error


class _MissingError(SourceError):
    """The object, rather than its bucket or a permission, is not there."""


@contextmanager
def _refusals_are(kind: type[BridgeError], uri: str) -> Generator[None]:
    """The store's refusals as errors of a source."""
    from data_bridge.clients import s3

    try:
        yield
    except s3.PreconditionFailed as error:
        raise changed(uri, "its ETag is not the recorded one any more") from error
    except s3.Refused as error:
        if error.missing:
            raise _MissingError(f"{uri} is not there", hint="it was moved or deleted, or the name is wrong") from error
        if error.status == 416:
            raise changed(uri, "it is shorter than before") from error
        raise kind(f"{uri}: {error.message}", hint=error.hint) from error


class OwnRemote:
    """Parts of a source of the user's own as files: found and told apart here, read by their format alone."""

    ranges = False

    def __init__(self, options: SourceOptions) -> None:
        self._arguments = config.with_open_secrets(options.arguments)

    def find(self, uri: str, retry: Retry) -> list[SourceFile] | None:
        del retry
        return parts_of(uri, self._arguments) or None

    def stat(self, uri: str) -> SourceFile | None:
        return next((part for part in parts_of(uri, self._arguments) if part.uri == uri), None)

    def read(self, file: SourceFile, start: int, end: int | None) -> Body:
        del start, end
        raise SourceError(
            f"{file.uri} gives samples, not bytes",
            hint="leave input_format to `auto`: it is `python` for such a source",
        )


class OtherRemote:
    """Schemes of smart_open that are not our own (`gs://`, `ftp://`, `azure://`, `ssh://`, …).

    A file whose size smart_open cannot tell is read only if it is compressed: then its own end mark shows a cut.
    """

    ranges = False

    def find(self, uri: str, retry: Retry) -> list[SourceFile] | None:
        scheme = locations.scheme_of(uri)
        if locations.is_glob(uri.partition("?")[0]) or uri.endswith("/"):
            raise ConfigError(
                f"{shown(uri)}: files behind {scheme}:// cannot be listed", hint="name them with braces or in a list"
            )
        if urlsplit(uri).password is not None:
            raise ConfigError(
                f"{shown(uri)} holds a password, which would end up in the plan and the manifest",
                hint="download the file first",
            )
        try:
            file = retry(lambda: self.stat(uri))
        except SourceError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        return None if file is None else [file]

    def stat(self, uri: str) -> SourceFile | None:
        try:
            with _foreign(uri), self._open(uri) as stream:
                size = stream.seek(0, os.SEEK_END) if stream.seekable() else None
        except _MissingError:
            return None
        if size is None and not is_compressed(uri):
            raise ConfigError(
                f"{shown(uri)}: its size cannot be had, so a cut connection would look like the end of the file",
                hint="download the file first, or offer it compressed (.gz, .zst): then its end can be checked",
            )
        return SourceFile(uri=uri, size=size)

    def read(self, file: SourceFile, start: int, end: int | None) -> Body:
        with _foreign(file.uri):
            stream = self._open(file.uri)
        return StreamBody(self._blocks(stream, file, start, end), stream.close)

    def _blocks(self, stream: Any, file: SourceFile, start: int, end: int | None) -> Iterator[bytes]:
        with _foreign(file.uri):
            if start and stream.seekable():
                stream.seek(start)
            elif start:
                raise SourceError(f"{shown(file.uri)} cannot be read from the middle", hint="download the file first")
        left = None if end is None else end - start
        while left is None or left > 0:
            with _foreign(file.uri):
                block = stream.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
            if not block:
                return
            left = None if left is None else left - len(block)
            yield block

    def _open(self, uri: str) -> Any:
        import smart_open

        return smart_open.open(uri, "rb", compression="disable")


def other_schemes() -> frozenset[str]:
    """The schemes that smart_open, with what is installed here, adds to our own."""
    from smart_open.transport import SUPPORTED_SCHEMES

    return frozenset(SUPPORTED_SCHEMES) - {"", *locations.OWN_SCHEMES, "s3a", "s3n"}


@contextmanager
def _foreign(uri: str) -> Generator[None]:
    """Turns what the libraries behind smart_open raise, which can be anything, into our errors."""
    name = shown(uri)
    try:
        yield
    except BridgeError:
        raise
    except FileNotFoundError as error:
        raise _MissingError(f"{name} is not there", hint="it was moved or deleted, or the name is wrong") from error
    except (ConnectionError, TimeoutError, EOFError) as error:
        raise RetryableError(
            f"{name}: the connection failed: {type(error).__name__}", hint="try again later"
        ) from error
    except Exception as error:
        raise SourceError(
            f"{name} cannot be read: {type(error).__name__}: {error}", hint="check the URI and the access"
        ) from error
