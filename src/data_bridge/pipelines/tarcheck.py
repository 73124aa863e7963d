"""Proof that a shard is one whole tar archive of well-formed samples: stricter than any reader."""

import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from data_bridge.errors import IntegrityError
from data_bridge.pipelines.tarfmt import BLOCK, RECORD

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_READ_BYTES = 1 << 20
_ZEROS = bytes(BLOCK)
_MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.([a-z0-9._-]+)")


def check_tar(path: Path, output_format: str, keys: list[str] | None = None) -> int:
    """Read a shard whole and count its samples; their keys are added to `keys` where it is given.

    Raises IntegrityError naming the file and the byte (of the uncompressed archive) for: a cut or damaged
    compressed stream, a header with a wrong checksum, a cut member, missing end blocks, data behind them, a name
    that is not `<key>.<extension>`, a key that returns later, a sample whose fields differ from the first one's.
    """
    stream = _Stream(_content(path, output_format), path.name)
    fields: list[str] | None = None
    finished: set[str] = set()
    key, extensions = "", list[str]()
    for name in _names(stream):
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise stream.damaged(f"{name!r} is no member name of the form key.extension")
        if match[1] != key:
            if match[1] in finished:
                raise stream.damaged(f"members of the sample {match[1]!r} stand apart, or its key occurs twice")
            fields = _same_fields(stream, key, extensions, fields)
            finished.add(match[1])
            key, extensions = match[1], []
        extensions.append(match[2])
    _same_fields(stream, key, extensions, fields)
    if not finished:
        raise stream.damaged("the archive holds no sample")
    if keys is not None:
        keys.extend(finished)
    return len(finished)


def _same_fields(stream: "_Stream", key: str, extensions: list[str], fields: list[str] | None) -> list[str] | None:
    if not key:
        return None
    if len(set(extensions)) != len(extensions):
        raise stream.damaged(f"the sample {key!r} holds a member twice: {', '.join(extensions)}")
    if fields is not None and extensions != fields:
        raise stream.damaged(
            f"the sample {key!r} has the members {', '.join(extensions)}, the first one {', '.join(fields)}"
        )
    return extensions


def _names(stream: "_Stream") -> Iterator[str]:
    """Names of the members up to a proper end of the archive."""
    while (header := stream.take(BLOCK, "header")) != _ZEROS:
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if _octal(header[148:156]) != total or header[257:263] != b"ustar\0":
            raise stream.damaged("there is no ustar header with a right checksum")
        size = _octal(header[124:136])
        if header[156:157] != b"0" or header[345] or size is None:
            raise stream.damaged("the member is not a plain file with a short name")
        name = header[:100].rstrip(b"\0").decode("ascii", "replace")
        yield name
        stream.skip(size + -size % BLOCK, name)
    if stream.take(BLOCK, "end-of-archive block") != _ZEROS:
        raise stream.damaged("there is one end-of-archive block where two belong")
    stream.end()


def _octal(field: bytes) -> int | None:
    digits = field.rstrip(b"\0 ")
    return None if digits.translate(None, b"01234567") or not digits else int(digits, 8)


def _content(path: Path, output_format: str) -> Iterator[bytes]:
    """The archive without its compression, in blocks."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(_READ_BYTES), b"")
        if output_format == "tar.gz":
            yield from _gunzipped(blocks, path.name)
        elif output_format == "tar.zst":
            yield from _unzstd(blocks, path.name)
        else:
            yield from blocks


def _gunzipped(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for block in blocks:
            if stream.eof:
                raise IntegrityError(f"{name}: data follows the end of the gzip stream")
            yield stream.decompress(block, _READ_BYTES)
            while stream.unconsumed_tail:
                yield stream.decompress(stream.unconsumed_tail, _READ_BYTES)
    except zlib.error as error:
        raise IntegrityError(f"{name}: the gzip stream is damaged ({error})") from None
    _demand_end(stream, f"{name}: %s of the gzip stream")


def _unzstd(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    stream = zstd.ZstdDecompressor()
    try:
        for block in blocks:
            if stream.eof:
                raise IntegrityError(f"{name}: data follows the end of the zstd frame")
            yield stream.decompress(block, _READ_BYTES)
            while not stream.needs_input and not stream.eof:
                yield stream.decompress(b"", _READ_BYTES)
    except zstd.ZstdError as error:
        raise IntegrityError(f"{name}: the zstd frame is damaged ({error})") from None
    _demand_end(stream, f"{name}: %s of the zstd frame")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def _demand_end(stream: _Decompressor, message: str) -> None:
    if not stream.eof:
        raise IntegrityError(message % "the file is cut before the end")
    if stream.unused_data:
        raise IntegrityError(message % "data follows the end")


class _Stream:
    """Exact reads from blocks of any size."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        self._blocks = blocks
        self._name = name
        self._block = b""
        self._at = 0
        self._offset = 0

    def damaged(self, what: str) -> IntegrityError:
        return IntegrityError(f"{self._name}: at byte {self._offset}: {what}")

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes, a few hundred."""
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size and self._next():
            self._at = size - len(data)
            data += self._block[: self._at]
        if len(data) < size:
            raise self.damaged(f"the archive is cut: a {what} belongs here")
        self._offset += size
        return data

    def skip(self, size: int, name: str) -> None:
        """Pass over the next `size` bytes."""
        left = size
        while left > len(self._block) - self._at:
            left -= len(self._block) - self._at
            if not self._next():
                raise self.damaged(f"the member {name!r} is cut")
        self._at += left
        self._offset += size

    def end(self) -> None:
        """Nothing but zeros up to the end of the record may follow."""
        while True:
            rest = self._block[self._at :]
            if rest.count(0) != len(rest):
                raise self.damaged("data follows the end of the archive, where no reader finds it")
            self._offset += len(rest)
            if not self._next():
                break
        if self._offset % RECORD:
            raise self.damaged(f"the archive does not end at a multiple of {RECORD} bytes")

    def _next(self) -> bool:
        self._block, self._at = next(self._blocks, b""), 0
        while not self._block:
            following = next(self._blocks, None)
            if following is None:
                return False
            self._block = following
        return True
