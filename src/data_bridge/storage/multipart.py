"""One large file to one S3 object in equal parts: verified by the server part by part, visible only when complete."""

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from data_bridge.clients.s3 import Refused, stat, translated
from data_bridge.errors import BridgeError, IntegrityError, RetryableError, StoreError
from data_bridge.storage.section import SEND_BYTES, Section
from data_bridge.utils.budget import Account
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MOST_PARTS = 10_000
MIB = 1 << 20
FRESH_STARTS = 3
COMPLETIONS = 3
MISMATCH_CODES = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})
"""What stores call content that is not what its checksum says."""
MD5_ETAG = re.compile(r"[0-9a-f]{32}")


class Upload(msgspec.Struct, frozen=True):
    """What is uploaded and how. `part_bytes` is the least part size; all parts but the last have the same.

    `sending` is drawn on for what is in memory; `crc32` says that the store checks one with each part, else MD5 serves.
    """

    client: "S3Client"
    bucket: str
    key: str
    path: Path
    size: int
    sha256: str
    part_bytes: int
    parts_in_flight: int
    retry: Retry
    sending: Account
    crc32: bool

    def run(self) -> None:
        """Store the file. Raises IntegrityError when it is not the file `sha256` and `size` describe.

        Whatever goes wrong, no object appears and the parts sent are given up.
        """
        for _ in range(FRESH_STARTS):
            with suppress(_UploadLost):
                return self._attempt()
        raise StoreError(f"put {self.key}: the store lost the upload {FRESH_STARTS} times before it was complete")

    def _attempt(self) -> None:
        upload_id = self.retry(self._create)
        attempt = _Attempt(self, upload_id, part_size(self.size, self.part_bytes))
        try:
            attempt.send_all()
            attempt.complete()
        except BaseException:
            # the error on its way says more than a failure to clean up after it
            with suppress(BridgeError), translated(f"abort the upload of {self.key}"):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload_id)
            raise

    def _create(self) -> str:
        with translated(f"put {self.key}"):
            return _create(self.client, self.bucket, self.key, crc32=self.crc32)


def part_size(size: int, least: int) -> int:
    """Bytes of a part, whole MiB above `least`, so that `size` bytes make at most 10,000 parts."""
    needed = -(-size // MOST_PARTS)
    return least if needed <= least else -(-needed // MIB) * MIB


class _UploadLost(Exception):
    """The store no longer knows the upload, and the object is not there: only a fresh start helps."""


class _Attempt:
    """One multipart upload, from its first part to its completion."""

    def __init__(self, upload: Upload, upload_id: str, part_bytes: int) -> None:
        self._upload = upload
        self._id = upload_id
        self._part_bytes = part_bytes
        self._etags: dict[int, str] = {}
        self._crcs: dict[int, str] = {}

    def send_all(self) -> None:
        """Send every part, a few at a time, and check on the way that the file is the recorded one."""
        upload, digest = self._upload, hashlib.sha256()
        with ThreadPoolExecutor(upload.parts_in_flight, thread_name_prefix="part") as pool:
            running: set[Future[None]] = set()
            for number, (start, size) in self._parts():
                self._look_at(number, start, size, digest)
                if len(running) >= upload.parts_in_flight:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                running.add(pool.submit(self._send, number, start, size))
            for future in running:
                future.result()
        if upload.path.stat().st_size != upload.size or digest.hexdigest() != upload.sha256:
            raise IntegrityError(f"{upload.path} is not the file that was recorded: its SHA-256 differs")

    def _look_at(self, number: int, start: int, size: int, whole: "hashlib._Hash") -> None:
        """Hash a part before it is sent: for the whole file, and for itself."""
        from isal import isal_zlib

        crc = 0
        with self._upload.sending.holding(SEND_BYTES), Section(self._upload.path, start, size) as part:
            for block in part:
                whole.update(block)
                if self._upload.crc32:
                    crc = isal_zlib.crc32(block, crc)
        self._crcs[number] = _base64(crc.to_bytes(4, "big"))

    def complete(self) -> None:
        """Make the object visible, whatever happens to the answer."""
        for _ in range(COMPLETIONS):
            try:
                return self._upload.retry(self._complete)
            except Refused as refused:
                if refused.code == "InvalidPart":
                    self._send_missing()
                elif refused.code == "NoSuchUpload":
                    # so says a store that did complete it, when the first answer got lost
                    return self._demand_object()
                else:
                    raise
        raise _UploadLost

    def _parts(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Number, start and size of every part."""
        size, usual = self._upload.size, self._part_bytes
        return enumerate(((start, min(usual, size - start)) for start in range(0, size, usual)), 1)

    def _send(self, number: int, start: int, size: int) -> None:
        with self._upload.sending.holding(SEND_BYTES), Section(self._upload.path, start, size) as part:
            md5 = "" if self._upload.crc32 else _md5_of(part)
            self._etags[number] = self._upload.retry(lambda: self._send_once(number, part, md5))

    def _send_once(self, number: int, part: Section, md5: str) -> str:
        up = self._upload
        part.seek(0)
        checksum: Any = {"ContentMD5": _base64(bytes.fromhex(md5))} if md5 else {"ChecksumCRC32": self._crcs[number]}
        try:
            with translated(f"put part {number} of {up.key}"):
                answer = up.client.upload_part(
                    Bucket=up.bucket,
                    Key=up.key,
                    UploadId=self._id,
                    PartNumber=number,
                    Body=part,  # type: ignore[arg-type]  # it reads and seeks, which is all that is done with it
                    **checksum,
                )
        except Refused as refused:
            if refused.code == "NoSuchUpload":
                raise _UploadLost from refused
            if refused.code in MISMATCH_CODES:
                raise RetryableError(refused.message) from refused
            raise
        etag = answer["ETag"].strip('"')
        if md5 and is_md5(etag, answer) and etag != md5:
            raise RetryableError(f"put part {number} of {up.key}: the store has other bytes than were sent")
        return etag

    def _complete(self) -> None:
        up = self._upload
        with translated(f"complete {up.key}"):
            _complete(up.client, up.bucket, up.key, self._id, self._etags, self._crcs if up.crc32 else {})

    def _send_missing(self) -> None:
        """Send again the parts the store does not have."""
        try:
            stored = self._upload.retry(self._stored_parts)
        except Refused as refused:
            raise _UploadLost from refused
        for number, (start, size) in self._parts():
            if stored.get(number) != self._etags[number]:
                self._send(number, start, size)

    def _stored_parts(self) -> dict[int, str]:
        up = self._upload
        stored: dict[int, str] = {}
        with translated(f"list the parts of {up.key}"):
            pages = up.client.get_paginator("list_parts").paginate(Bucket=up.bucket, Key=up.key, UploadId=self._id)
            for page in pages:
                stored |= {part["PartNumber"]: part["ETag"].strip('"') for part in page.get("Parts", [])}
        return stored

    def _demand_object(self) -> None:
        up = self._upload
        try:
            there = up.retry(lambda: stat(up.client, up.bucket, up.key))
        except Refused as refused:
            raise _UploadLost from refused
        if there.size != up.size or there.etag != self._whole_etag():
            raise _UploadLost

    def _whole_etag(self) -> str | None:
        """The ETag of the object made of these parts, where the store's ETags are MD5s."""
        etags = [self._etags[number] for number in sorted(self._etags)]
        if not all(MD5_ETAG.fullmatch(etag) for etag in etags):
            return None
        joined = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
        return f"{joined.hexdigest()}-{len(etags)}"


def checks_crc32(client: "S3Client", bucket: str, key: str) -> bool:
    """Whether the store takes parts with their CRC32 and refuses one that does not fit: tried out under `key`."""
    made: dict[str, str] = {}
    if _refusal(lambda: made.update(id=_create(client, bucket, key, crc32=True))):
        return False
    place: Any = {"Bucket": bucket, "Key": key, "UploadId": made["id"]}
    right, wrong = (_base64(zlib.crc32(data).to_bytes(4, "big")) for data in (b"right", b"wrong"))

    def put(crc32: str) -> None:
        made["etag"] = client.upload_part(**place, PartNumber=1, Body=b"right", ChecksumCRC32=crc32)["ETag"].strip('"')

    try:
        refused = _refusal(lambda: put(wrong))
        if refused is None or refused.code not in MISMATCH_CODES or _refusal(lambda: put(right)):
            return False
        return _refusal(lambda: _complete(client, bucket, key, made["id"], {1: made["etag"]}, {1: right})) is None
    finally:
        with suppress(BridgeError), translated(f"abort the upload of {key}"):
            client.abort_multipart_upload(**place)
        with suppress(BridgeError), translated(f"delete {key}"):
            client.delete_object(Bucket=bucket, Key=key)


def _refusal(call: Callable[[], object]) -> Refused | None:
    """What the store says against a call, None for nothing. Raises what it would say to any."""
    try:
        with translated("try out checksums"):
            call()
    except Refused as refused:
        if refused.status in (401, 403) or refused.code == "NoSuchBucket":
            raise
        return refused
    return None


def _create(client: "S3Client", bucket: str, key: str, *, crc32: bool) -> str:
    kind: Any = {"ChecksumAlgorithm": "CRC32"} if crc32 else {}
    return client.create_multipart_upload(Bucket=bucket, Key=key, **kind)["UploadId"]


def _complete(
    client: "S3Client", bucket: str, key: str, upload: str, etags: Mapping[int, str], crcs: Mapping[int, str]
) -> None:
    parts: Any = [
        {"PartNumber": n, "ETag": f'"{etag}"', **({"ChecksumCRC32": crcs[n]} if crcs else {})}
        for n, etag in sorted(etags.items())
    ]
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def _md5_of(part: Section) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    for block in part:
        md5.update(block)
    return md5.hexdigest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def is_md5(etag: str, answer: Any) -> bool:
    """Whether an ETag is the MD5 of what was put: it is not under encryption with a managed key."""
    encryption = answer.get("ServerSideEncryption")
    return MD5_ETAG.fullmatch(etag) is not None and encryption in (None, "AES256") and "SSECustomerKeyMD5" not in answer
