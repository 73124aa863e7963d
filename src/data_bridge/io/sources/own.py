"""Samples that a function or class of the user's own gives."""

from collections.abc import Iterator, Sequence
from typing import Any

from data_bridge.config import SourceOptions, with_open_secrets
from data_bridge.errors import BridgeError, SourceError
from data_bridge.io.own import SourceStage, fields_of, part_of, source_of
from data_bridge.io.sources.base import PROBE_ROWS, TARGET_BATCH_BYTES, TARGET_BATCH_ROWS, read_each
from data_bridge.io.sources.observed import observed_fields
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, DictRows, Row, RowFailure, Token
from data_bridge.model.source import Extent, FilePiece, Probe, SourceFile
from data_bridge.rows.picking import size_of_row


class Own:
    """Reads a source of the user's own; positions are numbers of samples in a part."""

    name = "python"
    counted = False

    def __init__(self, options: SourceOptions, transport: Transport) -> None:
        del transport
        self._arguments = with_open_secrets(options.arguments)
        self._made: dict[str, SourceStage] = {}

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        del file
        return (Extent(),)

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        declared = fields_of(self._source(files[0]), files[0].uri) if files else None
        rows: list[Row] = []
        for file in files:
            for batch in self._read(FilePiece(file), None):
                assert isinstance(batch.rows, DictRows), "it is made so below"
                rows += batch.rows.rows
                break
            if rows:
                break
        rows = rows[:PROBE_ROWS]
        return Probe(tuple(declared or observed_fields(rows)), declared is not None, rows)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        return read_each(self._read, pieces, token)

    def _read(self, piece: FilePiece, token: Token | None) -> Iterator[Batch]:
        start = first = int(token or 0)
        rows: list[Row] = []
        failures: list[RowFailure] = []
        size = 0
        for row in self._samples(piece.file, first):
            at = len(rows) + len(failures)
            if isinstance(row, dict):
                rows.append(dict(row))  # its source may use the same dictionary for the next one
                size += size_of_row(row)
            else:
                where = f"{piece.file.uri} sample {start + at}"
                failures.append(RowFailure(at, f"it is a {type(row).__name__}, not a dictionary", where))
            if at + 1 >= TARGET_BATCH_ROWS or size >= TARGET_BATCH_BYTES:
                yield Batch(start, DictRows(rows), tuple(failures))
                start += at + 1
                rows, failures, size = [], [], 0
        if rows or failures:
            yield Batch(start, DictRows(rows), tuple(failures))

    def _samples(self, file: SourceFile, start: int) -> Iterator[Any]:
        part = part_of(file.uri)
        found = iter(self._source(file).read(part, start))
        at = start
        while True:
            try:
                row = next(found)
            except StopIteration:
                return
            except BridgeError:
                raise
            except (Exception, SystemExit) as error:
                raise SourceError(
                    f"{file.uri}: {type(error).__name__} behind sample {at}: {error}",
                    hint="mend the source; a rerun resumes behind the last shard",
                ) from error
            yield row
            at += 1

    def _source(self, file: SourceFile) -> SourceStage:
        source = file.uri.partition("#")[0]
        if source not in self._made:
            self._made[source] = source_of(source, self._arguments)
        return self._made[source]
