"""Arrow IPC: files (Feather v2) and streams, read one record batch at a time, any row addressable."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from data_bridge.errors import SourceError
from data_bridge.io.sources.arrow_messages import FILE_MAGIC, batches_of_file, batches_of_stream
from data_bridge.io.sources.arrow_rows import cut, path_of, plain_batch
from data_bridge.io.sources.arrow_schema import plain_schema, reading
from data_bridge.io.sources.columnar import Columnar, PieceRows, Run, windows
from data_bridge.model.batch import Batch
from data_bridge.model.source import FilePiece, SourceFile

MAPPED_BYTES = 64_000_000
"""Local files with a record batch larger than this are mapped, not read, so that memory stays bounded."""


class _Opened(msgspec.Struct, frozen=True):
    """An open file. `reader` is for a file or for a stream whose batches need its dictionaries; then it is read in order."""

    source: Any
    schema: pa.Schema
    stream: bool


class ArrowFile(Columnar):
    """Reads Arrow IPC files and streams.

    Counting reads the header of every record batch, not the batches: a local file of 1,000 batches costs some
    milliseconds, a remote one as many small ranged reads; the planner does it once. A batch is decoded whole: the
    memory needed is that of the file's largest batch.
    """

    name = "arrow"
    kept_open = 32

    def _scan(self, file: SourceFile) -> tuple[list[Run], pa.Schema]:
        with self._opened(file, 0) as opened:
            schema, is_stream = opened.schema, opened.stream
        with self._transport.open(file) as stream:
            return (batches_of_stream if is_stream else batches_of_file)(stream, file.uri), schema

    @contextmanager
    def _reading(self, file: SourceFile) -> Generator[tuple[pa.Schema, PieceRows]]:
        batches = self._runs(file)
        with self._opened(file, max((b.bytes for b in batches), default=0)) as opened:
            yield opened.schema, partial(_rows, opened, batches)

    @contextmanager
    def _opened(self, file: SourceFile, largest: int) -> Generator[_Opened]:
        with self._transport.open(file) as stream:
            head = _head(stream, file.uri)
            with reading(file.uri, "Arrow"):
                source = _native(stream, largest)
                is_stream = head[:6] != FILE_MAGIC
                schema = (pa.ipc.open_stream if is_stream else pa.ipc.open_file)(source).schema
                yield _Opened(source, schema, is_stream)


def _head(stream: BinaryIO, uri: str) -> bytes:
    head = stream.read(8)
    stream.seek(0)
    if head[:4] == b"FEA1":
        raise SourceError(
            f"{uri}: Feather version 1 is not read",
            hint="rewrite it: pyarrow.feather.write_feather(read_table(old), new)",
        )
    if head[:6] != FILE_MAGIC and head[:4] != b"\xff\xff\xff\xff":
        raise SourceError(
            f"{uri}: not an Arrow IPC file or stream", hint="name the format of the file with pipeline.input_format"
        )
    return head


def _native(stream: Any, largest: int) -> Any:
    """The file as Arrow reads it."""
    path = path_of(stream)
    if path is None:
        return pa.PythonFile(stream, mode="r")
    return pa.memory_map(path) if largest > MAPPED_BYTES else pa.OSFile(path, "rb")


def _rows(
    opened: _Opened, batches: Sequence[Run], piece: FilePiece, names: Sequence[str], row: int | None
) -> Iterator[Batch]:
    """Batches of one piece from a row of the file on; `start` is the row number."""
    wanted = windows([batch.rows for batch in batches], piece, row)
    plain = plain_schema(opened.schema)
    schema = pa.schema([plain.field(name) for name in names])
    stored = _stored(opened, piece.file.uri, batches, [window.number for window in wanted])
    for window, raw in zip(wanted, stored, strict=True):
        with reading(f"{piece.file.uri} record batch {window.number}", "Arrow"):
            raw.validate(full=False)
            rows = plain_batch(raw.slice(window.start - window.first, window.end - window.start), schema)
            yield from cut(rows, window.start, piece.file.uri)


def _stored(opened: _Opened, uri: str, batches: Sequence[Run], numbers: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """The record batches of these ascending numbers as they are stored."""
    if not numbers:
        return
    if opened.stream and _has_dictionaries(opened.schema):
        yield from _from_stream_start(opened, uri, numbers)
        return
    file = None if opened.stream else pa.ipc.open_file(_rewound(opened.source))
    for number in numbers:
        with reading(f"{uri} record batch {number}", "Arrow"):
            if file is not None:
                raw = file.get_batch(number)
            else:
                opened.source.seek(batches[number].at)
                raw = pa.ipc.read_record_batch(pa.ipc.read_message(opened.source), opened.schema)
            if raw.num_rows != batches[number].rows:
                raise SourceError(
                    f"{uri} record batch {number}: the header and the batch differ", hint="replace the file"
                )
        yield raw


def _from_stream_start(opened: _Opened, uri: str, numbers: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Dictionaries stand between the batches of a stream and may be replaced: read it in order."""
    with reading(uri, "Arrow"):
        reader = pa.ipc.open_stream(_rewound(opened.source))
        for number in range(numbers[-1] + 1):
            raw = reader.read_next_batch()
            if number >= numbers[0]:
                yield raw


def _rewound(source: Any) -> Any:
    source.seek(0)
    return source


def _has_dictionaries(schema: pa.Schema) -> bool:
    return any("dictionary<" in str(field.type) for field in schema)
