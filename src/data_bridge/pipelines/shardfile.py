"""One local shard file being written: large writes, a running SHA-256, an optional compressor, whole or absent."""

import hashlib
import os
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from data_bridge.runtime.threads import Behind
from data_bridge.utils.files import writing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WRITE_BYTES = 1 << 20
"""Bytes per system call: calls of many MB cost several times the kernel time."""
BEHIND_BYTES = 4 << 20
"""Bytes that wait for the thread that writes them."""
STAGE_BYTES = 1 << 18
"""A compressor is always fed blocks of exactly this size: its output must not depend on who wrote how much at once."""

Buffer: TypeAlias = bytes | bytearray | memoryview


class Compressor(Protocol):
    """A byte stream transformed on its way to the file."""

    def compress(self, data: Buffer, /) -> bytes: ...

    def flush(self) -> bytes:
        """The rest of the output; nothing may be compressed after."""
        ...


class Gzip:
    """A gzip member without time, name or platform in its header: the same input gives the same bytes."""

    LEVEL = 6

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(self.LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
        self._crc = 0
        self._size = 0

    def compress(self, data: Buffer, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        header, self._header = self._header, b""
        return header + self._deflate.compress(data)

    def flush(self) -> bytes:
        return self._header + self._deflate.flush() + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)


class Zstd:
    """One zstd frame with a content checksum."""

    LEVEL = 3

    def __init__(self) -> None:
        parameter = zstd.CompressionParameter
        self._stream = zstd.ZstdCompressor(
            options={parameter.compression_level: self.LEVEL, parameter.checksum_flag: 1}
        )

    def compress(self, data: Buffer, /) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush()


class ShardFile:
    """A new file that ends either complete and hashed (`close`) or not there at all (`abort`).

    Making it durable is left to the store that takes it, so that packing never waits for the disk. With `behind`, a
    thread compresses, hashes and writes: that releases the interpreter's lock and takes as long as packing itself.
    What goes wrong there is raised by the next `write` or by `close`.
    Opened exclusively: two attempts never share a file. Raises DiskFullError when the device is full and
    FatalError for every other refusal of the operating system, both naming the file.
    """

    def __init__(self, path: Path, compressor: Callable[[], Compressor] | None = None, *, behind: bool = False) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far, after compression; those still in memory are not counted."""
        self._hash = hashlib.sha256()
        self._pending: list[Buffer] = []
        self._pending_size = 0
        self._rest: Buffer = b""
        self._compressor = compressor() if compressor is not None else None
        self._limit = WRITE_BYTES if compressor is None else STAGE_BYTES
        with writing(self.path):
            self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._behind = Behind(self._store, BEHIND_BYTES) if behind else None

    def write(self, data: Buffer) -> None:
        """Append bytes. `data` must not change until the file is closed: small pieces are kept, not copied."""
        if self._compressor is None and self._pending_size + len(data) >= WRITE_BYTES and len(data) >= WRITE_BYTES // 4:
            self._flush()
            self._hand_on(data)
            return
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= self._limit:
            self._flush()

    def close(self) -> tuple[int, str]:
        """Write what is left and close. Returns the file's size in bytes and the hex SHA-256 of its content."""
        try:
            self._flush()
            if self._behind is not None:
                self._behind.end()
            if self._compressor is not None:
                self._emit(self._compressor.compress(self._rest))
                self._emit(self._compressor.flush())
            with writing(self.path):
                fd = self._open_fd()
                self._fd = None
                os.close(fd)
        except BaseException:
            self.abort()
            raise
        self._pending, self._rest = [], b""
        return self.size, self._hash.hexdigest()

    def abort(self) -> None:
        """Close and remove the file; nothing happens when it is closed already."""
        self._pending, self._pending_size = [], 0
        if self._behind is not None:
            self._behind.drop()
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with suppress(OSError):
            os.close(fd)
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _flush(self) -> None:
        if self._pending:
            block: Buffer = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending, self._pending_size = [], 0
            self._hand_on(block)

    def _hand_on(self, block: Buffer) -> None:
        self._open_fd()
        if self._behind is None:
            self._store(block)
        else:
            self._behind.put(block, len(block))

    def _store(self, block: Buffer) -> None:
        if self._compressor is None:
            self._emit(block)
            return
        view = memoryview(b"".join((self._rest, block)) if self._rest else block)
        whole = len(view) - len(view) % STAGE_BYTES
        for start in range(0, whole, STAGE_BYTES):
            self._emit(self._compressor.compress(view[start : start + STAGE_BYTES]))
        self._rest = view[whole:]

    def _emit(self, data: Buffer) -> None:
        fd = self._fd
        assert fd is not None, "the thread behind ends before the file is closed"
        view = memoryview(data).cast("B")
        with writing(self.path):
            for start in range(0, len(view), WRITE_BYTES):
                block = view[start : start + WRITE_BYTES]
                self._hash.update(block)
                done = 0
                while done < len(block):
                    done += os.write(fd, block[done:])
        self.size += len(view)

    def _open_fd(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path.name} is closed")
        return self._fd
