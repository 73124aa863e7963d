"""What a slot counts while it works on a partition, told as events."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

from data_bridge.config import PipelineSettings
from data_bridge.events import Event, Flushed
from data_bridge.model.answers import AnswerRecord
from data_bridge.model.batch import Batch
from data_bridge.runtime.flow import StageWork
from data_bridge.runtime.graph import SOURCE
from data_bridge.runtime.metrics import Flushable, SlotMetrics
from data_bridge.runtime.outline import WRITER, writer_part
from data_bridge.runtime.pool import Pool
from data_bridge.utils.budget import ByteBudget

T = TypeVar("T")


class Metering:
    """Counts of one partition in one slot: reading, stages, writers, cutting shards, uploads, memory."""

    def __init__(
        self,
        settings: PipelineSettings,
        writers: Sequence[str],
        partition: int,
        emit: Callable[[Event], None],
        budget: ByteBudget,
        pools: Sequence[Pool] = (),
    ) -> None:
        self._kinds: Mapping[str, str] = {stage.name: stage.kind for stage in settings.stages}
        self._partition = partition
        self._emit = emit
        self._budget = budget
        self._metrics = SlotMetrics()
        self._source = self._metrics.part(SOURCE, SOURCE)
        for stage in settings.stages:
            self._metrics.part(stage.name, stage.kind)
        for writer in writers:
            self._metrics.part(writer_part(writer), WRITER)
        self._shards = self._metrics.part("shards", "shards")
        self._upload = self._metrics.part("upload", "upload")
        self._memory = self._metrics.part("memory", "memory")
        self._pools = [(pool, self._metrics.part(pool.name, "pool")) for pool in pools]
        self._waited_s = 0.0
        # what every packet adds waits here for the next `tell`: adding it up at once costs a packet several times as much
        self._packed: deque[Sequence[StageWork]] = deque()
        self._reads: deque[float] = deque()
        self._writes: deque[tuple[float, float]] = deque()

    def reading(self, batches: Generator[Batch]) -> Generator[Batch]:
        """The batches; the time until each was there is the source's."""
        with closing(batches):
            while True:
                began_s = time.perf_counter()
                batch = next(batches, None)
                self._reads.append(time.perf_counter() - began_s)
                if batch is None:
                    return
                yield batch

    def packed(self, work: Sequence[StageWork]) -> None:
        """What stages and writers did with a packet."""
        self._packed.append(work)
        self.tell()

    def paid(self, record: AnswerRecord) -> None:
        """An answer came in that costs something. From any thread."""
        part = self._metrics.part(record.stage, self._kinds.get(record.stage, SOURCE))
        part.count(answers=1, tokens_in=record.tokens_in, tokens_out=record.tokens_out)
        part.statistics("cost_usd", record.cost_usd)
        self.tell()

    @contextmanager
    def writing(self) -> Generator[None]:
        """The block cuts, writes and hashes shards; what it waited in `submitting` was no work."""
        began_s, waited_s = time.perf_counter(), self._waited_s
        try:
            yield
        finally:
            waited_s = self._waited_s - waited_s
            self._writes.append((time.perf_counter() - began_s - waited_s, waited_s))

    @contextmanager
    def submitting(self) -> Generator[None]:
        """The block waits for room behind closed shards."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._waited_s += time.perf_counter() - began_s

    @contextmanager
    def uploading(self, size: int) -> Generator[None]:
        """The block uploads a shard."""
        began_s = time.perf_counter()
        yield
        seconds = time.perf_counter() - began_s
        self._upload.load(busy_s=seconds)
        self._upload.count(bytes=size, shards=1)
        self._upload.statistics("upload_seconds", seconds)
        self.tell()

    def with_queue(self, stage: str, queue: Flushable) -> None:
        """Tell this queue's use with a stage."""
        self._metrics.part(stage, self._kinds.get(stage, SOURCE)).also(queue)

    def staged(self, size: int, most: int) -> None:
        """So many bytes wait for their upload or commit."""
        self._upload.gauge("staged_bytes", size, most)

    def with_upload(self, queue: Flushable) -> None:
        """Tell this queue's use with the uploads."""
        self._upload.also(queue)

    def tell(self, *, now: bool = False) -> None:
        """Emit what was counted, at most every moment unless `now`."""
        if not self._metrics.due and not now:
            return
        self._add_up()
        self._memory.gauge("memory_bytes", self._budget.held, self._budget.total)
        for pool, part in self._pools:
            part.gauge("pool_bytes", pool.budget.held, pool.budget.total)
            part.gauge("pool_leaked", pool.leaked)
            for use in pool.budget.usage():
                part.count(pool_waits=use.waits)
                part.load(waiting_s=use.waited_s)
        records = self._metrics.flush(now=now)
        if records:
            self._emit(Flushed(self._partition, records))

    def _add_up(self) -> None:
        """Several threads may: each thing is taken by one."""
        kinds = self._kinds
        self._metrics.add_work((one, kinds.get(one.name, SOURCE)) for work in _taken(self._packed) for one in work)
        if reads := list(_taken(self._reads)):
            self._source.load(sum(reads))
        for busy_s, waited_s in _taken(self._writes):
            self._shards.load(busy_s, waited_s)


def _taken(waiting: deque[T]) -> Iterator[T]:
    """All that waits there."""
    while waiting:
        try:
            one = waiting.popleft()
        except IndexError:  # another thread was faster
            return
        yield one
