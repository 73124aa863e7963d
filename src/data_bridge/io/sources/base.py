"""What a source format promises."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from data_bridge.config import SourceOptions
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, Token
from data_bridge.model.source import Extent, FilePiece, Probe, SourceFile

TARGET_BATCH_BYTES = 2_000_000
"""Readers end a batch at about this many bytes …"""
TARGET_BATCH_ROWS = 1_000
"""… or this many samples, whichever comes first: larger batches cost cache misses, smaller ones calls."""
PROBE_ROWS = 1_000
PROBE_BYTES = 4_000_000


class Format(Protocol):
    """Reads one file format. Made once per process from the options and a transport; holds no open file.

    Positions in pieces and extents are in the format's own unit (bytes, rows, entries). Reading the same
    pieces always gives the same samples in the same order; `Batch.start` re-opens exactly there.
    A bad row is a RowFailure in its batch; a broken file (cut body, bad checksum, wrong format) is a
    SourceError that names the file and the position. Nothing ever ends early in silence.
    """

    name: str
    counted: bool
    """Whether `extents` know how many samples there are."""

    def __init__(self, options: SourceOptions, transport: Transport) -> None: ...

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """The runs of one file in order, to be packed into partitions. Raises SourceError for a wrong format."""
        ...

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        """Fields and first rows; reads at most a few MB."""
        ...

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Samples of the pieces in order, from the token (None = from the start)."""
        ...


@runtime_checkable
class CheckedLater(Protocol):
    """A format that finds samples much faster than it can check them, so that several processes may check at once.

    `read` is `checked` over `frames`.
    """

    def frames(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """As `Format.read`, with rows nobody has looked at yet. Every count and every `start` is right already."""
        ...

    def checked(self, batch: Batch) -> Batch:
        """The batch with its bad rows told from the good ones. Pure; the batch may come from another process."""
        ...


def read_each(
    read_piece: Callable[[FilePiece, Token | None], Iterator[Batch]], pieces: Sequence[FilePiece], token: Token | None
) -> Iterator[Batch]:
    """Read piece after piece with a per-piece reader; tokens become `[piece number, the reader's own token]`."""
    first, inner = token if token is not None else (0, None)
    for number in range(first, len(pieces)):
        for batch in read_piece(pieces[number], inner):
            yield Batch([number, batch.start], batch.rows, batch.failures)
        inner = None
