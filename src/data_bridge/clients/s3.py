"""With `s3_models` all that knows botocore: a pinned S3 client, its errors in our words, and reads that cannot be short."""

import functools
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.session
import msgspec
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from data_bridge.clients.s3_models import Models
from data_bridge.config import R2Settings, S3Settings
from data_bridge.errors import BridgeError, ConfigError, RetryableError, StoreError
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BLOCK_BYTES = 1 << 20
ENDPOINT = re.compile(r"https?://([0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^?#\s]*)?")
LATER = "nothing is lost: the same command resumes when the store answers again"

RETRYABLE_CODES = frozenset(
    {
        "SlowDown",
        "TooManyRequests",
        "RequestTimeout",
        "RequestTimeoutException",
        "IncompleteBody",
        "ClientDisconnect",
        "ConditionalRequestConflict",
        "OperationAborted",
    }
)
HINTS = {
    "InvalidAccessKeyId": "check access_key_id",
    "Unauthorized": "check access_key_id and secret_access_key, and that they belong to this account",
    "SignatureDoesNotMatch": "check secret_access_key",
    "ExpiredToken": "the temporary credentials have expired: get new ones",
    "ExpiredRequest": "check the clock of this machine",
    "RequestTimeTooSkewed": "check the clock of this machine",
    "NoSuchBucket": "create the bucket, or check its name, the endpoint and the jurisdiction",
    "PermanentRedirect": "set the region the bucket is in",
    "AuthorizationHeaderMalformed": "set the region the bucket is in",
    "InvalidBucketName": "check the bucket's name",
}
STATUS_HINTS = {
    401: HINTS["Unauthorized"],
    403: "check the keys, and that they may list, read and write this bucket and prefix",
}


class Refused(StoreError):
    """The server answered no, and would again. `code` is S3's name for it, `status` the HTTP status."""

    def __init__(self, message: str, *, hint: str = "", code: str = "", status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status

    @property
    def missing(self) -> bool:
        """Whether the object, rather than the bucket or a permission, is what is not there."""
        return self.status == 404 and self.code != "NoSuchBucket"


class PreconditionFailed(Refused):
    """The object exists (`If-None-Match: *`) or is no longer the one that was asked for (`If-Match`)."""


class Unreachable(RetryableError):
    """No connection came about: the name, the port or the network is wrong, or down."""


class S3Object(msgspec.Struct, frozen=True):
    """An object as the server lists it; `etag` is without quotes."""

    key: str
    size: int
    etag: str


def connect(settings: S3Settings | R2Settings | None, *, pool: int = 10, attempts: int = 8) -> "S3Client":
    """A client for these settings; nothing is sent yet. `pool` bounds connections, `attempts` tries of one request.

    Empty credentials fall back to the AWS chain. Every PUT must carry a checksum of its own, because over TLS
    the body is not signed. Raises ConfigError for settings no client can be made of.
    """
    endpoint = _endpoint(settings)
    with translated("connecting to the object store"):
        client = _client(settings, endpoint, pool, attempts)
        if endpoint is None and ".amazonaws." not in client.meta.endpoint_url:
            # the endpoint came from the AWS configuration: such stores want the bucket in the path
            client = _client(settings, client.meta.endpoint_url, pool, attempts)
    return client


def _endpoint(settings: S3Settings | R2Settings | None) -> str | None:
    if settings is None:
        return None
    name = "r2" if isinstance(settings, R2Settings) else "s3"
    if (settings.access_key_id is None) != (settings.secret_access_key is None):
        raise ConfigError(f"{name}.access_key_id and {name}.secret_access_key go together: one of them is missing")
    if settings.endpoint_url is not None:
        if not ENDPOINT.fullmatch(settings.endpoint_url):
            raise ConfigError(
                f"{name}.endpoint_url is not a plain http(s) URL", hint="write https://host or https://host:port"
            )
        return settings.endpoint_url
    if isinstance(settings, S3Settings):
        return None
    if settings.account_id is None:
        raise ConfigError("r2.account_id is missing", hint="set r2.account_id, or r2.endpoint_url")
    if not re.fullmatch(r"[0-9A-Za-z-]+", settings.account_id):
        raise ConfigError("r2.account_id is not an account id", hint="it is the first part of the bucket's S3 endpoint")
    jurisdiction = "" if settings.jurisdiction == "default" else f".{settings.jurisdiction}"
    return f"https://{settings.account_id}{jurisdiction}.r2.cloudflarestorage.com"


def _client(settings: S3Settings | R2Settings | None, endpoint: str | None, pool: int, attempts: int) -> "S3Client":
    session: Any = botocore.session.Session(profile=getattr(settings, "profile", None))
    session.register_component("data_loader", _service_models())
    s3_options: Any = {"addressing_style": "auto" if endpoint is None else "path"}
    if endpoint is None or endpoint.startswith("https:"):
        # TLS and a checksum header protect the body for a third of the CPU a signature of it costs
        s3_options["payload_signing_enabled"] = False
    config = Config(
        signature_version="s3v4",
        s3=s3_options,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=pool,
        tcp_keepalive=True,
    )
    region = settings.region if settings is not None else None
    client: S3Client = session.create_client(
        "s3",
        region_name=region or session.get_config_variable("region") or "us-east-1",
        endpoint_url=endpoint,
        config=config,
        **_credentials(settings),
    )
    # R2 knows no HTTP 100, and botocore waits up to a second for it on every PUT
    client.meta.events.register_last("before-call.s3", _drop_expect)
    return client


@functools.cache
def _service_models() -> Models:
    """Parsed once a process: they are most of the cost of a client."""
    return Models()


def _credentials(settings: S3Settings | R2Settings | None) -> dict[str, str]:
    if settings is None:
        return {}
    secrets = {
        "aws_access_key_id": settings.access_key_id,
        "aws_secret_access_key": settings.secret_access_key,
        "aws_session_token": settings.session_token,
    }
    return {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}


def _drop_expect(params: dict[str, Any], **_: object) -> None:
    params["headers"].pop("Expect", None)


@contextmanager
def translated(what: str) -> Generator[None]:
    """Turn botocore's errors into ours; `what` says what was being done, as in `put shards/000000.tar`.

    Raises PreconditionFailed, other Refused, Unreachable, RetryableError, or ConfigError for unusable credentials.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(what, error) from error
    except (boto.BotoCoreError, ResponseParserError) as error:
        raise _failure(what, error) from error


def _refusal(what: str, error: boto.ClientError) -> BridgeError:
    """Our error for an answer of the server."""
    answer: Any = error.response
    detail = answer.get("Error", {})
    metadata = answer.get("ResponseMetadata", {})
    code, status = str(detail.get("Code", "")), int(metadata.get("HTTPStatusCode") or 0)
    said = str(detail.get("Message") or "").strip()
    message = f"{what}: the store answered {status} {code}" + (f" ({said})" if said and said != code else "")
    if code in RETRYABLE_CODES or status == 429 or (status >= 500 and status != 501) or status < 300:
        # below 300: the error came in the body of an answer that began well
        later = RetryableError(message, hint=LATER)
        wait = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
        if wait.isdigit():
            later.retry_after = int(wait)  # type: ignore[attr-defined]
        return later
    kind = PreconditionFailed if status == 412 else Refused
    return kind(message, hint=HINTS.get(code) or STATUS_HINTS.get(status, ""), code=code, status=status)


def _failure(what: str, error: Exception) -> BridgeError:
    """Our error for a request that got no answer."""
    match error:
        case boto.NoCredentialsError() | boto.PartialCredentialsError() | boto.CredentialRetrievalError():
            return ConfigError(
                f"{what}: no usable credentials for the object store",
                hint="set access_key_id and secret_access_key in the config, or the AWS environment or profile",
            )
        case boto.ProfileNotFound():
            return ConfigError(f"{what}: {error}", hint="check s3.profile and ~/.aws/config")
        case boto.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Refused(
                f"{what}: the certificate of the store is not trusted",
                hint="name your authority's certificates in AWS_CA_BUNDLE, or check the endpoint",
            )
        case boto.EndpointConnectionError() | boto.ConnectTimeoutError() | boto.ProxyConnectionError():
            place = urlsplit(str(error.kwargs.get("endpoint_url", ""))).hostname or "the store"
            return Unreachable(f"{what}: cannot connect to {place}", hint="check the endpoint and the network")
        case (
            boto.ConnectionError()
            | boto.HTTPClientError()
            | boto.IncompleteReadError()
            | boto.ResponseStreamingError()
            | ResponseParserError()
        ):
            return RetryableError(f"{what}: the connection failed ({type(error).__name__})", hint=LATER)
        case _:
            return ConfigError(f"{what}: {error}", hint="check the bucket, the key and the endpoint")


def stat(client: "S3Client", bucket: str, key: str) -> S3Object:
    """Size and ETag of an object as it is now. Raises Refused (`missing`: there is none)."""
    with translated(f"look up s3 object {bucket}/{key}"):
        answer = client.head_object(Bucket=bucket, Key=key)
    return S3Object(key, answer["ContentLength"], _bare(answer["ETag"]))


def stat_or_why(client: "S3Client", bucket: str, key: str) -> S3Object:
    """As `stat`, but a refusal says what HEAD has no body for: whether the object or its bucket is missing, the key or
    the permission wrong."""
    try:
        return stat(client, bucket, key)
    except Refused as error:
        if not error.code.isdigit():
            raise
        with translated(f"read {bucket}/{key}"):
            client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
        raise  # HEAD alone is refused


def list_objects(
    client: "S3Client",
    bucket: str,
    prefix: str,
    *,
    retry: Retry | None = None,
    page_keys: int = 1000,
    without: str = "",
) -> Iterator[S3Object]:
    """All objects whose key starts with `prefix`, in the order the store lists them, `page_keys` with one request.

    `without` is the path, with its slash, of a folder whose name the prefix may begin: its pages are not asked for. Keys in
    other folders then come after those in none.
    """
    again = retry or Retry()
    folders: list[str] = []
    more: dict[str, Any] = {"Delimiter": "/"} if without else {}
    while True:

        def page() -> Any:
            with translated(f"list {bucket}/{prefix}"):
                return client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=page_keys, **more)

        answer = again(page)
        for item in answer.get("Contents", []):
            if without and item["Key"].startswith(without):
                continue  # of a store that knows no delimiter
            yield S3Object(item["Key"], item["Size"], _bare(item.get("ETag", "")))
        folders += [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        if not answer.get("IsTruncated"):
            break
        more["ContinuationToken"] = answer["NextContinuationToken"]
    for folder in dict.fromkeys(folders):  # some stores name one on every page it spans
        if folder != without:
            yield from list_objects(client, bucket, folder, retry=retry, page_keys=page_keys)


class S3Body:
    """The bytes of one answer in blocks of about 1 MB, to be iterated once and closed.

    A body that is cut raises RetryableError once everything that arrived whole was given out. `abort` from another
    thread wakes a read that waits.
    """

    def __init__(self, what: str, answer: Any) -> None:
        self._what = what
        self._left: int = answer["ContentLength"]
        self._body = answer["Body"]

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            with translated(self._what):
                block = self._body.read(min(BLOCK_BYTES, self._left))
            if not block:
                raise RetryableError(f"{self._what}: the body ended {self._left} bytes early", hint=LATER)
            self._left -= len(block)
            yield block

    def close(self) -> None:
        """Close the connection, unless the body was read to its end, which gave it back."""
        self._body.close()

    def abort(self) -> None:
        # botocore has no way to wake a reader, the response it wraps has
        with suppress(ValueError, RuntimeError, OSError):
            self._body._raw_stream.shutdown()  # noqa: SLF001


def open_range(
    client: "S3Client", bucket: str, key: str, start: int = 0, end: int | None = None, *, if_match: str | None = None
) -> S3Body:
    """Bytes [start, end) of an object, to its end where `end` is None; the range must not be empty.

    With `if_match` (an ETag of `stat`) an object that has changed raises PreconditionFailed. Raises Refused for a
    missing object or a range beyond its end.
    """
    what = f"read {bucket}/{key}"
    asked: dict[str, Any] = {} if if_match is None else {"IfMatch": f'"{if_match}"'}
    if start or end is not None:
        asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    with translated(what):
        answer = client.get_object(Bucket=bucket, Key=key, **asked)
    if "Range" in asked and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise Refused(f"{what}: the store ignored the byte range", hint="use a store or proxy that serves ranges")
    return S3Body(what, answer)


def get_range(
    client: "S3Client", bucket: str, key: str, start: int = 0, end: int | None = None, *, if_match: str | None = None
) -> Iterator[bytes]:
    """The blocks of `open_range`, none for an empty range: go on at `start` plus the bytes received after a
    RetryableError (`Retry.resuming` does)."""
    if end is None or end > start:
        with closing(open_range(client, bucket, key, start, end, if_match=if_match)) as body:
            yield from body


def _bare(etag: str) -> str:
    return etag.strip('"')
