"""Part of a file as the body of a request, handed over in blocks of a size that suits TLS and the processor's cache."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

SEND_BYTES = 256 << 10
"""The HTTP client asks for 16 KB at a time, and every such call costs several times what encrypting them does."""


class Section:
    """Bytes [start, start + size) of a file, to be read again after `seek(0)` as a repeated request does.

    A block is a view of the one buffer this has: it is good until the next is read, which a socket does not notice.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self._file = path.open("rb", buffering=0)
        self._start = start
        self._size = os.fstat(self._file.fileno()).st_size - start if size is None else size
        self._buffer = memoryview(bytearray(min(SEND_BYTES, self._size)))
        self._at = 0

    def __len__(self) -> int:
        return self._size

    def read(self, amount: int | None = -1) -> memoryview:  # noqa: ARG002 - however little is asked for
        """The next block, whatever the amount asked for; empty at the end. Raises OSError when the file is shorter."""
        wanted = min(len(self._buffer), self._size - self._at)
        if not wanted:
            return self._buffer[:0]
        self._file.seek(self._start + self._at)
        got = self._file.readinto(self._buffer[:wanted])
        if not got:
            raise OSError(0, f"it ends at byte {self._start + self._at}, {self._start + self._size} were recorded")
        self._at += got
        return self._buffer[:got]

    def __iter__(self) -> Iterator[memoryview]:
        while block := self.read():
            yield block

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
