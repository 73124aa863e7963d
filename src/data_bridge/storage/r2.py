"""A bucket as destination: Cloudflare R2, and any store that speaks S3."""

import base64
import hashlib
import os
import secrets
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_bridge.clients import s3
from data_bridge.clients.s3 import PreconditionFailed, Refused, Unreachable, translated
from data_bridge.config import R2Settings, S3Settings
from data_bridge.errors import ConfigError, IntegrityError, RetryableError, StoreError
from data_bridge.model.store import ObjectInfo
from data_bridge.storage.base import checked_key, checked_prefix
from data_bridge.storage.multipart import MIB, MISMATCH_CODES, Upload, checks_crc32, is_md5
from data_bridge.storage.section import SEND_BYTES, Section
from data_bridge.utils.budget import ByteBudget
from data_bridge.utils.files import sha256_of
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LONGEST_PRESIGN_S = 7 * 24 * 3600
SENDING_BYTES = 64 * MIB
OF_THIS_PROCESS = frozenset({"_connecting", "_learning", "_sending"})
LEAST_GAP_S = 1.1
"""R2 answers 429 to a second write of one key within a second."""


class R2Client:
    """An ObjectStore on a bucket, below `prefix`.

    Made of settings (then picklable, connecting on first use, once per process) or of a client. Files up to
    `single_put_bytes` go in one request with their SHA-256, larger ones in parts. Whether the store truly checks
    a SHA-256 is asked once; where it does not, MD5 and, at the last, reading back verify what was stored.
    """

    def __init__(
        self,
        access: "S3Client | S3Settings | R2Settings | None",
        bucket: str,
        prefix: str = "",
        *,
        scheme: str = "s3",
        single_put_bytes: int = 256 * MIB,
        part_bytes: int = 16 * MIB,
        parts_in_flight: int = 4,
        retry: Retry | None = None,
    ) -> None:
        self._settings = access if isinstance(access, S3Settings | R2Settings) else None
        self._lazy = access is None or self._settings is not None
        self._connection: Any = None if self._lazy else access
        self._connected_in = 0
        self._connecting = threading.Lock()
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._scheme = scheme
        self._single_put_bytes = single_put_bytes
        self._part_bytes = part_bytes
        self._parts_in_flight = parts_in_flight
        self._retry = retry or Retry()
        self._conditional = True
        self._checks_sha256: bool | None = None
        self._checks_crc32: bool | None = None
        self._learning = threading.Lock()
        self._sending = ByteBudget(SENDING_BYTES).account("send")

    def __getstate__(self) -> dict[str, Any]:
        if not self._lazy:
            raise TypeError("a store made of a client cannot be pickled: make it of settings")
        return {name: value for name, value in self.__dict__.items() if name not in OF_THIS_PROCESS} | {
            "_connection": None,
            "_connected_in": 0,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _connecting=threading.Lock(), _learning=threading.Lock())
        self._sending = ByteBudget(SENDING_BYTES).account("send")

    def draw_on(self, budget: ByteBudget) -> None:
        """From now on what is being sent counts in this budget."""
        self._sending = budget.account("send")

    @property
    def uri(self) -> str:
        return f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def local_root(self) -> Path | None:
        return None

    @property
    def conditional(self) -> bool:
        """True until `probe` found the store to ignore `If-None-Match`."""
        return self._conditional

    def probe(self, scratch: str) -> None:
        key = f"{scratch.rstrip('/')}/probe-{secrets.token_hex(8)}"
        try:
            self._reach(key)
            self._probe(key)
        except (Refused, Unreachable) as error:
            raise ConfigError(f"cannot use {self.uri}: {error.message}", hint=error.hint) from error

    def _reach(self, key: str) -> None:
        """Meet what is wrong with the config at once, not after the patience that outages deserve."""
        client = s3.connect(self._settings, attempts=2) if self._lazy else self._client
        try:
            b"".join(s3.get_range(client, self._bucket, self._full(key)))
        except Unreachable:
            raise
        except Refused as refused:
            if not refused.missing:
                raise
        except RetryableError:
            # the store is there, and busy: what follows has the patience
            return

    def _probe(self, key: str) -> None:
        self._conditional = True
        try:
            try:
                self._conditional = self.put_if_absent(key, b"first")
            except Refused as refused:
                if refused.status != 501:
                    raise
                self._conditional = False
                self.put_bytes(key, b"first")
            first_at_s = self._retry.clock()
            found = self.get(key) == b"first" and [*self.list_keys(key)] == [key]
            if not found:
                raise ConfigError(f"{self.uri} does not give back what was written to it")
            self._learn_checksums(key.rpartition("/")[0])
            if self._conditional:
                if self._scheme == "r2":  # any other that is R2 all the same says so, and is asked again
                    self._retry.sleep(max(0.0, first_at_s + LEAST_GAP_S - self._retry.clock()))
                self._conditional = not self.put_if_absent(key, b"second")
        finally:
            # keys that may not delete leave the probe behind, and are good enough for a run
            with suppress(StoreError):
                self.delete(key)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        with _readable(path):
            size = path.stat().st_size
            if size > self._single_put_bytes:
                Upload(
                    self._client,
                    self._bucket,
                    self._full(key),
                    path,
                    size,
                    sha256,
                    self._part_bytes,
                    self._parts_in_flight,
                    self._retry,
                    self._sending,
                    crc32=self._learn_part_checksums(),
                ).run()
            elif self._learn_checksums("_bridge"):
                self._retry(lambda: self._put_with_sha256(key, path, sha256))
            else:
                self._put_with_md5(key, path, sha256)
        stored = self.head(key)
        if stored is None or stored.size != size:
            found = "is missing" if stored is None else f"has {stored.size} bytes"
            raise IntegrityError(f"{self.uri}/{key} {found} after a put of {size} bytes that succeeded")

    def _put_with_sha256(self, key: str, path: Path, sha256: str) -> None:
        try:
            with self._sending.holding(SEND_BYTES), Section(path) as body:
                self._put(key, body, ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode())
        except Refused as refused:
            if refused.status != 400:
                raise
            if sha256_of(path) != sha256:
                raise _changed(path) from refused
            # the file is right, so what arrived was not what left
            raise RetryableError(refused.message, hint=refused.hint) from refused

    def _put_with_md5(self, key: str, path: Path, sha256: str) -> None:
        """The way for stores that do not check a SHA-256."""
        if sha256_of(path) != sha256:
            raise _changed(path)
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))

        def put() -> Any:
            with self._sending.holding(SEND_BYTES), Section(path) as body:
                return self._put(key, body, ContentMD5=base64.b64encode(md5.digest()).decode())

        answer = self._retry(put)
        etag = answer["ETag"].strip('"')
        if is_md5(etag, answer):
            same = etag == md5.hexdigest()
        else:
            digest = hashlib.sha256()
            for block in self.read(key):
                digest.update(block)
            same = digest.hexdigest() == sha256
        if not same:
            raise IntegrityError(f"{self.uri}/{key} is not what was put there")

    def put_bytes(self, key: str, data: bytes) -> None:
        self._retry(lambda: self._put(key, data, ContentMD5=_md5(data)))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._conditional:
            return self._retry(lambda: self._put_if_absent(key, data))
        there = self.get(key)
        if there is None:
            self.put_bytes(key, data)
        return there is None or there == data

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self._put(key, data, ContentMD5=_md5(data), IfNoneMatch="*")
        except PreconditionFailed as exists:
            # also what a repeated request hears when the first one was done and its answer lost
            there = self.get(key)
            if there is None:
                raise RetryableError(f"{exists.message}, and then it was gone") from exists
            return there == data
        return True

    def get(self, key: str) -> bytes | None:
        full = self._full(key)
        try:
            return self._retry(lambda: b"".join(s3.get_range(self._client, self._bucket, full)))
        except Refused as refused:
            if refused.missing:
                return None
            raise

    def read(self, key: str) -> Iterator[bytes]:
        full = self._full(key)
        there = self._retry(lambda: s3.stat(self._client, self._bucket, full))
        return self._retry.resuming(
            lambda at: s3.get_range(self._client, self._bucket, full, at, there.size, if_match=there.etag)
        )

    def head(self, key: str) -> ObjectInfo | None:
        full = self._full(key)
        try:
            return ObjectInfo(key, self._retry(lambda: s3.stat(self._client, self._bucket, full)).size)
        except Refused as refused:
            if refused.missing:
                return None
            raise

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        start = self._prefix + checked_prefix(prefix)
        left_out = self._prefix + without if without and without.startswith(prefix) else ""
        found = s3.list_objects(self._client, self._bucket, start, retry=self._retry, without=left_out)
        # not every store lists in the order of the keys' bytes: some sort folder by folder
        for item in sorted(found, key=lambda item: item.key):
            yield ObjectInfo(item.key.removeprefix(self._prefix), item.size)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return (found.key for found in self.list(prefix))

    def delete(self, key: str) -> None:
        full = self._full(key)

        def delete() -> None:
            with translated(f"delete {self.uri}/{key}"):
                self._client.delete_object(Bucket=self._bucket, Key=full)

        self._retry(delete)

    def presign(self, key: str, expires_s: int) -> str:
        if not 1 <= expires_s <= LONGEST_PRESIGN_S:
            raise ConfigError(f"a presigned URL cannot live for {expires_s} s", hint="1 second to 7 days (604800)")
        with translated(f"presign {self.uri}/{key}"):
            return self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self._full(key)}, ExpiresIn=expires_s
            )

    @property
    def _client(self) -> "S3Client":
        # connections must not be shared with the process this one was forked from
        if self._lazy and self._connected_in != os.getpid():
            with self._connecting:
                if self._connected_in != os.getpid():
                    self._connection = s3.connect(self._settings)
                    self._connected_in = os.getpid()
        client: S3Client = self._connection
        return client

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _put(self, key: str, body: Any, **options: Any) -> Any:
        """One PUT. It must carry a checksum in its options: over TLS nothing else protects the body."""
        with translated(f"put {self.uri}/{key}"):
            return self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=body, **options)

    def _learn_checksums(self, folder: str) -> bool:
        """Whether the store refuses content that does not fit its SHA-256: asked once, with keys under `folder`."""
        if self._checks_sha256 is None:
            key = f"{folder}/probe-{secrets.token_hex(8)}"
            self._checks_sha256 = self._retry(lambda: self._refuses_only_wrong_sha256(key))
        return self._checks_sha256

    def _learn_part_checksums(self) -> bool:
        """Whether the store refuses a part that does not fit its CRC32: asked once, with an upload that is given up."""
        with self._learning:
            if self._checks_crc32 is None:
                key = self._full(f"_bridge/probe-{secrets.token_hex(8)}")
                self._checks_crc32 = self._retry(lambda: checks_crc32(self._client, self._bucket, key))
            return self._checks_crc32

    def _refuses_only_wrong_sha256(self, key: str) -> bool:
        wrong = self._refusal_of_sha256(f"{key}-wrong", b"wrong", of=b"right")
        if wrong is None or wrong.code in MISMATCH_CODES:
            return wrong is not None
        return self._refusal_of_sha256(f"{key}-right", b"right", of=b"right") is None

    def _refusal_of_sha256(self, key: str, data: bytes, *, of: bytes) -> Refused | None:
        """What the store says to `data` under the SHA-256 of other bytes."""
        try:
            self._put(key, data, ChecksumSHA256=base64.b64encode(hashlib.sha256(of).digest()).decode())
        except Refused as refused:
            if refused.status in (401, 403, 404):
                raise
            return refused
        with suppress(StoreError):
            self.delete(key)
        return None


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(f"{path} is not the file that was recorded: its SHA-256 differs")


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"read {path}: {error.strerror or error}") from error
