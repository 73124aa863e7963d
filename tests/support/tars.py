"""Tar files made by hand, and their samples."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable, Sequence

import pyarrow as pa
from support.memory_transport import MemoryTransport
from support.source_contract import good, read_all

from data_bridge.config import SourceOptions
from data_bridge.io.sources.tar import Tar
from data_bridge.model.batch import Row, RowFailure
from data_bridge.model.source import FilePiece, SourceFile

END = bytes(1024)
Entry = tuple[str, bytes]
SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": gzip.compress,
    "tgz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def pack(entries: Sequence[Entry | tarfile.TarInfo], format_: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of files (name, content) and of other members as TarInfo, with the usual 10 KiB blocking."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry, io.BytesIO(bytes(entry.size)) if entry.isreg() else None)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def other(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def header(name: bytes, size_field: bytes, kind: bytes = b"0") -> bytes:
    """A hand-made header with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size_field)] = size_field
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def make(contents: dict[str, bytes], block: int = 1 << 20) -> tuple[Tar, list[SourceFile]]:
    transport = MemoryTransport(contents, block)
    return Tar(SourceOptions(), transport), transport.files()


def read(content: bytes, name: str = "mem/a.tar", block: int = 1 << 20) -> list[Row | RowFailure]:
    tar, files = make({name: content}, block)
    return read_all(tar, [FilePiece(file) for file in files])


def rows(content: bytes) -> list[Row]:
    every = read(content)
    assert good(every) == every, "unexpected failures"
    return good(every)


def failures(every: Sequence[Row | RowFailure]) -> list[RowFailure]:
    return [one for one in every if isinstance(one, RowFailure)]


def photos(count: int, first: int = 0, size: int = 700) -> list[Entry]:
    rng = random.Random(first)
    return [
        entry
        for n in range(first, first + count)
        for entry in ((f"set/{n:05d}.jpg", rng.randbytes(rng.randrange(size))), (f"set/{n:05d}.seg.png", b"%d" % n))
    ]


def grouped(entries: Sequence[Entry]) -> list[Row]:
    """Jpg and seg.png pairs as rows."""
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return [{"__key__": a[0].partition(".")[0], "jpg": a[1], "seg.png": b[1]} for a, b in pairs]
