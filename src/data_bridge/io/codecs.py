"""Compression of source files: which one a name stands for, and its undoing as a checked stream.

A compressed file ends where its last member (gzip), frame (zstd) or stream (bzip2, xz) ends. Ending earlier, or
going on with anything else than padding, is a SourceError: a cut file never passes for a shorter one.
"""

import posixpath
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol, cast
from urllib.parse import unquote, urlsplit

from data_bridge.errors import SourceError

BLOCK_BYTES = 1 << 20
"""Size of the blocks that readers hand on, about."""
_FEED_BYTES = 1 << 17  # input per call: what is left after a member ends is copied, so keep it small

_SUFFIXES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        ".gz": ("gzip", ""),
        ".gzip": ("gzip", ""),
        ".tgz": ("gzip", ".tar"),
        ".bz2": ("bzip2", ""),
        ".tbz2": ("bzip2", ".tar"),
        ".tbz": ("bzip2", ".tar"),
        ".xz": ("xz", ""),
        ".txz": ("xz", ".tar"),
        ".zst": ("zstd", ""),
        ".zstd": ("zstd", ""),
        ".tzst": ("zstd", ".tar"),
    }
)
_LINE_EXTENSIONS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".text", ".log", ".lines"})
_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_HEADER_BYTES = 10
_GZIP_LONGEST_HEADER = 1 << 20
_GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT = 0x04, 0x08, 0x10
_GZIP_ODD = 0xE2  # reserved flags, and that of a header with a checksum
_ZSTD_WINDOW_LOG_MAX = 31  # `zstd --long=31` is how some public dumps are packed


def base_name(uri: str) -> str:
    """Last part of a path or URI; of an http(s) URL without its query, percent escapes undone."""
    if uri.startswith(("https://", "http://")):
        return posixpath.basename(unquote(urlsplit(uri).path))
    return posixpath.basename(uri)


def codec_of(uri: str) -> str | None:
    """`gzip`, `bzip2`, `xz`, `zstd` or None, by the name's last extension."""
    return _SUFFIXES.get(_last_extension(base_name(uri)), (None, ""))[0]


def is_compressed(uri: str) -> bool:
    return codec_of(uri) is not None


def stem_extension(uri: str) -> str:
    """Extension of the content in lower case, compression looked through: `.jsonl` for `a.jsonl.gz`, `.tar` for `a.tgz`."""
    name = base_name(uri)
    extension = _last_extension(name)
    if extension not in _SUFFIXES:
        return extension
    return _SUFFIXES[extension][1] or _last_extension(name[: -len(extension)])


def looks_like_lines(uri: str) -> bool:
    """Whether the name is of an uncompressed file of lines, which may grow by appending."""
    return not is_compressed(uri) and stem_extension(uri) in _LINE_EXTENSIONS


def _last_extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def decompressed(blocks: Iterator[bytes], codec: str, name: str) -> Iterator[bytes]:
    """Content of a compressed stream in blocks of about 1 MB. `name` is what errors call the file.

    Raises SourceError when the stream is corrupt, ends inside a member, or has something else after it.
    """
    new, bad = _CODECS[codec]()
    stream = _Members(new, bad, codec, name)
    ready: list[bytes] = []
    size = 0
    for block in blocks:
        view = memoryview(block)
        for at in range(0, len(view), _FEED_BYTES):
            for piece in stream.feed(bytes(view[at : at + _FEED_BYTES])):
                ready.append(piece)
                size += len(piece)
                if size >= BLOCK_BYTES:
                    yield ready[0] if len(ready) == 1 else b"".join(ready)
                    ready, size = [], 0
    stream.end()
    if ready:
        yield b"".join(ready)


def skipped(blocks: Iterator[bytes], count: int, name: str) -> Iterator[bytes]:
    """The stream without its first `count` bytes. Raises SourceError when it has fewer."""
    left = count
    for block in blocks:
        if left < len(block):
            yield block[left:] if left else block
            left = 0
        else:
            left -= len(block)
    if left:
        raise SourceError(
            f"{name}: reading should go on at decoded byte {count}, but it has {count - left}",
            hint="the file is not the one the run began with; start over with a new destination or --fresh",
        )


class _Decoder(Protocol):
    """One member, frame or stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Members:
    """Decodes member after member of one compressed file, and knows whether it may end here."""

    def __init__(self, new: Callable[[], _Decoder], bad: tuple[type[Exception], ...], codec: str, name: str) -> None:
        self._new = new
        self._bad = bad
        self._codec = codec
        self._name = name
        self._decoder: _Decoder | None = None
        self._members = 0
        self._produced = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decoded pieces, each at most about 1 MB however well the input was compressed."""
        while data or (self._decoder is not None and not self._decoder.needs_input):
            if self._decoder is None:
                data = data.lstrip(b"\0") if self._members else data  # archivers pad the last member with zeros
                if not data:
                    return
                self._decoder = self._new()
            piece = self._decode(self._decoder, data)
            self._produced += len(piece)
            if piece:
                yield piece
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data
                self._decoder = None
                self._members += 1

    def _decode(self, decoder: _Decoder, data: bytes) -> bytes:
        try:
            return decoder.decompress(data, BLOCK_BYTES)
        except self._bad as error:
            after = f" after {self._members} good one(s)" if self._members else ""
            raise SourceError(
                f"{self._name}: corrupt {self._codec} data{after}, decoded byte {self._produced}: {error}",
                hint="the file is damaged or its extension is wrong; fetch it again or rename it",
            ) from error

    def end(self) -> None:
        if self._decoder is not None or not self._members:
            raise SourceError(
                f"{self._name}: the {self._codec} data ends too early, at decoded byte {self._produced}",
                hint="the file was cut while it was written or copied; fetch it again",
            )


class _Gzip:
    """ISA-L's decoder: what `zlib` gives and refuses, in less than half the time.

    ISA-L misreads headers that come in pieces, so it is given whole ones; a header with a checksum or reserved flags,
    which ISA-L misjudges or passes over, makes its member one for `zlib`.
    """

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Decoder | None = None

    @property
    def eof(self) -> bool:
        return self._inner is not None and self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner is None or self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return b"" if self._inner is None else self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._inner is None:
            data = self._head + data
            self._inner = _gzip_decoder(data)
            if self._inner is None:
                self._head = data
                return b""
            self._head = b""
        return self._inner.decompress(data, max_length)


def _gzip_decoder(data: bytes) -> "_Decoder | None":
    """The decoder for a member that begins so; None = more of its header is needed to tell."""
    from isal import igzip_lib

    flags, end = data[3] if len(data) >= _GZIP_HEADER_BYTES else 0, _GZIP_HEADER_BYTES
    if not _GZIP_MAGIC.startswith(data[:3]) or flags & _GZIP_ODD:
        return _ZlibGzip()
    if flags & _GZIP_EXTRA:
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for _ in range(bool(flags & _GZIP_NAME) + bool(flags & _GZIP_COMMENT)):
        end = data.find(b"\0", end) + 1 or len(data) + 1
    if end <= len(data):
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return None if len(data) < _GZIP_LONGEST_HEADER else _ZlibGzip()


class _ZlibGzip:
    """`zlib`'s decoder with the face of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(max_length, 0))


_Codec = tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]


def _gzip() -> _Codec:
    from isal import igzip_lib

    # its stubs declare the error class as an instance
    return _Gzip, (zlib.error, cast("type[Exception]", igzip_lib.IsalError))


def _bzip2() -> _Codec:
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError)


def _xz() -> _Codec:
    import lzma

    return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ), (lzma.LZMAError,)


def _zstd() -> _Codec:
    import importlib
    import sys

    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)


_CODECS: Mapping[str, Callable[[], _Codec]] = MappingProxyType(
    {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}
)
