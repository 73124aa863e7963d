"""One large file to one S3 object in equal parts: verified by the server part by part, visible only when complete."""

import base64
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_bridge.clients.s3 import Refused, stat, translated
from data_bridge.errors import BridgeError, IntegrityError, RetryableError, StoreError
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MOST_PARTS = 10_000
MIB = 1 << 20
FRESH_STARTS = 3
COMPLETIONS = 3
MD5_ETAG = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Upload:
    """What is uploaded and how. `part_bytes` is the least part size; all parts but the last have the same."""

    client: "S3Client"
    bucket: str
    key: str
    path: Path
    size: int
    sha256: str
    part_bytes: int
    parts_in_flight: int
    retry: Retry

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
            return self.client.create_multipart_upload(Bucket=self.bucket, Key=self.key)["UploadId"]


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

    def send_all(self) -> None:
        """Send every part, a few at a time, and check on the way that the file is the recorded one."""
        digest, sent = hashlib.sha256(), 0
        with ThreadPoolExecutor(self._upload.parts_in_flight, thread_name_prefix="part") as pool:
            running: set[Future[None]] = set()
            for number, data in self._blocks():
                digest.update(data)
                sent += len(data)
                if len(running) >= self._upload.parts_in_flight:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                running.add(pool.submit(self._send, number, data))
            for future in running:
                future.result()
        if sent != self._upload.size or digest.hexdigest() != self._upload.sha256:
            raise IntegrityError(f"{self._upload.path} is not the file that was recorded: its SHA-256 differs")

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

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        with self._upload.path.open("rb") as file:
            number = 0
            while data := file.read(self._part_bytes):
                number += 1
                yield number, data

    def _send(self, number: int, data: bytes) -> None:
        self._etags[number] = self._upload.retry(lambda: self._send_once(number, data))

    def _send_once(self, number: int, data: bytes) -> str:
        up = self._upload
        md5 = hashlib.md5(data, usedforsecurity=False)
        try:
            with translated(f"put part {number} of {up.key}"):
                answer = up.client.upload_part(
                    Bucket=up.bucket,
                    Key=up.key,
                    UploadId=self._id,
                    PartNumber=number,
                    Body=data,
                    ContentMD5=base64.b64encode(md5.digest()).decode(),
                )
        except Refused as refused:
            if refused.code == "NoSuchUpload":
                raise _UploadLost from refused
            if refused.code == "BadDigest":
                raise RetryableError(refused.message) from refused
            raise
        etag = answer["ETag"].strip('"')
        if is_md5(etag, answer) and etag != md5.hexdigest():
            raise RetryableError(f"put part {number} of {up.key}: the store has other bytes than were sent")
        return etag

    def _complete(self) -> None:
        parts: Any = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in sorted(self._etags.items())]
        with translated(f"complete {self._upload.key}"):
            self._upload.client.complete_multipart_upload(
                Bucket=self._upload.bucket, Key=self._upload.key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )

    def _send_missing(self) -> None:
        """Send again the parts the store does not have."""
        try:
            stored = self._upload.retry(self._stored_parts)
        except Refused as refused:
            raise _UploadLost from refused
        for number, data in self._blocks():
            if stored.get(number) != self._etags[number]:
                self._send(number, data)

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


def is_md5(etag: str, answer: Any) -> bool:
    """Whether an ETag is the MD5 of what was put: it is not under encryption with a managed key."""
    encryption = answer.get("ServerSideEncryption")
    return MD5_ETAG.fullmatch(etag) is not None and encryption in (None, "AES256") and "SSECustomerKeyMD5" not in answer
