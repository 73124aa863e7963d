"""Files of lines: byte ranges that own the lines starting in them, whole-line buffers, wrong formats told at once."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.codecs import is_compressed
from data_bridge.io.locations import shown
from data_bridge.io.sources.base import TARGET_BATCH_BYTES, TARGET_BATCH_ROWS, read_each
from data_bridge.io.sources.observed import PROBE_FILES, observe
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, Token
from data_bridge.model.source import Extent, FilePiece, Probe, SourceFile

MAX_LINE_BYTES = 256_000_000
"""A longer line or record is taken for a file without line ends."""
HEAD_BYTES = 65_536
"""How much of a file is looked at to tell its format."""
BOM = b"\xef\xbb\xbf"

BUFFER_BYTES = 1_000_000
"""Lines looked for together. The allocator gives buffers of this size out again; larger ones are new memory each time."""

_FIRST_TAIL_BYTES = 65_536
_NEWLINE, _RETURN = 10, 13
_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x1f\x8b", "gzip data without a .gz name"),
    (b"\x28\xb5\x2f\xfd", "zstd data without a .zst name"),
    (b"BZh", "bzip2 data without a .bz2 name"),
    (b"\xfd7zXZ\0", "xz data without an .xz name"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF-", "a PDF document"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)


@dataclass(frozen=True)
class Buffer:
    """Whole lines of one file. `offset` is the position of `data[0]` in the decoded content."""

    offset: int
    data: bytes
    line: int | None
    """Number of the first line, from 1; None when reading began in the middle of the file."""

    @cached_property
    def newlines(self) -> NDArray[np.int64]:
        """Position in `data` of every newline."""
        return np.flatnonzero(np.frombuffer(self.data, np.uint8) == _NEWLINE)


class LineFormat:
    """What formats of lines have in common. The token is the byte offset of a line in the decoded content.

    `buffer_bytes` is how much is read and looked at together; it moves batches but never samples.
    """

    name: str
    counted = False
    wanted: ClassVar[str]
    """What the format is called in messages."""

    def __init__(
        self,
        options: SourceOptions,  # noqa: ARG002 -- every format is made in the same way
        transport: Transport,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self._transport = transport
        self._buffer_bytes = buffer_bytes
        self._max_line_bytes = max_line_bytes

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """Any byte of an uncompressed file is a legal cut. Only local files are looked into: for remote ones
        that would be a request each, and `probe` and `read` refuse a wrong format too."""
        if file.mtime_ns is not None and file.size:
            self._refuse_wrong(head_of(self._transport, file), file)
        return line_extents(file)

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        first = files[:PROBE_FILES]
        return observe(first, (batch for file in first for batch in self._read_piece(FilePiece(file), None)))

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        return read_each(self._read_piece, pieces, token)

    def _read_piece(self, piece: FilePiece, token: Token | None) -> Iterator[Batch]:
        start = piece.start if token is None else int(token)
        whole_lines = buffers(
            self._transport, piece.file, start, piece.end,
            at_line=token is not None, minimum=self._buffer_bytes, limit=self._max_line_bytes,
        )  # fmt: skip
        for buffer in whole_lines:
            if buffer.offset == 0:
                self._refuse_wrong(buffer.data[:HEAD_BYTES], piece.file)
            yield from self._batches(buffer, piece.file)

    @abstractmethod
    def _refuse_wrong(self, head: bytes, file: SourceFile) -> None:
        """Raise SourceError when the first bytes of a file cannot be those of the format."""

    @abstractmethod
    def _batches(self, buffer: Buffer, file: SourceFile) -> Iterator[Batch]:
        """The samples of a buffer."""


def line_extents(file: SourceFile) -> Sequence[Extent]:
    """The whole file: cut anywhere when its stored bytes are its lines, in one piece when they are not."""
    if file.size == 0:
        return ()
    if file.size is None or is_compressed(file.uri):
        return (Extent(start=0, end=None, bytes=file.size),)
    return (Extent(start=0, end=file.size, bytes=file.size, divisible=True),)


def buffers(
    transport: Transport,
    file: SourceFile,
    start: int = 0,
    end: int | None = None,
    *,
    at_line: bool = False,
    minimum: int = BUFFER_BYTES,
    limit: int = MAX_LINE_BYTES,
) -> Iterator[Buffer]:
    """The lines that start in [start, end), in buffers of whole lines of about `minimum` bytes.

    A line starts at 0 and after every newline; `at_line` says that one is known to start at `start`. Only the
    last line may lack its newline. A byte order mark at position 0 is in the first buffer.
    Raises SourceError for a line longer than `limit`.
    """
    if end is not None and start >= end:
        return
    skipping = start > 0 and not at_line
    offset = start - 1 if skipping else start
    parts: list[bytes] = []
    size = unended = 0
    line: int | None = 1 if start == 0 else None
    for whole in _owned_blocks(transport, file, offset, end):
        block = whole
        if skipping:
            after = whole.find(b"\n") + 1
            skipping = not after
            block = whole[after or len(whole) :]
            offset += len(whole) - len(block)
            if not block:
                continue
        after = block.rfind(b"\n") + 1
        unended = len(block) - after if after else unended + len(block)
        size += len(block)
        if unended > limit:
            raise SourceError(
                f"{shown(file.uri)} byte {offset + size - unended}: a line is longer than {limit:,} bytes",
                hint="this is probably not a file of lines: set pipeline.input_format",
            )
        if after and size >= minimum:
            buffer = Buffer(offset, b"".join([*parts, memoryview(block)[:after]]), line)
            yield buffer
            offset += len(buffer.data)
            line = line + len(buffer.newlines) if line is not None else None
            parts, size = [block[after:]], len(block) - after
        else:
            parts.append(block)
    if size:
        yield Buffer(offset, b"".join(parts), line)


def _owned_blocks(transport: Transport, file: SourceFile, start: int, end: int | None) -> Iterator[bytes]:
    """Content from `start`, up to the newline at or after `end - 1`."""
    if end is None or file.size is None:
        yield from (transport.decoded if is_compressed(file.uri) else transport.blocks)(file, start)
        return
    last = b""
    for block in transport.blocks(file, start, end):
        last = block or last
        yield block
    step = _FIRST_TAIL_BYTES
    while not last.endswith(b"\n") and end < file.size:
        stop = min(end + step, file.size)
        for block in transport.blocks(file, end, stop):
            after = block.find(b"\n") + 1
            yield block[:after] if after else block
            if after:
                return
        end, step = stop, step * 2


def position(buffer: Buffer, start: int) -> int:
    """Token of the line at `data[start]`. The first line of a file starts before its byte order mark."""
    return 0 if buffer.offset == 0 and start == len(BOM) and buffer.data.startswith(BOM) else buffer.offset + start


def line_spans(buffer: Buffer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of every line in `data`, without line end and byte order mark: int64, shape (lines,)."""
    data = buffer.data
    if buffer.offset == 0 and data == BOM:
        data = b""
    every, newlines = np.frombuffer(data, np.uint8), buffer.newlines
    ends = newlines if data.endswith(b"\n") or not data else np.append(newlines, len(data))
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = newlines[: len(ends) - 1] + 1
    nonempty = ends > starts
    ends = ends - (nonempty & (every[np.maximum(ends - 1, 0)] == _RETURN)) if len(ends) else ends
    if buffer.offset == 0 and data.startswith(BOM):
        starts[0] = len(BOM)
    return starts, ends


def cuts(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs [lo, hi) of spans, each of a batch's size: at most TARGET_BATCH_ROWS and about TARGET_BATCH_BYTES."""
    lo, count = 0, len(starts)
    while lo < count:
        left = count - lo
        even = -(-left // -(-left // TARGET_BATCH_ROWS))  # a small rest would cost as many calls as a full batch
        within = int(np.searchsorted(ends, int(starts[lo]) + TARGET_BATCH_BYTES, side="right"))
        hi = min(lo + even, max(lo + 1, within))
        yield lo, hi
        lo = hi


def place(buffer: Buffer, file: SourceFile, start: int, lines_before: int) -> str:
    """Position of the line at `data[start]` for a person: its number where it is known, otherwise its byte."""
    if buffer.line is None:
        return f"{shown(file.uri)} byte {buffer.offset + start}"
    return f"{shown(file.uri)} line {buffer.line + lines_before}"


def invalid_utf8(raw: bytes) -> str | None:
    """Why the bytes are not UTF-8, or None when they are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"invalid UTF-8: {error.reason} at byte {error.start} (0x{raw[error.start]:02x})"
    return None


def head_of(transport: Transport, file: SourceFile, size: int = HEAD_BYTES) -> bytes:
    """The first `size` bytes of the content, fewer where it has no more."""
    parts: list[bytes] = []
    got = 0
    sized = file.size is not None and not is_compressed(file.uri)
    for block in transport.blocks(file, 0, min(size, file.size or 0)) if sized else transport.decoded(file):
        parts.append(block)
        got += len(block)
        if got >= size:
            break
    return b"".join(parts)[:size]


def refuse_binary(head: bytes, file: SourceFile, wanted: str) -> None:
    """Raise SourceError when the first bytes are not those of any text file."""
    found = next((what for magic, what in _MAGIC if head.startswith(magic)), None)
    if found is None and head[257:262] == b"ustar":
        found = "a tar archive"
    if found is None and head.count(0) * 10 > len(head):
        found = "binary data or UTF-16 text"
    if found is not None:
        raise wrong_format(file, wanted, found)


def refuse_html(head: bytes, file: SourceFile, wanted: str) -> None:
    """Raise SourceError for a web page, which is what a server gives out instead of an error."""
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml)", head, re.IGNORECASE):
        raise wrong_format(file, wanted, "a web page or XML")


def wrong_format(file: SourceFile, wanted: str, found: str, hint: str = "") -> SourceError:
    return SourceError(
        f"{shown(file.uri)} is not {wanted}: it is {found}",
        hint=hint or "set pipeline.input_format to what the file is, or give it the right extension",
    )
