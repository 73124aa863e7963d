"""Bytes set aside until what must stand before them is known: in memory while few, in an unnamed file when many."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data_bridge.pipelines.shardfile import WRITE_BYTES, Buffer
from data_bridge.utils.files import writing

MEMORY_BYTES = 64 << 20


class Spool:
    """Append, then read back once from the start; `open` starts anew, in the same memory.

    The memory is kept for the next shard, because fresh memory costs more than the copy into it. The file has no
    name, so that a killed process leaves nothing.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        self._limit = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._memory: memoryview | None = None
        self._used = 0
        self._folder = Path()
        self._file: IO[bytes] | None = None
        self.size = 0
        """Bytes written so far."""

    def open(self, folder: Path) -> "Spool":
        """Empty, with `folder` for what does not fit into the memory."""
        self.close()
        self._folder, self.size = folder, 0
        return self

    def write(self, data: Buffer) -> None:
        """Append a copy of the bytes."""
        rest = memoryview(data).cast("B")
        self.size += len(rest)
        if self._memory is None:
            self._memory = np.empty(self._limit, np.uint8).data  # pages come when they are first written to
        while rest:
            if self._used == self._limit:
                self._spill(self._memory)
            part = rest[: self._limit - self._used]
            self._memory[self._used : self._used + len(part)] = part
            self._used += len(part)
            rest = rest[len(part) :]

    def blocks(self) -> Iterator[Buffer]:
        """Everything written, in order, in pieces of any size. They hold until the spool is written to again."""
        if self._file is not None:
            with writing(self._folder):
                self._file.seek(0)
            while block := self._file.read(WRITE_BYTES):
                yield block
        if self._memory is not None:
            yield self._memory[: self._used]

    def close(self) -> None:
        """Let go of everything but the memory."""
        self._used = 0
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _spill(self, memory: memoryview) -> None:
        with writing(self._folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - close() ends it
            view = memory[: self._used]
            while view:
                view = view[self._file.write(view[:WRITE_BYTES]) :]
        self._used = 0
