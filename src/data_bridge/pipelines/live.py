"""What the user wants of a partition that is being read: to wait, to end, to go on with other options."""

from collections.abc import Generator, Iterator
from typing import TypeVar

from msgspec.structs import replace

from data_bridge.events import ChangeApplied
from data_bridge.model.changes import Change
from data_bridge.model.shards import ChangeRecord
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Piece
from data_bridge.utils.progress import ProgressTracker

T = TypeVar("T")


class Live:
    """The live changes of a partition: those its ledger holds, and new ones, which are appended before they apply."""

    def __init__(self, tracker: ProgressTracker, control: Control, index: int, written: int = 0) -> None:
        """`index` is where reading begins; a new change is in force from `written` on at the earliest."""
        self._tracker = tracker
        self._control = control
        self._written = written
        self._known: set[str] = {record.id for record in tracker.log.changes}
        self._ordered: tuple[Change, ...] = ()
        self._index = index
        """Where in the partition the next piece starts."""

    def cut(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces, each with the changes in force in it; one in which they change becomes several."""
        for found in pieces:
            piece = found
            while True:
                start = piece.index + piece.skip
                self._record(start)
                at = min(piece.end, self._until(start) - piece.index)
                self._index = piece.index + at
                yield replace(piece, end=at, changes=self._at(start))
                if at == piece.end:
                    break
                piece = replace(piece, skip=at)

    def flowing(self, pieces: Iterator[T]) -> Generator[T]:
        """Pieces for as long as nobody wants otherwise."""
        control = self._control
        while not (control.paused or control.draining or control.stopping):
            try:
                yield next(pieces)
            except StopIteration:
                return

    def may_read(self) -> bool:
        """Waits while the run is paused; False when nothing more is to be read."""
        control = self._control
        while control.paused:
            self._record(self._index)  # so that what is changed now is kept even if nobody resumes this process
            control.rest()
        return not (control.draining or control.stopping)

    def _record(self, index: int) -> None:
        """Append what was ordered meanwhile: in force from a sample on, and behind all changes before it."""
        ordered = self._control.changes
        if ordered is self._ordered:
            return
        self._ordered = ordered
        log, partition = self._tracker.log, self._tracker.partition
        for change in ordered:
            if change.id in self._known or change.number < partition.changes:
                continue
            self._known.add(change.id)
            start = max(index, self._written, log.changes[-1].start if log.changes else 0)
            self._tracker.append(ChangeRecord(token=self._tracker.token, start=start, **change.model_dump()))
            at = partition.first_index + start
            self._control.emit(
                ChangeApplied(partition.index, at, change.stage, change.key, change.value, change.command)
            )

    def _at(self, index: int) -> tuple[Change, ...]:
        return tuple(record.change for record in self._tracker.log.changes if record.start <= index)

    def _until(self, index: int) -> int:
        """The first place behind `index` where a further change is in force; far away where there is none."""
        return min((record.start for record in self._tracker.log.changes if record.start > index), default=1 << 62)
