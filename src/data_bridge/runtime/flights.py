"""Packets whose rows are done by several threads: what is left to do of each, and what became of it."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from data_bridge.errors import BridgeError, Interrupted
from data_bridge.model.batch import DictRows, Row, RowFailure
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined, size_of, size_of_row
from data_bridge.runtime.fitting import entering, fitted
from data_bridge.runtime.measuring import Measured, parted
from data_bridge.runtime.stage import Result, Stage, StageBatch, identities, reason

Packet = TypeVar("Packet")
Results: TypeAlias = Result | Mapping[str, Result]


class Landed(msgspec.Struct, Generic[Packet], frozen=True):
    """A packet that is done. `busy_s` adds up what its rows took, waiting included."""

    packet: Packet
    result: Results
    busy_s: float


class Flight(Generic[Packet]):
    """A packet on its way: `count` pieces of work, each done by some thread."""

    def __init__(self, packet: Packet, count: int) -> None:
        self.packet = packet
        self.count = count
        self._found: list[Any] = [None] * count
        self._left = count
        self.size = 0
        """Bytes that came of it until now, about."""
        self._busy_s = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not count:
            self._done.set()

    @property
    def landed(self) -> bool:
        return self._done.is_set()

    def do(self, piece: int, finished: Callable[[], None]) -> None:
        """Do a piece; `finished` is told before whoever waits for the packet."""
        began = time.perf_counter()
        size = 0
        try:
            self._found[piece], size = self._apply(piece)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that takes the result
            self._found[piece] = _Raised(error)
        took = time.perf_counter() - began
        finished()
        with self._lock:
            self._busy_s += took
            self.size += size
            self._left -= 1
            last = self._left == 0
        if last:
            self._done.set()

    def give_up(self) -> None:
        """Nobody does the rest: whoever waits gets Interrupted."""
        self._found.append(_Raised(Interrupted("the stage was stopped while samples were on their way")))
        self._done.set()

    def waited(self, seconds: float) -> bool:
        """Wait for the last piece; whether it is done."""
        return self._done.wait(seconds)

    def land(self) -> Landed[Packet]:
        """What became of it, once it is done. Raises what the first of the pieces raised."""
        for found in self._found:
            if isinstance(found, _Raised):
                raise found.error
        return Landed(self.packet, self._result(self._found), self._busy_s)

    def _apply(self, piece: int) -> tuple[Any, int]:
        """What becomes of a piece, and its bytes, about."""
        raise NotImplementedError

    def _result(self, found: list[Any]) -> Results:
        raise NotImplementedError


class _Raised(msgspec.Struct, frozen=True):
    error: BaseException


class Rows(Flight[Packet]):
    """A packet whose rows are done one by one, as `StageBatch.each` does them."""

    def __init__(
        self, packet: Packet, batch: StageBatch, stage: Stage[Any], one: Callable[[Row, int], Row | Measured[Row]]
    ) -> None:
        """`one` gets a row and its identity."""
        self._entered = entering(stage, batch)
        self._rows, self._positions, self._bad = decode(self._entered.batch.rows)
        self._identities = identities(batch.indices)[self._entered.whole(self._positions)].tolist()
        self._one = one
        super().__init__(packet, len(self._rows))

    def _apply(self, piece: int) -> tuple[Row | Measured[Row] | RowFailure, int]:
        try:
            row = self._one(dict(self._rows[piece]), self._identities[piece])  # others may hold the same row
            return row, size_of_row(row.value if isinstance(row, Measured) else row)
        except BridgeError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything: the failure of this sample
            return RowFailure(int(self._positions[piece]), reason(error)), 0

    def _result(self, found: list[Any]) -> Results:
        failures = [each for each in found if isinstance(each, RowFailure)]
        good = np.array([not isinstance(each, RowFailure) for each in found], dtype=bool)
        positions = self._positions[good]
        rows, metrics = parted([each for each in found if not isinstance(each, RowFailure)], positions)
        made = Result(DictRows(rows), positions, self._bad, metrics=metrics)
        return self._entered.leaving(made.failing(failures))


class Batches(Flight[Packet]):
    """A packet whose rows go through the stage as batches of one."""

    def __init__(self, packet: Packet, batch: StageBatch, stage: Stage[Any]) -> None:
        self._batch = batch
        self._stage = stage
        super().__init__(packet, len(batch))

    def _apply(self, piece: int) -> tuple[Results, int]:
        batch = self._batch
        row = batch.rows.slice(piece, piece + 1)
        found = fitted(self._stage, StageBatch(row, batch.indices[piece : piece + 1], batch.prefix))
        made = (found,) if isinstance(found, Result) else found.values()
        return found, sum(size_of(each.rows) for each in made)

    def _result(self, found: list[Results]) -> Results:
        if not found:
            return fitted(self._stage, self._batch)
        first = found[0]
        if isinstance(first, Result):
            return _stacked(found)  # type: ignore[arg-type] # a stage gives one form
        return {name: _stacked([each[name] for each in found]) for name in first}  # type: ignore[index]


def _stacked(found: list[Result]) -> Result:
    """Results of rows 0, 1, … as the result of their batch."""
    parts = [each.rows for each in found]
    rows = joined([part for part in parts if len(part)] or parts[:1])
    failures = [replace(f, offset=at) for at, each in enumerate(found) for f in each.failures]
    metrics = tuple((at, values) for at, each in enumerate(found) for _, values in each.metrics)
    origins = np.repeat(np.arange(len(found), dtype=np.int64), [len(part) for part in parts])
    if rows is not None:
        return Result(rows, origins, tuple(failures), metrics=metrics)
    decoded = [decode(part) for part in parts]
    good = [np.full(len(rows), at, dtype=np.int64) for at, (rows, _, _) in enumerate(decoded)]
    bad = [replace(f, offset=at) for at, (_, _, unread) in enumerate(decoded) for f in unread]
    made = DictRows([row for rows, _, _ in decoded for row in rows])
    return Result(made, np.concatenate(good), tuple(failures), metrics=metrics).failing(bad)
