"""One attempt on one partition: from its cursor through stages and writers into committed shards."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from data_bridge.config import PipelineSettings, StageSettings
from data_bridge.errors import FatalError, SourceError
from data_bridge.events import SamplesPacked
from data_bridge.model.batch import Batch
from data_bridge.model.plan import Partition
from data_bridge.model.shards import Cursor, Done
from data_bridge.pipelines.beside import Beside
from data_bridge.pipelines.commit import Committer, Control
from data_bridge.pipelines.live import Live
from data_bridge.pipelines.metering import Metering
from data_bridge.pipelines.packing import Packed, Packing, Piece
from data_bridge.pipelines.pieces import Pieces
from data_bridge.pipelines.remembering import standing
from data_bridge.pipelines.sink_run import Failing, SinkRun, Taken
from data_bridge.pipelines.sinks import SinkPlan
from data_bridge.pipelines.staging import Staging
from data_bridge.pipelines.waiting import MOST_WAITING, Waiting, most_waiting
from data_bridge.runtime.lanes import Lanes
from data_bridge.runtime.pool import Pool
from data_bridge.utils.budget import Account
from data_bridge.utils.files import disk_full
from data_bridge.utils.progress import ProgressTracker

if TYPE_CHECKING:
    from data_bridge.pipelines.answers import Answers


def most_cores(stages: Sequence[StageSettings]) -> int:
    """How many cores the stages may be applied on at a time, in one slot."""
    limits = [1 for stage in stages if stage.executor == "inline"]
    limits += [stage.workers for stage in stages if stage.executor == "process" and stage.workers is not None]
    return min(limits, default=1 << 16)


class PartitionRun:
    """Packs the samples behind the cursor into the shards of every writer and hands them to the committer."""

    def __init__(
        self,
        settings: PipelineSettings,
        partition: Partition,
        sinks: Sequence[SinkPlan],
        *,
        where: Callable[[int], str],
        secrets: Set[str],
        digits: tuple[int, int],
        tracker: ProgressTracker,
        staging: Staging,
        committer: Committer,
        control: Control,
        metering: Metering,
        account: Account,
        total: int,
        pool: Callable[[str], Pool],
        beside: Beside,
        answers: "Answers | None" = None,
        slots: int = 1,
    ) -> None:
        self._partition = partition
        self._tracker = tracker
        self._committer = committer
        self._control = control
        self._metering = metering
        self._account = account
        self._total = total
        self._pool = pool
        self._beside = beside
        self._answers = answers
        self._slots = slots
        self._block = max(sink.block for sink in sinks)
        self._waits = sinks[0].waits
        self._remembers = sinks[0].remembers
        self._row_bytes = sinks[0].row_bytes
        self._most_cores = most_cores(settings.stages)
        self._standing = standing(tracker.log, sinks)
        self._start = self._standing.cursor
        self.start = self._start.pos
        """The reader's token of the batch that is to come first."""
        self._at = self._start.index
        self._failing = Failing(settings, partition, digits[0], where, control, secrets)
        self._sinks = [
            SinkRun(
                sink,
                partition,
                digits=digits,
                tracker=tracker,
                staging=staging,
                committer=committer,
                control=control,
                failed=self._failing,
            )
            for sink in sinks
        ]

    def run(self, batches: Iterator[Batch], packing: Packing) -> bool:
        """Pack everything up to the end of the partition; False when told to stop on the way.

        The batches are as the source's reader found them: `packing` makes what does all that needs no order.
        """
        most = most_waiting(self._row_bytes, self._total) if self._waits else None
        whole = None if self._block else most  # a block is one piece, however much is waited for
        found = Pieces(batches, self._start, self._partition.limit, self._block, self._control, whole)
        with ExitStack() as stack:
            lanes: Lanes[Piece, Packed] = stack.enter_context(
                Lanes(
                    packing,
                    cores=lambda: min(self._control.cores, self._most_cores),
                    alive=self._control.beat,
                    account=self._account,
                )
            )
            stack.enter_context(self._beside)
            live = Live(self._tracker, self._control, self._start.index, self._written())
            pieces = live.cut(found)
            waiting = (
                stack.enter_context(closing(self._waiting(packing, most))) if self._waits or self._remembers else None
            )
            while found.end is None and live.may_read():
                flowing = live.flowing(pieces)
                with closing(waiting.through(flowing) if waiting else flowing) as coming, ExitStack() as early:
                    early.callback(lanes.halt)  # a thread may be in the middle of `coming`
                    if waiting is not None:
                        early.callback(waiting.halt)  # and wait there for a server
                    for piece, packed in lanes.map(coming, Piece.size):
                        self._take(piece, packed)
                        self._control.beat()
                        if self._control.stopping and piece.index + piece.end != self._partition.limit:
                            return False
                    early.pop_all()
        if found.end is None:
            return False
        self._finish(found.end)
        return True

    def _written(self) -> int:
        """The first place behind everything that any writer has: no change may be in force before it."""
        behind = max(c.index + (self._block or 1 if c.out else 0) for c in (sink.cursor for sink in self._sinks))
        return -(-behind // self._block) * self._block if self._block else behind

    def _waiting(self, packing: Packing, most: int | None) -> Waiting:
        split = 1 if self._block or most is None else MOST_WAITING // most
        return Waiting(
            packing,
            self._control,
            self._total,
            self._pool,
            self._standing.states,
            split,
            book=self._answers,
            slots=self._slots,
        )

    def abandon(self) -> None:
        """Discard the open shards; what is closed already goes its way."""
        for sink in self._sinks:
            sink.abandon()

    def done(self) -> Done:
        """The record that ends the partition; everything before it must be committed."""
        log = self._tracker.log
        trailing = sum((sink.failures.by_stage for sink in self._sinks), Counter[str]())
        return Done(
            token=self._tracker.token,
            cursor=self._end,
            samples=log.samples,
            failed=log.failed_samples + trailing.total(),
            bytes=log.bytes,
            shards=tuple(shard.model_copy(update={"state": {}}) for shard in log.shards),  # nobody goes on behind them
            changes=tuple(log.changes),
            trailing_failed=trailing.total(),
            trailing_failed_by=dict(trailing),
            paid=dict(self._answers.totals) if self._answers else {},
        )

    def close_trailing(self) -> Path | None:
        """The file of all failures behind the last shards; None where nothing failed there."""
        paths = [path for sink in self._sinks if (path := sink.failures.close()) is not None]
        for path in paths[1:]:
            with disk_full("writing down failed samples"), paths[0].open("ab") as file:
                file.write(path.read_bytes())
        return paths[0] if paths else None

    def with_report(self, done: Done) -> Done:
        """The record with what stages measured behind the first writer's last shard, which is kept now."""
        part, path = self._sinks[0].notes.part()
        if part is None:
            return done
        return done.model_copy(update={"report": part if path is None else self._committer.kept(part, path)})

    def _take(self, piece: Piece, packed: Packed) -> None:
        """Cut one packed piece into shards. What failed on any way is recorded with the first writer."""
        if piece.index + piece.skip != self._at:
            raise FatalError(
                f"samples from {piece.index + piece.skip} on arrived where {self._at} was expected",
                hint="this is an error of the program: nothing of it was committed, please report it",
            )
        self._at = piece.index + piece.end
        bytes_ = 0
        with self._metering.writing():
            for number, (sink, run) in enumerate(zip(self._sinks, packed.runs, strict=True)):
                sink.take(Taken(piece, run, packed.failures, packed.notes) if number == 0 else Taken(piece, run, ()))
                bytes_ += int(run.encoded.ends[-1]) if len(run.encoded) else 0
        self._metering.packed(packed.work)
        self._beside.offer(piece, packed)
        self._control.emit(SamplesPacked(self._partition.index, piece.end - piece.skip, bytes_))

    def _finish(self, index: int) -> None:
        """The partition is at its end: check its count and close what is open."""
        retried = self._partition.limit if self._partition.only is not None else None
        expected = self._partition.samples if retried is None else retried
        if expected is not None and index != expected:
            raise SourceError(
                f"partition {self._partition.index} gave {index} samples where the plan has {expected}",
                hint="the source changed since it was planned; run again with --fresh, or to a new destination",
            )
        for sink in self._sinks:
            sink.finish()
        self._committer.drain()
        last = self._sinks[0].cursor
        self._end = Cursor(pos=last.pos, skip=last.skip + index - last.index, index=index)
