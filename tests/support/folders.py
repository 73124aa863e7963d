"""Plain files, local and as if remote, and what they are read as."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.memory_transport import MemoryTransport
from support.source_contract import pieces_of, read_all

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.files import Files
from data_bridge.io.sources.folder import relative_names
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Row, RowFailure
from data_bridge.model.source import SourceFile

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def local(root: Path, contents: dict[str, bytes]) -> tuple[Files, list[SourceFile]]:
    """Files written below a folder, expanded by the real transport and prepared."""
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    transport = Transport(Settings(pipeline=PipelineSettings(input_uri=str(root))))
    reader = Files(SourceOptions(), transport)
    return reader, reader.prepare(transport.expand([str(root)]))


def remote(contents: dict[str, bytes]) -> tuple[Files, list[SourceFile]]:
    transport = Broken(contents)
    reader = Files(SourceOptions(), transport)
    return reader, reader.prepare(transport.files())


def read(reader: Files, files: Sequence[SourceFile]) -> list[Row | RowFailure]:
    return read_all(reader, pieces_of(reader, files))


def metadata(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def named(*uris: str) -> list[str]:
    return relative_names([SourceFile(uri=uri) for uri in uris])


class Broken(MemoryTransport):
    """Cannot read one of its files."""

    broken = ""

    def blocks(self, file: SourceFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if file.uri == self.broken:
            raise SourceError(f"{file.uri} is gone")
        return super().blocks(file, start, end)


def served(reader: Files) -> int:
    transport = reader._transport
    assert isinstance(transport, MemoryTransport)
    return transport.served
