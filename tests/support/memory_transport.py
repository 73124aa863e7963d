"""A transport over bytes in memory whose block size the test chooses."""

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

UNDO = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


class MemoryTransport(Transport):
    """Serves `contents` by URI in blocks of exactly `block` bytes (the last one shorter)."""

    def __init__(self, contents: Mapping[str, bytes], block: int = 1 << 20) -> None:
        self.contents = dict(contents)
        self.block = block
        self.served = 0
        """Bytes handed out so far."""

    def stat(self, uri: str) -> SourceFile:
        return SourceFile(uri=uri, size=len(self.contents[uri]))

    def files(self) -> list[SourceFile]:
        return [self.stat(uri) for uri in self.contents]

    def blocks(self, file: SourceFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        return self._serve(self.contents[file.uri][start:end])

    def decoded(self, file: SourceFile, start: int = 0) -> Iterator[bytes]:
        undo = UNDO.get("." + file.uri.rsplit(".", 1)[-1], bytes)
        return self._serve(undo(self.contents[file.uri])[start:])

    def open(self, file: SourceFile) -> BinaryIO:
        return _Counted(self.contents[file.uri], self)

    def _serve(self, content: bytes) -> Iterator[bytes]:
        for lo in range(0, len(content), self.block):
            block = content[lo : lo + self.block]
            self.served += len(block)
            yield block


class _Counted(io.BytesIO):
    def __init__(self, content: bytes, transport: MemoryTransport) -> None:
        super().__init__(content)
        self._transport = transport

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._transport.served += len(data)
        return data
