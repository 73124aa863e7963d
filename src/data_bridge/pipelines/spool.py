"""Bytes set aside until what must stand before them is known: in memory while few, in an unnamed file when many."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_bridge.pipelines.shardfile import WRITE_BYTES, Buffer
from data_bridge.utils.files import writing

MEMORY_BYTES = 64 << 20


class Spool:
    """Append, then read back once from the start. The file has no name, so that a killed process leaves nothing."""

    def __init__(self, folder: Path, memory_bytes: int | None = None) -> None:
        self._folder = folder
        self._limit = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._pieces: list[Buffer] = []
        self._pending = 0
        self._file: IO[bytes] | None = None
        self.size = 0
        """Bytes written so far."""

    def write(self, data: Buffer) -> None:
        """Append bytes, which must not change afterwards: they are not copied."""
        self._pieces.append(data)
        self._pending += len(data)
        self.size += len(data)
        if self._pending >= self._limit:
            self._spill()

    def blocks(self) -> Iterator[Buffer]:
        """Everything written, in order, in pieces of any size."""
        if self._file is not None:
            with writing(self._folder):
                self._file.seek(0)
            while block := self._file.read(WRITE_BYTES):
                yield block
        yield from self._pieces

    def close(self) -> None:
        """Let go of everything."""
        self._pieces, self._pending = [], 0
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _spill(self) -> None:
        with writing(self._folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - close() ends it
            for piece in self._pieces:
                view = memoryview(piece).cast("B")
                while view:
                    view = view[self._file.write(view[:WRITE_BYTES]) :]
        self._pieces, self._pending = [], 0
