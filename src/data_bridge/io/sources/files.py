"""Plain files as samples: one file, one sample."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from data_bridge.config import SourceOptions
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.codecs import base_name
from data_bridge.io.locations import scheme_of, shown
from data_bridge.io.sources.base import PROBE_BYTES, TARGET_BATCH_BYTES, TARGET_BATCH_ROWS
from data_bridge.io.sources.folder import describe, media_field
from data_bridge.io.sources.observed import observed_fields
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, DictRows, Media, Row, RowFailure, Token
from data_bridge.model.source import Extent, Field, FilePiece, Probe, SourceFile

PROBE_FILES = 64
"""Fields and sizes are known from the listing, so a few contents are enough."""
READERS = 8
AHEAD_FILES = 32
AHEAD_BYTES = 64_000_000
"""Remote files asked for before they are needed: at most so many, and unless there is only one, so many bytes."""


class Files:
    """Samples `{"path": name below the common folder, "image" | "audio" | "video" | "file": Media, …}`.

    `prepare` finds, once per plan, what depends on all files together: names, the one media field (`file` when kinds
    are mixed), the columns of a metadata file and, where there is none, the `label` that class folders give.
    """

    name = "files"
    counted = True
    max_file_bytes = 2_000_000_000

    def __init__(self, options: SourceOptions, transport: Transport) -> None:  # noqa: ARG002 - it has none
        self._transport = transport

    def prepare(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """The files that are samples, each with its `extra`; metadata files are used up here.

        Raises SourceError for a bad metadata file and ConfigError when nothing else is left.
        """
        samples = describe(files, self._transport)
        if files and not samples:
            raise ConfigError(
                f"{shown(files[0].uri)} describes files, but the source holds none",
                hint="name the folder with the files, or read it as data with input_format jsonl or csv",
            )
        return samples

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """One entry."""
        return [Extent(start=0, end=1, samples=1, bytes=file.size)]

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        """Exact fields (from the listing, not from the first rows), and rows of the first few MB."""
        first: list[FilePiece] = []
        budget = PROBE_BYTES
        for file in files[:PROBE_FILES]:
            budget -= file.size or 0
            if budget < 0:
                break
            first.append(FilePiece(file, 0, 1))
        rows = [row for batch in self.read(first, None) if isinstance(batch.rows, DictRows) for row in batch.rows.rows]
        sizes = [file.size for file in files if file.size is not None]
        mean = sum(sizes) / len(sizes) if sizes and len(sizes) == len(files) else None
        return Probe(_fields(files), declared=False, rows=rows, mean_sample_bytes=mean)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Tokens are `[piece number, 0]`."""
        rows: list[Row] = []
        failures: list[RowFailure] = []
        start: list[int] = []
        size = 0
        first = token[0] if token is not None else 0
        wanted = [n for n in range(first, len(pieces)) if pieces[n].start == 0 and pieces[n].end != 0]
        for number, data in zip(wanted, self._contents([pieces[n].file for n in wanted]), strict=True):
            file = pieces[number].file
            if not rows and not failures:
                start = [number, 0]
            if data:
                rows.append(_row(file, data))
            else:
                failures.append(RowFailure(len(rows) + len(failures), "empty file", shown(file.uri), b""))
            size += len(data)
            if size >= TARGET_BATCH_BYTES or len(rows) + len(failures) >= TARGET_BATCH_ROWS:
                yield Batch(start, DictRows(rows), tuple(failures))
                rows, failures, size = [], [], 0
        if rows or failures:
            yield Batch(start, DictRows(rows), tuple(failures))

    def _contents(self, files: Sequence[SourceFile]) -> Iterator[bytes]:
        """Content of file after file; those that are far away are fetched several at a time, ahead of need."""
        if len(files) < 2 or all(scheme_of(file.uri) == "file" for file in files):
            yield from map(self._content, files)
            return
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        ahead = 0
        rest = iter(files)
        following = next(rest, None)
        with ThreadPoolExecutor(READERS, thread_name_prefix="source-file") as pool:
            try:
                while following is not None or waiting:
                    while following is not None and _room(len(waiting), ahead + (following.size or 0)):
                        waiting.append((following.size or 0, pool.submit(self._content, following)))
                        ahead += following.size or 0
                        following = next(rest, None)
                    size, content = waiting.popleft()
                    yield content.result()
                    ahead -= size
            finally:
                for _, content in waiting:
                    content.cancel()

    def _content(self, file: SourceFile) -> bytes:
        self._check_size(file, file.size or 0)
        parts: list[bytes] = []
        size = 0
        for block in self._transport.blocks(file):
            parts.append(block)
            size += len(block)
            self._check_size(file, size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_size(self, file: SourceFile, size: int) -> None:
        if size > self.max_file_bytes:
            raise SourceError(
                f"{shown(file.uri)} has {size} bytes or more, a sample may have {self.max_file_bytes}",
                hint="samples are held in memory: store the file as smaller pieces, or leave it out",
            )


def _room(files: int, size: int) -> bool:
    return files == 0 or (files < AHEAD_FILES and size <= AHEAD_BYTES)


def _row(file: SourceFile, data: bytes) -> Row:
    extra: dict[str, Any] = file.extra
    name: str = extra.get("name") or base_name(file.uri)
    row: Row = {"path": name, extra.get("field") or media_field(name): Media(data, name)}
    if "label" in extra:
        row["label"] = extra["label"]
    return row | extra["metadata"] if "metadata" in extra else row


def _fields(files: Sequence[SourceFile]) -> tuple[Field, ...]:
    media = dict.fromkeys(file.extra.get("field") or media_field(base_name(file.uri)) for file in files)
    fields = [Field(name="path", type="string", nullable=False)]
    fields += [Field(name=name, type="media", nullable=len(media) > 1) for name in media]
    fields += observed_fields([{"label": file.extra["label"]} for file in files if "label" in file.extra])
    return (*fields, *observed_fields([file.extra["metadata"] for file in files if "metadata" in file.extra]))
