"""One attempt on one partition: from its cursor through the writer into committed shards."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from data_bridge.config import PipelineSettings
from data_bridge.errors import DataError, SourceError
from data_bridge.events import ItemFailed, SamplesPacked, ShardFinished
from data_bridge.model.batch import Batch, RowFailure
from data_bridge.model.plan import Partition
from data_bridge.model.shards import Cursor, Done, Encoded, ShardRecord
from data_bridge.pipelines.commit import Committer, Control
from data_bridge.pipelines.cut import Progress, ShardRules, next_cut
from data_bridge.pipelines.failures import FailureLog
from data_bridge.pipelines.packing import Pack, Packing, Piece, Run
from data_bridge.pipelines.staging import Closed, Staging
from data_bridge.pipelines.writer import ShardWriter
from data_bridge.runtime.lanes import Lanes
from data_bridge.utils.budget import Account
from data_bridge.utils.files import sha256_of
from data_bridge.utils.progress import ProgressTracker

_ON_FAILURE = "mend the source, or set pipeline.on_error to `skip` or `quarantine` to go on without such samples"
LAG_SHARDS = 64
"""Default of `max_lag_samples`, in shards."""
SHOWN_FAILURES = 20
"""Failures told one by one for each partition; all of them are counted and written."""


class PartitionRun:
    """Packs the samples behind the cursor into shards and hands them to the committer."""

    def __init__(
        self,
        settings: PipelineSettings,
        partition: Partition,
        *,
        counted: bool,
        where: Callable[[int], str],
        digits: tuple[int, int],
        writer: ShardWriter,
        tracker: ProgressTracker,
        staging: Staging,
        committer: Committer,
        control: Control,
        account: Account,
    ) -> None:
        self._settings = settings
        self._partition = partition
        self._where = where
        self._key_digits, self._shard_digits = digits
        self._writer = writer
        self._tracker = tracker
        self._staging = staging
        self._committer = committer
        self._control = control
        self._account = account
        limits = [b for b in (settings.max_shard_bytes, getattr(writer, "max_payload_bytes", None)) if b is not None]
        self._rules = ShardRules(
            settings.samples_per_shard,
            min(limits, default=None),
            settings.max_lag_samples or LAG_SHARDS * settings.samples_per_shard,
            counted,
        )
        log = tracker.log
        self._cursor = log.cursor
        self._shard = Progress(start=self._cursor.index)
        self._numbers = _Numbers(partition, self._rules, log.shards)
        self._failures = self._new_failures()
        self._range = (0, 0)
        self._told = 0
        self._keys: set[str] = set()
        self._warnings: Counter[str] = Counter()
        self._pack: Pack
        self._read = self._cursor.index
        """Samples found in the source so far."""
        self._at_end = False

    def run(self, batches: Iterator[Batch], packing: Packing) -> bool:
        """Pack everything up to the end of the partition; False when told to stop on the way.

        The batches are as the source's reader found them: `packing` makes what does all that needs no order.
        """
        with Lanes(
            packing, cores=lambda: self._control.cores, alive=self._control.beat, account=self._account
        ) as lanes:
            self._pack = lanes.function
            for piece, run in lanes.map(self._pieces(batches), Piece.size):
                self._take(_Taken(piece, run))
                self._control.beat()
                if self._control.stopping and piece.index + piece.end != self._partition.limit:
                    return False
        if not self._at_end:
            return False
        self._finish(self._read)
        return True

    def _pieces(self, batches: Iterator[Batch]) -> Iterator[Piece]:
        """What is behind the cursor; a re-opened reader may cut its batches elsewhere than it did before."""
        index, skip, limit = self._cursor.index - self._cursor.skip, self._cursor.skip, self._partition.limit
        for batch in batches:
            end = batch.count if limit is None else min(batch.count, limit - index)
            if skip < end:
                yield Piece(batch, index, skip, end)
            self._control.beat()
            index, skip = index + end, max(0, skip - end)
            if limit == index:
                break
            if self._control.stopping:
                return
        self._read, self._at_end = index, True

    def abandon(self) -> None:
        """Discard the open shard; what is closed already goes its way."""
        self._writer.abort()
        self._failures.abandon()

    def done(self) -> Done:
        """The record that ends the partition; everything before it must be committed."""
        log = self._tracker.log
        trailing = self._failures
        return Done(
            token=self._tracker.token,
            cursor=self._cursor,
            samples=log.samples,
            failed=log.failed_samples + trailing.count,
            bytes=log.bytes,
            shards=tuple(log.shards),
            trailing_failed=trailing.count,
        )

    @property
    def trailing(self) -> FailureLog:
        """Failures behind the last shard."""
        return self._failures

    def _take(self, run: "_Taken") -> None:
        """Cut one packed piece into shards."""
        self._cut(run, run.failures, run.skip)
        ends = run.encoded.ends
        self._control.emit(
            SamplesPacked(self._partition.index, run.end - run.skip, int(ends[-1]) if len(run.encoded) else 0)
        )

    def _cut(self, run: "_Taken", failures: Sequence[RowFailure], used: int) -> None:
        """Write the run into as many shards as it takes; `used` offsets of the batch are used already."""
        lo, told = 0, 0
        while used < run.end:
            stop = self._first_repeat(run, lo)
            end = run.end if stop == len(run.offsets) else int(run.offsets[stop])
            cut = next_cut(
                self._rules,
                self._shard,
                first=run.first,
                end=end,
                offsets=run.offsets[:stop],
                ends=run.encoded.ends[:stop],
                lo=lo,
            )
            if cut.hi > lo:
                # failures before the last sample written belong to this shard whatever closes it
                told = self._fail(failures, told, int(run.offsets[cut.hi - 1]), run)
                self._write(run, lo, cut.hi)
            lo = cut.hi
            if cut.closes == "full":
                used = max(used, cut.used)
                self._close(whole_range=False)
                continue
            told = self._fail(failures, told, cut.used, run)
            used = cut.used
            if cut.closes == "range":
                self._cursor = Cursor(pos=run.pos, skip=used, index=run.first + used)
                self._close(whole_range=True)
            elif used == end < run.end:
                self._repeat(run, stop)
                lo, used = stop + 1, end + 1

    def _first_repeat(self, run: "_Taken", lo: int) -> int:
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

    def _repeat(self, run: "_Taken", position: int) -> None:
        """Readers would merge two samples of one key: the second is a failure."""
        assert run.encoded.keys is not None
        reason = f"the key {run.encoded.keys[position]!r} occurs twice in the shard"
        failure = RowFailure(int(run.offsets[position]), reason, stage="write")
        self._fail([failure], 0, failure.offset + 1, run)

    def _write(self, run: "_Taken", lo: int, hi: int) -> None:
        shard, ends = self._shard, run.encoded.ends
        first, last = run.first + int(run.offsets[lo]), run.first + int(run.offsets[hi - 1])
        if shard.written == 0:
            self._writer.begin(self._staging.shard_path(self._shard_name()), behind=self._control.cores > 1)
            self._range = (first, first)
        self._writer.write(run.encoded, lo, hi)
        self._range = (self._range[0], last + 1)
        self._warnings.update(self._warnings_of(run, lo, hi))
        if run.encoded.keys is not None:
            self._keys.update(run.encoded.keys[lo:hi])
        shard.written += hi - lo
        shard.payload += int(ends[hi - 1]) - (int(ends[lo - 1]) if lo else 0)
        self._failures.mark()
        self._cursor = Cursor(pos=run.pos, skip=last + 1 - run.first, index=last + 1)

    def _warnings_of(self, run: "_Taken", lo: int, hi: int) -> Mapping[str, int]:
        """Warnings of samples [lo, hi) alone: they are counted by shard, so that a resumed run counts the same."""
        if not run.encoded.warnings or hi - lo == run.rows:
            return run.encoded.warnings
        part = replace(run.piece, skip=int(run.offsets[lo]), end=int(run.offsets[hi - 1]) + 1)
        return self._pack(part).encoded.warnings

    def _fail(self, failures: Sequence[RowFailure], told: int, before: int, run: "_Taken") -> int:
        """Log the failures at offsets below `before`; returns how many of the batch are logged now."""
        while told < len(failures) and failures[told].offset < before:
            failure = failures[told]
            at = run.first + failure.offset
            if not failure.where:
                failure = replace(failure, where=self._where(at))
            if self._settings.on_error == "fail":
                raise DataError(f"bad sample at {failure.where}: {failure.reason}", hint=_ON_FAILURE)
            self._failures.add(self._partition.first_index + at, self._key(at), failure)
            if self._told < SHOWN_FAILURES:
                self._control.emit(ItemFailed(self._partition.index, at, failure.stage, failure.where, failure.reason))
            self._told += 1
            told += 1
        return told

    def _close(self, *, whole_range: bool) -> None:
        """Close the open shard, or record a range whose samples all failed; start the next range."""
        rest = self._new_failures() if whole_range else self._failures.split()
        shard, log = self._shard, self._failures
        if shard.written or log.count:
            self._submit(shard, log)
        self._shard = Progress(start=self._cursor.index)
        self._failures, self._keys, self._warnings = rest, set(), Counter()

    def _submit(self, shard: Progress, log: FailureLog) -> None:
        name, record = None, ShardRecord(token=self._tracker.token, key=None, cursor=self._cursor)
        first = self._partition.first_index
        if shard.written:
            name = self._shard_name()
            packed = self._writer.finish()
            record = record.model_copy(
                update={
                    "key": name,
                    "bytes": packed.bytes,
                    "sha256": packed.sha256,
                    "samples": packed.samples,
                    "meta": packed.meta,
                    "warnings": dict(self._warnings),
                }
            )
            self._control.emit(ShardFinished(self._partition.index, name, packed.samples, packed.bytes))
        span = self._range if shard.written else (shard.start, self._cursor.index)
        record = record.model_copy(
            update={"failed": log.count, "first_index": first + span[0], "end_index": first + span[1]}
        )
        self._numbers.closed(shard.start, has_file=name is not None)
        failures = log.close()
        if failures is not None:
            record = record.model_copy(update={"failures_sha256": sha256_of(failures)})
        closed = Closed(record, self._staging.shard_path(name) if name else None, failures, shard.start)
        self._committer.submit(self._staging.ready(closed))

    def _finish(self, index: int) -> None:
        """The partition is at its end: check its count and close what is open."""
        expected = self._partition.samples
        if expected is not None and index != expected:
            raise SourceError(
                f"partition {self._partition.index} gave {index} samples where the plan has {expected}",
                hint="the source changed since it was planned; run again with --fresh, or to a new destination",
            )
        if self._shard.written:
            self._close(whole_range=False)
        self._committer.drain()
        self._cursor = Cursor(pos=self._cursor.pos, skip=self._cursor.skip + index - self._cursor.index, index=index)

    def _shard_name(self) -> str:
        return self._numbers.name(self._writer, self._shard.start, self._shard_digits)

    def _key(self, at: int) -> str:
        return f"{self._partition.key_prefix}{self._partition.first_index + at:0{self._key_digits}d}"

    def _new_failures(self) -> FailureLog:
        return FailureLog(self._staging.failures_path, keep_raw=self._settings.on_error == "quarantine")


class _Taken:
    """A packed piece and where it stands."""

    def __init__(self, piece: Piece, run: Run) -> None:
        self.piece = piece
        self.encoded: Encoded = run.encoded
        self.offsets = run.offsets
        self.failures = run.failures
        self.rows = run.rows
        self.pos = piece.batch.start
        self.first = piece.index
        """Index of the batch's offset 0, counted from the partition's start."""
        self.skip = piece.skip
        self.end = piece.end
        """Offset behind the last sample to take."""


class _Numbers:
    """Numbers of the shards of one partition, continued from those already committed."""

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
        number, part = self._files, 0
        if self._rules.counted:
            number = start // self._rules.samples_per_shard
            part = self._part if number == self._block else 0
        return writer.shard_name(self._partition.shard_prefix, self._partition.first_shard + number, part, digits)

    def closed(self, start: int, *, has_file: bool) -> None:
        """A range that started at `start` is closed."""
        block = start // self._rules.samples_per_shard
        if block != self._block:
            self._block, self._part = block, 0
        self._part += has_file
        self._files += has_file
