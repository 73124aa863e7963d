"""A change is in force only behind everything that was made without it."""

from dataclasses import dataclass, field

from support.memory_store import MemoryStore

from data_bridge.events import ChangeApplied, Event
from data_bridge.model.batch import Batch, DictRows
from data_bridge.model.changes import Change
from data_bridge.model.plan import Partition
from data_bridge.pipelines.live import Live
from data_bridge.pipelines.packing import Piece
from data_bridge.utils.progress import Ledger, ProgressTracker


@dataclass
class Slot:
    """A slot that is told of one change from the beginning."""

    changes: tuple[Change, ...] = (Change(number=0, id="c", stage="filter", key="enabled", value=False),)
    events: list[Event] = field(default_factory=list)
    stopping = draining = paused = False
    cores = 1
    uploads = 0

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def beat(self) -> None: ...

    def rest(self) -> None: ...

    def threads(self, _stage: str) -> int:
        return 0

    def rate(self, _stage: str) -> float | None: ...


def test_a_change_that_a_resumed_partition_hears_of_spares_what_any_writer_has() -> None:
    tracker = ProgressTracker(Ledger(MemoryStore(), "run"), Partition(index=0, pieces=()))
    tracker.claim()
    slot = Slot()
    piece = Piece(Batch(None, DictRows([{}] * 100)), index=0, skip=10, end=100)

    pieces = list(Live(tracker, slot, 10, written=48).cut(iter([piece])))

    assert [(p.skip, p.end, len(p.changes)) for p in pieces] == [(10, 48, 0), (48, 100, 1)]
    assert slot.events == [ChangeApplied(0, 48, "filter", "enabled", False)]
    assert [record.start for record in tracker.log.changes] == [48]
