"""A run's steps: prepare (plan), process (one partition), finalize (manifest)."""

import shutil
from collections.abc import Callable, ItemsView, Mapping
from contextlib import ExitStack, closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from data_bridge.config import PoolSettings, Settings, hidden_in, redacted
from data_bridge.errors import BridgeError, Fenced
from data_bridge.events import BudgetUsed, PartitionClaimed, PartitionDone
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.manifest import Manifest
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Part, Partition, Plan
from data_bridge.model.shards import Done, Failed
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning
from data_bridge.pipelines.beside import Beside, looking_folder
from data_bridge.pipelines.commit import Committer, Control, Opening
from data_bridge.pipelines.finalize import finalize
from data_bridge.pipelines.metering import Metering
from data_bridge.pipelines.packing import Packing
from data_bridge.pipelines.preparing import Prepared
from data_bridge.pipelines.process import PartitionRun
from data_bridge.pipelines.remembering import standing
from data_bridge.pipelines.retrying import chosen, replay
from data_bridge.pipelines.sinks import SinkPlan, sink_plans
from data_bridge.pipelines.staging import Staging, staging_base
from data_bridge.pipelines.survey import Look, Survey, Surveyed, look_at, surveyors
from data_bridge.pipelines.where import Where
from data_bridge.runtime.graph import Graph
from data_bridge.runtime.pool import Pool
from data_bridge.stages.build import build
from data_bridge.utils.budget import Budgeted, ByteBudget, slot_bytes, usable_memory
from data_bridge.utils.files import sha256_of, sweep_partials
from data_bridge.utils.progress import Ledger, ProgressTracker

if TYPE_CHECKING:
    from data_bridge.pipelines.answers import Answers

OpenStore = Callable[[Settings], ObjectStore]
"""How a slot gets at the destination; picklable."""


class Takeover(msgspec.Struct, frozen=True):
    """Whose claims may be taken over although their process cannot be seen from here."""

    dead_drivers: frozenset[str] = msgspec.field(default_factory=frozenset)
    steal: bool = False


class Pipeline(Prepared):
    """One dataset on its way from source to destination. Holds no open file or connection of its own."""

    def __init__(self, settings: Settings, store: ObjectStore, *, plan: Plan | None = None, slots: int = 1) -> None:
        self.budget = ByteBudget(slot_bytes(settings.pipeline.memory_bytes, slots, usable_memory()))
        """What everything in flight in this slot draws on."""
        super().__init__(settings, store, SampleStream(settings, budget=self.budget), plan)
        self.pools = {name: Pool(name, ByteBudget(max(1, pool.bytes // slots))) for name, pool in self._pool_settings()}
        """Memory for packets that wait, by name; what has none of its own draws on that of "", the slot's."""
        self.pools[""] = Pool("", self.budget)
        if isinstance(store, Budgeted):
            store.draw_on(self.budget)
        self._slots = slots

    def share_among(self, slots: int) -> None:
        """So many slots share memory and staging now."""
        if slots != self._slots:
            self._slots = slots
            self.budget.resize(slot_bytes(self.settings.pipeline.memory_bytes, slots, usable_memory()))
            for name, pool in self._pool_settings():
                self.pools[name].budget.resize(max(1, pool.bytes // slots))

    def _pool_settings(self) -> ItemsView[str, PoolSettings]:
        return self.settings.pipeline.pools.items()

    @cached_property
    def graph(self) -> Graph:
        """How the stages of the config hang together. Its stages do no work: those of a partition are made for it."""
        return build(self.settings.pipeline)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store, self.plan.run)

    def logs(self) -> dict[int, PartitionLog]:
        """What the ledger says of every partition."""
        return self.ledger.load_all(self.plan.partitions)

    def process(self, part: Part, control: Control, *, driver: str = "", takeover: Takeover | None = None) -> bool:
        """Bring one partition to its end; False when told to stop on the way.

        Raises BusyError when a live run holds it, Fenced when another attempt took it over.
        """
        takeover = takeover or Takeover()
        tracker = ProgressTracker(self.ledger, part.partition, driver=driver)
        if tracker.log.done is not None:
            return True
        if control.stopping:
            return False
        tracker.claim(dead_drivers=takeover.dead_drivers, steal=takeover.steal)
        replay(self.ledger, tracker)
        control.emit(PartitionClaimed(part.partition.index, tracker.log.cursor.index))
        sinks = self._sinks(part.partition)
        metering = Metering(
            self.settings.pipeline,
            [s.name for s in sinks],
            part.partition.index,
            control.emit,
            self.budget,
            [pool for name, pool in self.pools.items() if name],
        )
        try:
            return self._attempt(part, tracker, control, metering, sinks)
        finally:
            metering.tell(now=True)
            tracker.release()
            for used in self.budget.usage():
                control.emit(BudgetUsed(part.partition.index, used.name, used.peak_bytes, used.waits, used.waited_s))

    def _attempt(
        self, part: Part, tracker: ProgressTracker, control: Control, metering: Metering, sinks: list[SinkPlan]
    ) -> bool:
        pipeline, generation, partition = self.settings.pipeline, self.plan.first, part.partition
        with ExitStack() as stack:
            staging = stack.enter_context(Staging(self.staging_root(), partition, tracker.token))
            answers = self._answers(tracker, sinks, metering)
            if answers is not None:
                stack.enter_context(answers)
            committer = stack.enter_context(
                Committer(
                    self.store,
                    tracker,
                    control,
                    metering,
                    concurrency=pipeline.upload_concurrency,
                    staging_bytes=pipeline.staging_bytes // self._slots,
                    answered=None if answers is None else answers.send,
                )
            )
            if answers is None:
                committer.adopt(staging)
            else:  # they may hold other answers than the journal; packing them again costs nothing
                staging.sweep()
            files = planning.files_to_read(part, self.stream)
            run = PartitionRun(
                pipeline,
                partition,
                sinks,
                where=self._where(part),
                secrets=hidden_in(self.settings),
                digits=(generation.key_digits, generation.shard_digits),
                tracker=tracker,
                staging=staging,
                committer=committer,
                control=control,
                metering=metering,
                account=self.budget.account("packing"),
                total=self.budget.total,
                pool=self.pools.__getitem__,
                beside=Beside(
                    pipeline,
                    partition.key_prefix,
                    control,
                    metering,
                    pool=self.pools.__getitem__,
                    folder=looking_folder(self.plan.run),
                ),
                answers=answers,
                slots=self._slots,
            )
            try:
                packing = Packing(
                    self.settings, generation, partition, self._marked(partition), chosen(self.store, partition)
                )
                batches = self.stream.frames(generation.format, files, partition, run.start)
                with closing(metering.reading(batches)) as read, Opening(control) as opening:
                    if not run.run(opening.through(read), packing):
                        committer.drain()
                        return False
                metering.tell(now=True)
                if answers is not None:
                    answers.send()
                self._finish(run, tracker, control)
            finally:
                run.abandon()
            return True

    def _answers(self, tracker: ProgressTracker, sinks: list[SinkPlan], metering: Metering) -> "Answers | None":
        """The answers that are paid for on this partition; None where nothing is."""
        if not self.graph.paid:
            return None
        from data_bridge.pipelines.answers import Answers  # most runs need none of it

        floor, folder = standing(tracker.log, sinks).cursor.index, self.staging_root() / "answers"
        partition, run = tracker.partition, self.plan.run
        return Answers(self.store, run, partition, tracker.token, folder, floor=floor, paid=metering.paid)

    def _finish(self, run: PartitionRun, tracker: ProgressTracker, control: Control) -> None:
        done: Done = run.done()
        path = run.close_trailing()
        if path is not None:
            key = tracker.failures_key
            digest = sha256_of(path)
            self.store.put_file(key, path, sha256=digest)
            done = done.model_copy(update={"failures": key, "failures_sha256": digest})
        tracker.append(done := run.with_report(done))
        control.emit(
            PartitionDone(tracker.partition.index, done.samples, done.trailing_failed, done.trailing_failed_by)
        )

    def surveys(self) -> list[Survey]:
        """One for each stage that must know all samples, in the order in which they have to be made."""
        return [Survey(self.store, self.plan.run, name) for name in surveyors(self.graph)]

    def look_at(self, part: Part, survey: Survey, control: Control) -> bool:
        """A slot's share of a survey: one partition. False when told to stop on the way."""
        packing = Packing(self.settings, self.plan.first, part.partition, self._marked(part.partition))
        files = planning.files_to_read(part, self.stream)
        with closing(self.stream.frames(self.plan.first.format, files, part.partition, None)) as batches:
            return look_at(
                part,
                survey,
                Look(packing, survey.stage),
                batches,
                block=self.graph.block,
                control=control,
                folder=self.staging_root(),
            )

    def resolve(self, survey: Survey) -> Surveyed:
        """The driver's share: which samples repeat an earlier one."""
        self.staging_root().mkdir(parents=True, exist_ok=True)
        return survey.resolve(self.plan.partitions, self.staging_root(), self.budget.total)

    def _marked(self, partition: Partition) -> dict[str, NDArray[np.int64]]:
        return {survey.stage: survey.marked(partition) for survey in self.surveys()}

    def _sinks(self, partition: Partition | None = None) -> list[SinkPlan]:
        sinks = sink_plans(self.settings.pipeline, self.graph, self.plan.first)
        # samples that are taken out of others fill no ranges of source indices
        return sinks if partition is None or partition.only is None else [replace(s, counted=False) for s in sinks]

    def give_up(self, index: int, error: BridgeError, driver: str) -> None:
        """Note in the ledger why this run left a partition unfinished; the next run claims it again."""
        tracker = ProgressTracker(self.ledger, self.plan.partitions[index])
        claim = tracker.log.claim
        if claim is not None and claim.driver == driver:
            with suppress(Fenced):  # somebody else is at it already: it is not given up
                secrets = hidden_in(self.settings)
                tracker.append(
                    Failed(
                        token=tracker.token,
                        error=redacted(error.message, secrets),
                        hint=redacted(error.hint, secrets),
                        cursor=tracker.log.cursor,
                    )
                )

    def staging_root(self) -> Path:
        """Where shards wait: inside a folder destination, else under the staging folder of the settings."""
        root = self.store.local_root
        if root is not None:
            return root / "_bridge" / self.plan.run / "staging"
        return staging_base(self.settings.pipeline) / self.plan.run

    def finalize(self, logs: Mapping[int, PartitionLog]) -> Manifest:
        """Publish indexes and manifest of what `logs()` gave. Raises when something recorded is missing, a partition is
        unfinished, or another run has started the destination over since."""
        self.refuse_another_run(self.plan.run)
        manifest = finalize(self.store, self.plan, logs, self._sinks())
        self._tidy()
        return manifest

    def _tidy(self) -> None:
        """Nothing waits any more: everything is committed, and what attempts that died left is of no use."""
        shutil.rmtree(self.staging_root(), ignore_errors=True)
        if self.store.local_root is not None:
            sweep_partials(self.store.local_root)

    def position(self, index: int) -> str:
        """Where a partition's cursor stands in the source, for a person; "" when it cannot be told."""
        part = self.plan.part(index)
        return self._where(part)(self.ledger.load(part.partition).cursor.index)

    def _where(self, part: Part) -> Where:
        uris = [part.files[p.file].uri for p in part.partition.pieces]
        return Where(part.partition, uris, counted=self.plan.first.counted)
