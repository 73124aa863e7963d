"""A packet of samples on its way through a graph: a pure function, so that any process may apply it."""

import pickle
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from data_bridge.errors import FatalError
from data_bridge.model.batch import DictRows, RowFailure, Rows
from data_bridge.model.metrics import Metric
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined, size_of, take
from data_bridge.rows.values import raw_of
from data_bridge.runtime.fitting import fitted
from data_bridge.runtime.graph import SOURCE, Branch, Graph, Node
from data_bridge.runtime.measuring import ItemMetrics, measured
from data_bridge.runtime.stage import OUT, Result, StageBatch, by_output


class Lot(msgspec.Struct, frozen=True):
    """Samples at one place of the graph. Row i came from the sample at `offsets[i]` of the source's batch and has the
    source index `indices[i]`; both int64 of shape (n,), offsets ascending unless a stage takes whole blocks."""

    rows: Rows
    offsets: NDArray[np.int64]
    indices: NDArray[np.int64]
    made: frozenset[str] = frozenset()
    """Fields whose memory nobody has but who reads this; see `Result.made`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rows, self.offsets, self.indices)  # elsewhere the memory is not its own

    def newest(self, most: int) -> "Lot":
        """The last so many of them; 0 = all."""
        return self.slice(len(self) - most, len(self)) if most else self

    def slice(self, start: int, end: int) -> "Lot":
        """Rows [start, end)."""
        if start <= 0 and end >= len(self):
            return self
        return Lot(self.rows.slice(start, end), self.offsets[start:end], self.indices[start:end])

    def edge(self, at: int) -> int:
        """The first place from `at` on where no sample's rows are cut apart."""
        while at < len(self) and self.offsets[at] == self.offsets[at - 1]:
            at += 1
        return min(at, len(self))

    def kept(self) -> "Lot":
        """The same in memory of its own: what is kept must not hold what lanes share."""
        try:
            found: Lot = pickle.loads(pickle.dumps(self, 5))  # noqa: S301 - made a moment ago
        except (
            pickle.PicklingError,
            TypeError,
            AttributeError,
        ):  # a value of foreign code that cannot be pickled: it came by no lane either
            return replace(self, made=frozenset()) if self.made else self
        return found


class StageWork(msgspec.Struct, frozen=True):
    """What a stage did with one packet."""

    name: str
    rows_in: int
    rows_out: int
    failed: int
    dropped: int
    seconds: float
    metrics: tuple[Metric, ...] = ()
    """What it counted of its own."""
    bypassed: int = 0
    """Rows that passed it unchanged, switched off."""


class Transit(msgspec.Struct):
    """A packet on its way: what is at the outputs it has passed, and what happened there."""

    lots: dict[str, Lot]
    failures: list[RowFailure]
    work: list[StageWork]
    at: int = 0
    """The node it comes to next."""
    measured: list[ItemMetrics] = []

    @property
    def nbytes(self) -> int:
        return sum(size_of(lot.rows) for lot in self.lots.values())


class Passed(msgspec.Struct, frozen=True):
    """What became of a packet. `failures` are of all stages, by `offset` in the source's batch, ascending."""

    lots: Mapping[str, Lot]
    """By output: those that were asked for."""
    failures: tuple[RowFailure, ...]
    work: tuple[StageWork, ...]
    measured: tuple[ItemMetrics, ...] = ()
    """What stages measured of single samples, by `offset`, ascending."""


class Flow:
    """Applies stages to packets, one after another. `prefix` names the key space of the source indices; with `keep_raw`
    failures come with the row that failed; in a `rehearsal` paid stages make up their answers."""

    def __init__(self, graph: Graph, prefix: str = "", *, keep_raw: bool = False, rehearsal: bool = False) -> None:
        self._graph = graph
        self._prefix = prefix
        self._keep_raw = keep_raw
        self._rehearsal = rehearsal
        self._wanted = [*(sink.input for sink in graph.sinks), *(branch.port for branch in graph.branches)]
        readers = Counter([*self._wanted, *(port for node in graph.nodes for port in node.inputs)])
        # what failed is kept as the stage was given it: then nothing may be overwritten
        self._sole = frozenset(port for port, count in readers.items() if count == 1 and not keep_raw)

    def setup(self) -> None:
        """Let every stage open what it needs."""
        for node in self._graph.nodes:
            if node.enabled:
                node.stage.setup()

    def close(self) -> None:
        for node in self._graph.nodes:
            node.stage.close()

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What is beside the way to the writers."""
        return self._graph.branches

    @property
    def ahead(self) -> list[int]:
        """Places of the stages that packets pass in the slot: in threads, or all in order."""
        return [place for place, node in enumerate(self._graph.nodes) if node.waits or node.remembers]

    def place(self, name: str) -> int:
        """Where a stage stands."""
        return next(place for place, node in enumerate(self._graph.nodes) if node.name == name)

    def node(self, place: int) -> Node:
        return self._graph.nodes[place]

    def __call__(self, lot: Lot, *, every: bool = False) -> Passed:
        """What of a packet arrives at the writers and at branches beside their way; with `every`, at every output.

        Raises FatalError for a stage that breaks its contract.
        """
        return self.rest(self.begin(lot), every=every)

    def begin(self, lot: Lot, failures: Sequence[RowFailure] = (), port: str = SOURCE) -> Transit:
        """A packet at the source, whose `failures` come with it, or at another output."""
        return Transit({port: lot}, list(failures), [])

    def rest(self, transit: Transit, *, every: bool = False) -> Passed:
        """All the rest of a packet's way."""
        self.advance(transit, len(self._graph.nodes), every=every)
        lots = transit.lots if every else {port: transit.lots[port] for port in self._wanted}
        failures = sorted(transit.failures, key=lambda f: f.offset)
        measured_ = sorted(transit.measured, key=lambda m: m.offset)
        return Passed(lots, tuple(failures), tuple(transit.work), tuple(measured_))

    def advance(self, transit: Transit, until: int, *, every: bool = False) -> None:
        """Take a packet to a node, through all those before it. What nobody needs behind that is forgotten."""
        while transit.at < until:
            node = self._graph.nodes[transit.at]
            if node.enabled:
                assert self._rehearsal or not node.paid, "answers come from those who ask, and never from here"
                started = time.thread_time()
                results = fitted(node.stage, self.given(transit, every=every))
                self.land(transit, results, time.thread_time() - started)
            else:
                given = self._given(transit)
                # who reads it behind this stage is not the only one who does
                if given.made and not self._sole.issuperset(node.inputs):
                    given = replace(given, made=frozenset())
                transit.lots |= _bypassed(node, given)
                transit.work.append(StageWork(node.name, 0, 0, 0, 0, 0.0, bypassed=len(given)))
                transit.at += 1
        if not every:
            needed = {port for node in self._graph.nodes[transit.at :] for port in node.inputs}
            transit.lots = {port: lot for port, lot in transit.lots.items() if port in needed or port in self._wanted}

    def given(self, transit: Transit, *, every: bool = False) -> StageBatch:
        """What the next node of a packet's way gets. With `every` somebody will look at all outputs."""
        node = self._graph.nodes[transit.at]
        lot = self._given(transit)
        sole = not every and self._sole.issuperset(node.inputs)
        origins = _origins([transit.lots[port] for port in node.inputs]) if node.names else None
        return StageBatch(lot.rows, lot.indices, self._prefix, lot.made if sole else frozenset(), node.names, origins)

    def land(self, transit: Transit, result: Result | Mapping[str, Result], seconds: float) -> None:
        """Take a packet past its next node, which made this of it."""
        node = self._graph.nodes[transit.at]
        given = self._given(transit)
        results = _checked(node, result, len(given))
        transit.lots |= {
            f"{node.name}.{name}": Lot(
                r.rows,
                given.offsets[r.positions],
                given.indices[r.positions],
                r.made if len(results) == 1 else frozenset(),  # several outputs may hold the same
            )
            for name, r in results.items()
        }
        different = list({id(one): one for one in results.values()}.values())
        bad = self._failures(node, given, different)
        transit.failures += bad
        transit.work.append(_work(node, given, different, len(bad), seconds))
        if any(one.metrics for one in different):
            failed = [failure for one in different for failure in one.failures]
            several = any(self._graph.multiplies(port) for port in node.inputs) or len(node.inputs) > 1
            batch = StageBatch(given.rows, given.indices, self._prefix)
            transit.measured += measured(
                node.name, node.stage, batch, given.offsets, different, failed, seconds, several=several
            )
        transit.at += 1

    def _given(self, transit: Transit) -> Lot:
        return _merged([transit.lots[port] for port in self._graph.nodes[transit.at].inputs])

    def _failures(self, node: Node, given: Lot, results: Iterable[Result]) -> list[RowFailure]:
        """What a stage could not use, by offset in the source's batch; a row counts once."""
        by_row = {f.offset: f for result in results for f in reversed(result.failures)}
        return [
            replace(
                failure,
                offset=int(given.offsets[row]),
                stage=node.name,
                raw=raw_of(given.rows, row) if failure.raw is None and self._keep_raw else failure.raw,
            )
            for row, failure in by_row.items()
        ]


def _checked(node: Node, result: Result | Mapping[str, Result], rows: int) -> Mapping[str, Result]:
    """The results by output. Raises FatalError for a stage that breaks its contract."""
    results = by_output(node.stage, result)
    if set(results) != set(node.stage.outputs or (OUT,)):
        raise FatalError(f"stage {node.name} gave the outputs {sorted(results)} instead of {list(node.stage.outputs)}")
    for one in results.values():
        _check(node, one, rows)
    if node.stage.divides and not node.stage.multiplies and len(results) > 1:
        every = np.concatenate([one.positions for one in results.values()])
        if len(np.unique(every)) != len(every):
            raise FatalError(f"stage {node.name} gave a row to several outputs, which its `multiplies` does not say")
    return results


def _work(node: Node, given: Lot, results: Iterable[Result], failed: int, seconds: float) -> StageWork:
    used = np.zeros(len(given), dtype=bool)
    made = 0
    for result in results:
        used[result.positions if result.used is None else result.used] = True
        made += len(result.rows)
    dropped = len(given) - int(np.count_nonzero(used)) - failed
    return StageWork(node.name, len(given), made, failed, dropped, seconds, tuple(node.stage.flush_metrics()))


def _check(node: Node, result: Result, rows: int) -> None:
    """A stage that gives wrong positions would lose or mix up samples."""
    at = result.positions
    if len(at) != len(result.rows):
        raise FatalError(f"stage {node.name} gave {len(at)} positions for {len(result.rows)} rows")
    for places in (at, at if result.used is None else result.used):
        if len(places) and (int(places.min()) < 0 or int(places.max()) >= rows):
            raise FatalError(f"stage {node.name} gave positions beyond the {rows} rows it was given")
    in_order = np.sort(at) if node.stage.block else at
    if bool((in_order[1:] < in_order[:-1]).any()):
        raise FatalError(f"stage {node.name} changed the order of its rows")
    if not node.stage.multiplies and bool((in_order[1:] == in_order[:-1]).any()):
        raise FatalError(f"stage {node.name} made several rows of one, which its `multiplies` does not say")
    if any(not 0 <= f.offset < rows for f in result.failures):
        raise FatalError(f"stage {node.name} gave failures of rows it was not given")


def _bypassed(node: Node, given: Lot) -> dict[str, Lot]:
    """Samples pass a stage that is switched off by its outputs; by the first one where those hold different ones."""
    if len(node.outputs) > 1:
        given = replace(given, made=frozenset())
    if not node.stage.divides:
        return dict.fromkeys(node.outputs, given)
    nothing = np.empty(0, dtype=np.int64)
    first, *others = node.outputs
    return {first: given} | {port: Lot(take(given.rows, nothing), nothing, nothing) for port in others}


def _merged(lots: Sequence[Lot]) -> Lot:
    """Samples of several outputs in source order; those of one source sample in the order of the inputs."""
    if len(lots) == 1:
        return lots[0]
    rows = joined([lot.rows for lot in lots])
    if rows is None:
        rows = DictRows([row for lot in lots for row in _decoded(lot.rows)])
    offsets = np.concatenate([lot.offsets for lot in lots])
    indices = np.concatenate([lot.indices for lot in lots])
    order = np.argsort(offsets, kind="stable")
    return Lot(take(rows, order), offsets[order], indices[order])


def _origins(lots: Sequence[Lot]) -> NDArray[np.int64]:
    """From which of them each row of the samples merged comes."""
    order = np.argsort(np.concatenate([lot.offsets for lot in lots]), kind="stable")
    return np.repeat(np.arange(len(lots), dtype=np.int64), [len(lot) for lot in lots])[order]


def _decoded(rows: Rows) -> list[dict[str, Any]]:
    found, _, failures = decode(rows)
    if failures:
        raise FatalError(f"rows that meet in a join cannot be read: {failures[0].reason}")
    return found
