"""What Parquet and Arrow share: files that are runs of rows with known counts, any row addressable."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.arrow_rows import probe_rows
from data_bridge.io.sources.arrow_schema import chosen_fields, column_order, demand_same, reading
from data_bridge.io.sources.base import PROBE_ROWS
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, Token
from data_bridge.model.source import Extent, Field, FilePiece, Probe, SourceFile

if TYPE_CHECKING:
    import pyarrow as pa

SCAN_THREADS = 16


class Run(NamedTuple):
    """A row group or record batch: its rows and stored bytes, and where it lies, for formats that need to know."""

    rows: int
    bytes: int
    at: int = 0


class Window(NamedTuple):
    """Rows [start, end) of run `number`, whose first row is `first`; all are numbers of the file's rows."""

    number: int
    first: int
    start: int
    end: int


def windows(counts: Sequence[int], piece: FilePiece, row: int | None) -> list[Window]:
    """What of which run a piece is, from a row of the file on, where `counts` are the rows of the file's runs.

    Raises SourceError where the piece is planned to end behind the file's last row.
    """
    total = sum(counts)
    at = piece.start if row is None else row
    end = total if piece.end is None else piece.end
    if end > total:
        raise SourceError(
            f"{piece.file.uri}: has {total} rows, {end} are planned",
            hint="the file has changed since it was planned; start again with --fresh",
        )
    bounds = pairwise([0, *accumulate(counts)])
    return [
        Window(number, first, max(at, first), min(end, last))
        for number, (first, last) in enumerate(bounds)
        if first < end and at < last
    ]


PieceRows: TypeAlias = Callable[[FilePiece, Sequence[str], int | None], Iterator[Batch]]
"""Batches of one piece with the columns named, from a row of the file on; `start` of a batch is its row number."""


class _Open:
    """Files of a partition that are open, the last ones used: a shuffled partition comes back to a file many times."""

    def __init__(
        self, reading_of: "Callable[[SourceFile], AbstractContextManager[tuple[pa.Schema, PieceRows]]]", most: int
    ) -> None:
        self._reading = reading_of
        self._most = most
        self._files: OrderedDict[str, tuple[ExitStack, tuple[pa.Schema, PieceRows]]] = OrderedDict()

    def __call__(self, file: SourceFile) -> "tuple[pa.Schema, PieceRows]":
        if file.uri not in self._files:
            if len(self._files) >= self._most:
                self._files.popitem(last=False)[1][0].close()
            stack = ExitStack()
            self._files[file.uri] = stack, stack.enter_context(self._reading(file))
        self._files.move_to_end(file.uri)
        return self._files[file.uri][1]

    def close(self) -> None:
        with ExitStack() as every:
            for stack, _ in self._files.values():
                every.push(stack)


class Columnar(ABC):
    """Reads files of one schema (columns in any order). Positions are row numbers in the file.

    Tokens are `[piece number, row number]`. What a scan of a file finds is noted in the plan by `prepare`.
    """

    name: str
    counted = True
    kept_open = 1
    """Files that stay open while others are read; of these each holds memory."""

    def __init__(self, options: SourceOptions, transport: Transport) -> None:
        self._columns = options.columns
        self._transport = transport

    @abstractmethod
    def _scan(self, file: SourceFile) -> "tuple[list[Run], pa.Schema]":
        """The runs of a file and its schema, from its footer or headers."""

    @abstractmethod
    def _reading(self, file: SourceFile) -> "AbstractContextManager[tuple[pa.Schema, PieceRows]]":
        """The file open for reading: its schema, and how to get at rows."""

    def prepare(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Scan all files at once: the files with their runs noted, so that they need not be scanned again.

        Raises SourceError naming both files and the field where two files do not have the same fields.
        """
        with ThreadPoolExecutor(SCAN_THREADS) as threads:
            scans = list(threads.map(self._scan, files))
        fields = [self._fields(schema, file) for file, (_, schema) in zip(files, scans, strict=True)]
        orders = column_order([f.uri for f in files], fields)
        return [
            file.model_copy(update={"extra": {**file.extra, "runs": runs, **({"order": order} if order else {})}})
            for file, (runs, _), order in zip(files, scans, orders, strict=True)
        ]

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """One per run that has rows, with its exact rows and stored bytes."""
        extents = []
        start = 0
        for run in self._runs(file):
            end = start + run.rows
            if run.rows:
                extents.append(Extent(start=start, end=end, samples=run.rows, bytes=run.bytes, divisible=True))
            start = end
        return extents

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        """Fields of the first file; rows from the first file that has any."""
        fields = self._fields(self._scan(files[0])[1], files[0])
        for file in files:
            runs = self._runs(file)
            count = sum(run.rows for run in runs)
            if count:
                # not the whole file: what comes behind would be fetched ahead for nothing
                enough = next((n for n in accumulate(run.rows for run in runs) if n >= PROBE_ROWS), count)
                rows = probe_rows(self.read([FilePiece(file, end=enough)], None), fields)
                size = sum(run.bytes for run in runs)
                return Probe(fields, declared=True, rows=rows, mean_sample_bytes=size / count)
        return Probe(fields, declared=True)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Batches of ArrowRows. Prepared files all have the first file's column order."""
        reference: tuple[str, tuple[Field, ...]] | None = None
        first, row = token if token is not None else (0, None)
        with closing(_Open(self._reading, self.kept_open)) as opened:
            for number in range(first, len(pieces)):
                file = pieces[number].file
                with reading(file.uri, self.name.capitalize()):
                    schema, rows_of = opened(file)
                    fields = self._fields(schema, file)
                    reference = reference or (file.uri, fields)
                    demand_same(*reference, file.uri, fields)
                    names = file.extra.get("order") or [f.name for f in fields]
                    for batch in rows_of(pieces[number], names, row):
                        yield Batch([number, batch.start], batch.rows, batch.failures)
                row = None

    def _runs(self, file: SourceFile) -> list[Run]:
        known = file.extra.get("runs")
        if known is not None:
            return [Run(*numbers) for numbers in known]
        runs, schema = self._scan(file)
        self._fields(schema, file)  # columns that are not there are refused before any work
        return runs

    def _fields(self, schema: "pa.Schema", file: SourceFile) -> tuple[Field, ...]:
        with reading(file.uri, self.name.capitalize()):  # names in a damaged schema may not even be text
            return chosen_fields(schema, self._columns, file.uri)
