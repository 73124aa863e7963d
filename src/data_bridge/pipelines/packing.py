"""What is done to a batch before anything is cut: a pure function of the batch, so that any process may do it."""

import time
from collections.abc import Callable, Mapping, Sequence, Set

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from data_bridge.config import Settings, hidden_in
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.batch import Batch, DictRows, RowFailure, Rows
from data_bridge.model.changes import Change
from data_bridge.model.keys import IndexKeys
from data_bridge.model.plan import Generation, Partition
from data_bridge.model.shards import Encoded
from data_bridge.pipelines.flows import Flows, Prepare
from data_bridge.pipelines.notes import Note, note_of
from data_bridge.pipelines.sinks import SinkPlan, sink_plans
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined, places_among, size_of, take
from data_bridge.rows.values import raw_of
from data_bridge.runtime.flow import Flow, Lot, StageWork, Transit
from data_bridge.runtime.graph import SOURCE
from data_bridge.runtime.measuring import places
from data_bridge.runtime.outline import writer_part
from data_bridge.stages.build import build


class Piece(msgspec.Struct, frozen=True):
    """Offsets [skip, end) of a batch as the source's reader found it, `more` batches behind it counted on.
    `index` is the place in the partition of offset 0."""

    batch: Batch
    index: int
    skip: int
    end: int
    more: tuple[Batch, ...] = ()
    changes: tuple[Change, ...] = ()
    """Live changes in force in it."""
    transit: Transit | None = None
    """How far it is on its way, where the slot has taken it through stages that wait or remember."""
    states: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    """By stage that remembers, what it knew when this piece came, as JSON."""

    def size(self) -> int:
        """Bytes of its batches, about."""
        return self.transit.nbytes if self.transit else sum(size_of(batch.rows) for batch in (self.batch, *self.more))


class Run(msgspec.Struct, frozen=True):
    """The good samples of a piece in one writer's form."""

    encoded: Encoded
    offsets: NDArray[np.int64]
    """Place in the batch of the source's sample that each came from; that of the block where it came from a block."""
    block: bool = False


class Packed(msgspec.Struct, frozen=True):
    """What became of a piece: a run for every writer, and what is wrong with its other samples, by offset in the batch."""

    runs: tuple[Run, ...]
    failures: tuple[RowFailure, ...]
    work: tuple[StageWork, ...] = ()
    beside: tuple[Lot, ...] = ()
    """What each branch beside the way looks at."""
    notes: tuple[Note, ...] = ()
    """What stages measured of samples, by offset in the batch, ascending."""


Pack = Callable[[Piece], Packed]


class Packing(msgspec.Struct, frozen=True):
    """Makes the function from values alone."""

    settings: Settings
    generation: Generation
    partition: Partition
    marked: Mapping[str, NDArray[np.int64]] = msgspec.field(default_factory=dict)
    """By stage, the samples of the partition that a survey has marked."""
    only: NDArray[np.int64] | None = None
    """The samples of the partition to take, ascending; None = all."""

    def __call__(self) -> Pack:
        return self.packer().pack

    def packer(self) -> "Packer":
        pipeline = self.settings.pipeline
        graph = build(pipeline)
        policies = (pipeline.on_error, *(stage.on_error for stage in pipeline.stages))
        return Packer(
            SampleStream(self.settings).checker(self.generation.format),
            Flows(pipeline, self.partition.key_prefix, self.marked, keep_raw="quarantine" in policies),
            sink_plans(pipeline, graph, self.generation),
            self.partition,
            self.generation.key_digits,
            keep_raw="quarantine" in policies,
            only=self.only,
            secrets=hidden_in(self.settings),
        )


class Packer:
    """What is done to a piece. Holds the stages of one process."""

    def __init__(
        self,
        check: Callable[[Batch], Batch],
        flows: Flows,
        sinks: Sequence[SinkPlan],
        partition: Partition,
        key_digits: int,
        *,
        keep_raw: bool,
        only: NDArray[np.int64] | None = None,
        secrets: Set[str] = frozenset(),
    ) -> None:
        self._check = check
        self._flows = flows
        self._sinks = [(sink, sink.writer()) for sink in sinks]
        self._partition = partition
        self._key_digits = key_digits
        self._keep_raw = keep_raw
        self._only = only
        self._secrets = secrets

    def pack(self, piece: Piece) -> Packed:
        flow = self.flow(piece.changes)
        passed = flow.rest(piece.transit or self.begin(piece))
        failures = list(passed.failures)
        runs: list[Run] = []
        work = list(passed.work)
        for sink, writer in self._sinks:
            there = passed.lots[sink.port]
            started = time.thread_time()
            encoded = writer.encode(there.rows, self._keys(sink, there))
            spent = time.thread_time() - started
            bad = len(encoded.failures)
            work.append(StageWork(writer_part(sink.name), len(there), len(there) - bad, bad, 0, spent))
            failures += self._unfit(there, encoded.failures)
            offsets = there.offsets[encoded.rows]
            if sink.block:
                offsets = np.full(len(offsets), piece.skip, dtype=np.int64)
            runs.append(Run(encoded, offsets, block=bool(sink.block)))
        beside = tuple(passed.lots[branch.port].newest(branch.most) for branch in flow.branches)
        notes = tuple(note_of(m, self._partition.key_prefix, self._key_digits, self._secrets) for m in passed.measured)
        return Packed(tuple(runs), _one_each(failures), tuple(work), beside, notes)

    def flow(self, changes: tuple[Change, ...], prepare: Prepare | None = None) -> Flow:
        """The stages as these changes have them; `prepare` readies those that have to be made."""
        return self._flows(changes, prepare) if prepare else self._flows(changes)

    def close(self) -> None:
        """Let go of what the stages opened."""
        self._flows.close()

    def begin(self, piece: Piece) -> Transit:
        """The good samples of a piece at the beginning of their way."""
        started = time.thread_time()
        lot, failures = self._lot(piece)
        spent = time.thread_time() - started
        transit = self.flow(piece.changes).begin(lot, failures)
        transit.work.append(StageWork(SOURCE, len(lot) + len(failures), len(lot), len(failures), 0, spent))
        return transit

    def _lot(self, piece: Piece) -> tuple[Lot, list[RowFailure]]:
        """The good samples of a piece, and those the source is to blame for."""
        rows: list[Rows] = []
        offsets: list[NDArray[np.int64]] = []
        failures: list[RowFailure] = []
        shift = 0
        for found in (piece.batch, *piece.more):
            batch = self._check(found)
            every = batch.offsets() + shift
            lo, hi = (int(n) for n in np.searchsorted(every, (piece.skip, piece.end)))
            good, bad = (
                batch.rows.slice(lo, hi),
                [f for f in batch.failures if piece.skip <= f.offset + shift < piece.end],
            )
            places = every[lo:hi]
            if self._only is not None:
                at = places_among(self._only, places + piece.index)
                good, places = take(good, at), places[at]
                bad = [f for f in bad if len(places_among(self._only, np.array([f.offset + shift + piece.index])))]
            rows.append(good)
            offsets.append(places)
            failures += [f if not shift else replace(f, offset=f.offset + shift) for f in bad]
            shift += batch.count
        one, there = rows[0], offsets[0]
        if len(rows) > 1:
            one, there = _together(rows, offsets, failures)
        return Lot(one, there, there + (self._partition.first_index + piece.index)), failures

    def _keys(self, sink: SinkPlan, lot: Lot) -> Sequence[str]:
        keys = IndexKeys(self._partition.key_prefix, lot.indices, self._key_digits)
        if not sink.multiplies:
            return keys if not sink.block else list(keys)
        return [f"{key}-{number}" for key, number in zip(keys, places(lot.indices.tolist()), strict=True)]

    def _unfit(self, lot: Lot, failures: Sequence[RowFailure]) -> list[RowFailure]:
        """What a writer refused, by offset in the batch."""
        return [
            RowFailure(
                int(lot.offsets[f.offset]),
                f.reason,
                f.where,
                raw_of(lot.rows, f.offset) if f.raw is None and self._keep_raw else f.raw,
                "write" if f.stage == "source" else f.stage,
            )
            for f in failures
        ]


def _together(
    rows: Sequence[Rows], offsets: Sequence[NDArray[np.int64]], failures: list[RowFailure]
) -> tuple[Rows, NDArray[np.int64]]:
    """Rows of several batches as those of one; what cannot be read on the way goes to `failures`."""
    found = joined(rows)
    if found is not None:
        return found, np.concatenate(offsets)
    together, places = [], []
    for part, at in zip(rows, offsets, strict=True):
        decoded, positions, bad = decode(part)
        together += decoded
        places.append(at[positions])
        failures += [replace(f, offset=int(at[f.offset])) for f in bad]
    return DictRows(together), np.concatenate(places)


def _one_each(failures: Sequence[RowFailure]) -> tuple[RowFailure, ...]:
    """By offset, ascending; of several failures of one sample the first."""
    if len(failures) < 2:
        return tuple(failures)
    by_offset: dict[int, RowFailure] = {}
    for failure in failures:
        by_offset.setdefault(failure.offset, failure)
    return tuple(by_offset[offset] for offset in sorted(by_offset))
