"""What the server of `benchmarks.sink` holds, and what it knows of bodies."""

import base64
import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from benchmarks.sink import SOURCE


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: how large it was, and its bytes where they were kept or lie in a file."""

    size: int
    etag: str
    body: bytes | None = None
    path: Path | None = None


@dataclass
class Store:
    """Everything the server knows."""

    folder: Path | None
    keep: int
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, Stored]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, key: str) -> Stored | None:
        bucket, _, rest = key.partition("/")
        if bucket == SOURCE and self.folder is not None:
            path = self.folder / rest
            if not rest or ".." in path.parts or not path.is_file():
                return None
            there = path.stat()
            return Stored(there.st_size, f"{there.st_mtime_ns:x}-{there.st_size:x}", path=path)
        return self.objects.get(key)

    def list(self, bucket: str, prefix: str) -> Iterator[tuple[str, Stored]]:
        if bucket == SOURCE and self.folder is not None:
            names = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]
            found = {f"{SOURCE}/{name}": self.find(f"{SOURCE}/{name}") for name in names}
        else:
            found = dict(self.objects)
        for key in sorted(found):
            there = found[key]
            if key.startswith(f"{bucket}/{prefix}") and there is not None:
                yield key.partition("/")[2], there


class Refusal(Exception):
    """An error as S3 tells it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


def unchunked(body: bytes) -> bytes:
    """The content of an `aws-chunked` body."""
    parts, at = list[bytes](), 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


def check_sums(body: bytes, headers: Message) -> None:
    """Raise a Refusal for a checksum in the headers that is not the body's."""
    sums: dict[str, Callable[[], bytes]] = {
        "x-amz-checksum-sha256": lambda: hashlib.sha256(body).digest(),
        "x-amz-checksum-crc32": lambda: zlib.crc32(body).to_bytes(4, "big"),
        "Content-MD5": lambda: hashlib.md5(body).digest(),
    }
    for name, digest in sums.items():
        told = headers.get(name)
        if told is not None and told != base64.b64encode(digest()).decode():
            raise Refusal(400, "BadDigest")
