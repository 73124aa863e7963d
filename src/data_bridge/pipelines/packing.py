"""What is done to a batch before anything is cut: a pure function of the batch, so that any process may do it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data_bridge.config import Settings
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.batch import ArrowRows, Batch, LineRows, RowFailure, Rows
from data_bridge.model.keys import IndexKeys
from data_bridge.model.plan import Generation, Partition
from data_bridge.model.shards import Encoded
from data_bridge.pipelines.failures import raw_of
from data_bridge.pipelines.writer import ShardWriter
from data_bridge.pipelines.writers import writer_class


@dataclass(frozen=True, slots=True)
class Piece:
    """Offsets [skip, end) of a batch as the source's reader found it. `index` is the place in the partition of offset 0."""

    batch: Batch
    index: int
    skip: int
    end: int

    def size(self) -> int:
        """Bytes of its batch, about."""
        return size_of(self.batch.rows)


@dataclass(frozen=True, slots=True)
class Run:
    """The good samples of a piece in the writer's form, and what is wrong with the others, by offset in the batch."""

    encoded: Encoded
    offsets: NDArray[np.int64]
    """Place of each sample in the batch."""
    failures: tuple[RowFailure, ...]
    rows: int
    """Rows that were encoded or refused by the writer."""


Pack = Callable[[Piece], Run]


@dataclass(frozen=True, slots=True)
class Packing:
    """Makes the function from values alone."""

    settings: Settings
    generation: Generation
    partition: Partition

    def __call__(self) -> Pack:
        pipeline = self.settings.pipeline
        writer = writer_class(pipeline.name)(pipeline, self.generation.writer)
        check = SampleStream(self.settings).checker(self.generation.format)
        return _Packer(
            check, writer, self.partition, self.generation.key_digits, keep_raw=pipeline.on_error == "quarantine"
        ).pack


class _Packer:
    def __init__(
        self,
        check: Callable[[Batch], Batch],
        writer: ShardWriter,
        partition: Partition,
        key_digits: int,
        *,
        keep_raw: bool,
    ) -> None:
        self._check = check
        self._writer = writer
        self._partition = partition
        self._key_digits = key_digits
        self._keep_raw = keep_raw

    def pack(self, piece: Piece) -> Run:
        batch = self._check(piece.batch)
        every = batch.offsets()
        lo, hi = (int(n) for n in np.searchsorted(every, (piece.skip, piece.end)))
        offsets = every[lo:hi]
        rows = batch.rows.slice(lo, hi)
        encoded = self._writer.encode(rows, self._keys(piece.index, offsets))
        unfit = encoded.failures
        if unfit and self._keep_raw:
            unfit = tuple(f if f.raw is not None else replace(f, raw=raw_of(rows, f.offset)) for f in unfit)
        failures = _merged(batch.failures, unfit, offsets, piece.skip, piece.end)
        return Run(encoded, offsets[encoded.rows], failures, len(rows))

    def _keys(self, index: int, offsets: NDArray[np.int64]) -> IndexKeys:
        partition = self._partition
        return IndexKeys(partition.key_prefix, offsets + partition.first_index + index, self._key_digits)


def _merged(
    source: Sequence[RowFailure], encoding: Sequence[RowFailure], offsets: NDArray[np.int64], skip: int, end: int
) -> tuple[RowFailure, ...]:
    """Failures of reading and of encoding, all by offset in the batch, ascending."""
    if not source and not encoding:
        return ()
    read = [f for f in source if skip <= f.offset < end]
    packed = [
        RowFailure(int(offsets[f.offset]), f.reason, f.where, f.raw, "write" if f.stage == "source" else f.stage)
        for f in encoding
    ]
    return tuple(sorted(read + packed, key=lambda f: f.offset))


def size_of(rows: Rows) -> int:
    """Bytes of rows, about."""
    if isinstance(rows, LineRows):
        return int(rows.ends[-1] - rows.starts[0]) if len(rows) else 0
    if isinstance(rows, ArrowRows):
        return int(rows.batch.nbytes)
    return sum(len(value) if isinstance(value, bytes) else 64 for row in rows.rows for value in row.values())
