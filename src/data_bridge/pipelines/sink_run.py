"""One writer's side of a partition: where it stands, how samples are cut into its shards, what it records."""

from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from data_bridge.config import PipelineSettings, redacted
from data_bridge.errors import DataError
from data_bridge.events import ItemFailed, ShardFinished
from data_bridge.model.batch import RowFailure
from data_bridge.model.plan import Partition
from data_bridge.model.shards import Cursor, Encoded, ShardRecord
from data_bridge.pipelines.commit import Committer, Control
from data_bridge.pipelines.cut import Progress, ShardRules, next_cut
from data_bridge.pipelines.failures import FailureLog
from data_bridge.pipelines.notes import Note, NoteLog
from data_bridge.pipelines.packing import Piece, Run
from data_bridge.pipelines.remembering import recorded
from data_bridge.pipelines.sinks import SinkPlan
from data_bridge.pipelines.staging import Closed, Staging
from data_bridge.pipelines.writer import ShardWriter
from data_bridge.utils.files import sha256_of
from data_bridge.utils.progress import ProgressTracker

_ON_FAILURE = "mend the source, or set pipeline.on_error to `skip` or `quarantine` to go on without such samples"
LAG_SHARDS = 64
"""Default of `max_lag_samples`, in shards."""
_REPEATED = "occurs twice in the shard"
SHOWN_FAILURES = 20
"""Failures told one by one for each partition; all of them are counted and written."""


class SinkRun:
    """Cuts one writer's samples into shards and hands those to the committer."""

    def __init__(
        self,
        plan: SinkPlan,
        partition: Partition,
        *,
        digits: tuple[int, int],
        tracker: ProgressTracker,
        staging: Staging,
        committer: Committer,
        control: Control,
        failed: Callable[[int, RowFailure, FailureLog], None],
    ) -> None:
        self._plan = plan
        self._partition = partition
        self._key_digits, self._shard_digits = digits
        self._tracker = tracker
        self._staging = staging
        self._committer = committer
        self._control = control
        self._failed = failed
        self._writer = plan.writer()
        settings = plan.settings
        limits = [settings.max_shard_bytes, getattr(self._writer, "max_payload_bytes", None)]
        lag = settings.max_lag_samples or LAG_SHARDS * settings.samples_per_shard
        self._rules = ShardRules(
            settings.samples_per_shard,
            min((limit for limit in limits if limit is not None), default=None),
            -(-lag // plan.block) * plan.block if plan.block else lag,
            plan.counted,
        )
        self.cursor = self._resumed = tracker.log.cursor_of(plan.name)
        self._shard = Progress(start=self.cursor.index)
        self._out = self.cursor.out
        """Outputs of the sample at the open shard's start that the shard before has."""
        self._numbers = _Numbers(partition, self._rules, tracker.log.shards_of(plan.name))
        self.failures = self._new_failures()
        self.notes = NoteLog(staging.report_path, plan.noted or {})
        self._range = (0, 0)
        self._keys: set[str] = set()
        self._warnings: Counter[str] = Counter()
        self._state: dict[str, Any] = {}
        """What stages knew at the start of the piece that the cursor is in."""
        self._standing_in: Piece | None = None

    def take(self, run: "Taken") -> None:
        """Write a packed piece into as many shards as it takes, from where the sink stands."""
        resumed = self._resumed
        used = max(run.skip, resumed.index - run.first)
        if used > run.end or (used == run.end and not resumed.out):
            return
        lo = int(np.searchsorted(run.offsets, used))
        if resumed.out and used == resumed.index - run.first:
            lo += resumed.out
        due = _Due(run, used, self._failed, self)
        while used < run.end:
            stop = self._first_repeat(run, lo)
            end = run.end if stop == len(run.offsets) else int(run.offsets[stop])
            # outputs before the repeated one may come from the same sample: they are still to be written
            reach = end + (lo < stop < len(run.offsets) and int(run.offsets[stop - 1]) == end)
            cut = next_cut(
                self._rules,
                self._shard,
                first=run.first,
                end=reach,
                offsets=run.offsets[:stop],
                ends=run.encoded.ends[:stop],
                lo=lo,
            )
            if cut.hi > lo:
                # failures before the last sample written belong to this shard whatever closes it
                due.before(run.behind(cut.hi)[0])
                self._write(run, lo, cut.hi)
            lo = cut.hi
            if cut.closes == "full":
                used = max(used, self.cursor.index - run.first)
                self._close(whole_range=False)
                continue
            due.before(min(cut.used, end))
            used = cut.used
            repeats = stop < len(run.offsets) and used == reach
            # a range does not end in the middle of what one sample became
            if cut.closes == "range" and not (repeats and reach > end):
                self._stand(run, used)
                self._close(whole_range=True)
            elif repeats:
                self._repeat(run, stop)
                lo = stop + 1
                used = end + (lo == len(run.offsets) or int(run.offsets[lo]) != end)

    def finish(self) -> None:
        """The partition is at its end: close what is open."""
        if self._shard.written:
            self._close(whole_range=False)

    def abandon(self) -> None:
        """Discard the open shard; what is closed already goes its way."""
        self._writer.abort()
        self.failures.abandon()
        self.notes.abandon()

    def _first_repeat(self, run: "Taken", lo: int) -> int:
        """The first sample from `lo` on whose key the open shard has already, or the number of samples."""
        keys = run.encoded.keys
        if keys is None:
            return len(run.offsets)
        here: set[str] = set()
        for position in range(lo, len(keys)):
            if keys[position] in self._keys or keys[position] in here:
                return position
            here.add(keys[position])
        return len(keys)

    def _repeat(self, run: "Taken", position: int) -> None:
        """Readers would merge two samples of one key: the second is a failure."""
        assert run.encoded.keys is not None
        reason = f"the key {run.encoded.keys[position]!r} {_REPEATED}"
        failure = RowFailure(int(run.offsets[position]), reason, stage="write")
        self._failed(run.first + failure.offset, failure, self.failures)
        # it failed because of this shard: another attempt must not meet it at the start of the next one
        self._move(run, position + 1)

    def _write(self, run: "Taken", lo: int, hi: int) -> None:
        shard, ends = self._shard, run.encoded.ends
        first = run.first + int(run.offsets[lo])
        if shard.written == 0:
            self._writer.begin(self._path(self._key()), behind=self._control.cores > 1)
            self._range = (first, first)
        self._writer.write(run.encoded, lo, hi)
        self._warnings.update(run.encoded.warned(lo, hi))
        if run.encoded.keys is not None:
            self._keys.update(run.encoded.keys[lo:hi])
        shard.written += hi - lo
        shard.payload += int(ends[hi - 1]) - (int(ends[lo - 1]) if lo else 0)
        self._move(run, hi)

    def _move(self, run: "Taken", hi: int) -> None:
        """Samples [0, hi) of the run are in this shard or in its failures."""
        behind, out = run.behind(hi)
        self._range = (self._range[0], run.first + behind + (out > 0))
        self.failures.mark()
        self.notes.mark()
        self._stand(run, behind, out)

    def _stand(self, run: "Taken", skip: int, out: int = 0) -> None:
        self.cursor = Cursor(pos=run.pos, skip=skip, index=run.first + skip, out=out)
        if run.piece.states and run.piece is not self._standing_in:
            self._standing_in, self._state = run.piece, recorded(run.piece)

    def _close(self, *, whole_range: bool) -> None:
        """Close the open shard, or record that a range has none; start the next range."""
        rest = self._new_failures() if whole_range else self.failures.split()
        notes = self.notes.another() if whole_range else self.notes.split()
        self._submit(self._shard)
        self._shard, self._out = Progress(start=self.cursor.index), self.cursor.out
        self.failures, self.notes, self._keys, self._warnings = rest, notes, set(), Counter()

    def _submit(self, shard: Progress) -> None:
        path, record = None, ShardRecord(token=self._tracker.token, sink=self._plan.name, key=None, cursor=self.cursor)
        record = record.model_copy(update={"state": self._state})
        first = self._partition.first_index
        if shard.written:
            key = self._key()
            path = self._path(key)
            packed = self._writer.finish()
            record = record.model_copy(
                update={
                    "key": key,
                    "bytes": packed.bytes,
                    "sha256": packed.sha256,
                    "samples": packed.samples,
                    "meta": packed.meta,
                    "warnings": dict(sorted(self._warnings.items())),
                }
            )
            self._control.emit(ShardFinished(self._partition.index, key, packed.samples, packed.bytes))
        span = self._range if shard.written else (shard.start, self.cursor.index)
        record = record.model_copy(
            update={
                "failed": self.failures.count,
                "failed_by": dict(self.failures.by_stage),
                "first_index": first + span[0],
                "end_index": first + span[1],
            }
        )
        self._numbers.closed(shard.start, has_file=path is not None)
        failures = self.failures.close()
        if failures is not None:
            record = record.model_copy(update={"failures_sha256": sha256_of(failures)})
        part, report = self.notes.part()
        if part is not None:
            record = record.model_copy(update={"report": part})
        changes = self._tracker.log.changed_before(self.cursor)
        closed = Closed(record, path, failures, report, shard.start, self._out, changes)
        self._committer.submit(self._staging.ready(closed))

    def _key(self) -> str:
        return self._plan.key(self._numbers.name(self._writer, self._shard.start, self._shard_digits))

    def _path(self, key: str) -> Path:
        return self._staging.shard_path(key.replace("/", "-"))

    def _new_failures(self) -> FailureLog:
        return FailureLog(self._staging.failures_path)


def repeats_a_key(reason: str) -> bool:
    """Whether a sample failed because its shard has one of the same key."""
    return reason.endswith(_REPEATED)


class Failing:
    """Decides what a failure means, and writes it down where the sink that keeps them has its log."""

    def __init__(
        self,
        settings: PipelineSettings,
        partition: Partition,
        key_digits: int,
        where: Callable[[int], str],
        control: Control,
        secrets: Set[str] = frozenset(),
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._partition = partition
        self._key_digits = key_digits
        self._where = where
        self._control = control
        self._told = 0
        self._policies = {s.name: s.on_error for s in settings.stages if s.on_error is not None}

    def __call__(self, at: int, failure: RowFailure, log: FailureLog) -> None:
        """Log the failure of the sample at partition index `at`. Raises DataError where it ends the run."""
        if not failure.where:
            failure = replace(failure, where=self._where(at))
        policy = self._policies.get(failure.stage, self._settings.on_error)
        if policy == "fail":
            stage = "" if failure.stage in ("source", "write") else f" (stage {failure.stage})"
            raise DataError(f"bad sample at {failure.where}{stage}: {failure.reason}", hint=_ON_FAILURE)
        if policy != "quarantine":
            failure = replace(failure, raw=None)
        failure = replace(failure, reason=redacted(failure.reason, self._secrets))
        key = f"{self._partition.key_prefix}{self._partition.first_index + at:0{self._key_digits}d}"
        log.add(self._partition.first_index + at, key, failure)
        if self._told < SHOWN_FAILURES:
            self._control.emit(ItemFailed(self._partition.index, at, failure.stage, failure.where, failure.reason))
        self._told += 1


class Taken:
    """One sink's part of a packed piece, and where it stands. `failures` and `notes` are those the sink has to record."""

    def __init__(self, piece: Piece, run: Run, failures: Sequence[RowFailure], notes: Sequence[Note] = ()) -> None:
        self.piece = piece
        self.encoded: Encoded = run.encoded
        self.offsets = run.offsets
        self.failures = failures
        self.notes = notes
        self.pos = piece.batch.start
        self.first = piece.index
        """Index of the batch's offset 0, counted from the partition's start."""
        self.skip = piece.skip
        self.end = piece.end
        """Offset behind the last sample to take."""
        self._block = run.block

    def behind(self, hi: int) -> tuple[int, int]:
        """The place behind samples [0, hi): an offset, and how many outputs of the sample there are among them."""
        last = int(self.offsets[hi - 1])
        if hi == len(self.offsets) or int(self.offsets[hi]) != last:
            return (self.end if self._block else last + 1), 0
        return last, hi - int(np.searchsorted(self.offsets, last))


class _Due:
    """What is to be recorded of a piece besides its samples, from an offset on: each once, in order."""

    def __init__(
        self, run: Taken, used: int, failed: Callable[[int, RowFailure, FailureLog], None], sink: SinkRun
    ) -> None:
        self._first = run.first
        self._failures = deque(f for f in run.failures if f.offset >= used)
        self._notes = deque(n for n in run.notes if n.offset >= used)
        self._failed = failed
        self._sink = sink

    def before(self, offset: int) -> None:
        """Record what is of samples before this offset in the logs that are open now."""
        while self._failures and self._failures[0].offset < offset:
            failure = self._failures.popleft()
            self._failed(self._first + failure.offset, failure, self._sink.failures)
        while self._notes and self._notes[0].offset < offset:
            self._sink.notes.add(self._notes.popleft())


class _Numbers:
    """Numbers of one sink's shards of one partition, continued from those already committed."""

    def __init__(self, partition: Partition, rules: ShardRules, committed: Sequence[ShardRecord]) -> None:
        self._partition = partition
        self._rules = rules
        self._files = 0
        self._block, self._part = -1, 0
        start = 0
        for record in committed:
            self.closed(start, has_file=record.key is not None)
            start = record.cursor.index

    def name(self, writer: ShardWriter, start: int, digits: int) -> str:
        """File name of the shard whose range starts at partition index `start`."""
        if not self._rules.counted:
            return writer.shard_name(self._partition.shard_prefix, self._files, 0, digits)
        number = start // self._rules.samples_per_shard
        part = self._part if number == self._block else 0
        return writer.shard_name("", self._partition.first_shard + number, part, digits)

    def closed(self, start: int, *, has_file: bool) -> None:
        """A range that started at `start` is closed."""
        block = start // self._rules.samples_per_shard
        if block != self._block:
            self._block, self._part = block, 0
        self._part += has_file
        self._files += has_file
