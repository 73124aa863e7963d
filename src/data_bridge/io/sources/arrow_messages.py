"""Where the record batches of an Arrow IPC file or stream stand and how many rows each has, without reading them.

pyarrow tells neither without loading every batch; the headers are small flatbuffers, of which we need four numbers.
"""

import struct
from typing import BinaryIO

from data_bridge.errors import SourceError
from data_bridge.io.sources.columnar import Run

FILE_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_BLOCK = struct.Struct("<qi4xq")
_SCHEMA, _DICTIONARY, _RECORD_BATCH = 1, 2, 3


def batches_of_file(stream: BinaryIO, uri: str) -> list[Run]:
    """The batches of an IPC file in the order of its footer. Raises SourceError for a cut or damaged file."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 10))
    tail = stream.read(10)
    if len(tail) < 10 or tail[4:] != FILE_MAGIC:
        raise _damaged(uri, "its footer is missing: the file is cut or was never closed")
    length = struct.unpack("<i", tail[:4])[0]
    if not 0 < length <= size - 10:
        raise _damaged(uri, "its footer is damaged")
    stream.seek(size - 10 - length)
    footer = stream.read(length)
    try:
        blocks = [_BLOCK.unpack_from(footer, at) for at in _vector(footer, _root(footer), 3, _BLOCK.size)]
    except (struct.error, IndexError) as error:
        raise _damaged(uri, "its footer is damaged") from error
    return [_batch_at(stream, uri, *block) for block in blocks]


def _batch_at(stream: BinaryIO, uri: str, offset: int, header_bytes: int, body_bytes: int) -> Run:
    stream.seek(max(0, offset))
    header = stream.read(max(0, header_bytes))
    try:
        kind, rows, _ = _message(header[8:] if header[:4] == _CONTINUATION else header[4:])
    except (struct.error, IndexError) as error:
        raise _damaged(uri, f"the record batch at byte {offset} is damaged") from error
    if len(header) != header_bytes or kind != _RECORD_BATCH or rows < 0 or body_bytes < 0:
        raise _damaged(uri, f"there is no record batch at byte {offset}")
    return Run(rows, header_bytes + body_bytes, offset)


def batches_of_stream(stream: BinaryIO, uri: str) -> list[Run]:
    """The batches of an IPC stream. Raises SourceError where it does not end with its end marker.

    The marker is optional in the format, but without it a cut stream cannot be told from a whole one.
    """
    size = stream.seek(0, 2)
    found: list[Run] = []
    at = 0
    while True:
        stream.seek(at)
        prefix = stream.read(8)
        if len(prefix) < 8 or prefix[:4] != _CONTINUATION:
            raise _damaged(uri, f"the stream breaks off at byte {at}, before its end marker")
        header_bytes = struct.unpack("<i", prefix[4:])[0]
        if header_bytes == 0:
            return found
        header = stream.read(max(0, header_bytes))
        try:
            kind, rows, body_bytes = _message(header)
        except (struct.error, IndexError) as error:
            raise _damaged(uri, f"the message at byte {at} is damaged") from error
        end = at + 8 + header_bytes + body_bytes
        if len(header) < header_bytes or body_bytes < 0 or header_bytes < 0 or end > size:
            raise _damaged(uri, f"the message at byte {at} is cut")
        if (kind == _SCHEMA) != (at == 0) or kind not in (_SCHEMA, _DICTIONARY, _RECORD_BATCH):
            raise _damaged(uri, f"there is no record batch at byte {at}")
        if kind == _RECORD_BATCH:
            found.append(Run(rows, end - at, at))
        at = end


def _damaged(uri: str, what: str) -> SourceError:
    return SourceError(f"{uri}: {what}", hint="replace the file; a writer that was closed properly ends it")


def _message(header: bytes) -> tuple[int, int, int]:
    """Kind of the message, rows where it is a record batch (else 0), bytes of its body."""
    root = _root(header)
    kind_at, header_at, body_at = (_field(header, root, number) for number in (1, 2, 3))
    kind = header[kind_at] if kind_at else 0
    body = struct.unpack_from("<q", header, body_at)[0] if body_at else 0
    if kind != _RECORD_BATCH or not header_at:
        return kind, 0, body
    batch = header_at + struct.unpack_from("<I", header, header_at)[0]
    rows_at = _field(header, batch, 0)
    rows = struct.unpack_from("<q", header, rows_at)[0] if rows_at else 0
    columns = _vector(header, batch, 1, 16)
    length = struct.unpack_from("<q", header, columns[0])[0] if columns else rows
    if length != rows or (body and not columns):
        raise struct.error("the columns are not as long as the batch")
    return kind, rows, body


def _root(buffer: bytes) -> int:
    return int(struct.unpack_from("<I", buffer, 0)[0])


def _field(buffer: bytes, table: int, number: int) -> int:
    """Position of a field of a flatbuffer table, 0 when it has its default."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, vtable)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", buffer, vtable + slot)[0] if slot < size else 0
    return table + offset if offset else 0


def _vector(buffer: bytes, table: int, number: int, item_bytes: int) -> range:
    """Positions of the items of a vector of structs."""
    at = _field(buffer, table, number)
    if not at:
        return range(0)
    at += struct.unpack_from("<I", buffer, at)[0]
    count = struct.unpack_from("<I", buffer, at)[0]
    return range(at + 4, at + 4 + count * item_bytes, item_bytes)
