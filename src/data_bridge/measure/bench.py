"""One measurement from the plan to the report: read, pack, upload, each alone and for its share of the time."""

import time
from collections.abc import Sequence

from data_bridge.config import Settings, overridden
from data_bridge.engine.cores import peak_bytes, usable_cores
from data_bridge.engine.drive import INLINE_BYTES, engine_for
from data_bridge.engine.inline import InlineEngine
from data_bridge.engine.signals import handle_signals
from data_bridge.errors import ConfigError, Interrupted
from data_bridge.events import Notice, Observer
from data_bridge.io.sources.stream import SampleStream
from data_bridge.measure.advice import Choices, Cut, Room
from data_bridge.measure.forecast import Figures, Sent, balance
from data_bridge.measure.machine import free_disk, free_memory
from data_bridge.measure.packing import Forgetting, Kept, Packing, pack
from data_bridge.measure.reading import Reading, read_alone, spread
from data_bridge.measure.report import Facts, told
from data_bridge.measure.scratch import Scratch, scratch
from data_bridge.measure.sending import SendingWork, pieces, record_s, sent
from data_bridge.model.bench import BenchReport
from data_bridge.model.plan import Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Pipeline
from data_bridge.pipelines.planning import shown
from data_bridge.stages.build import build
from data_bridge.storage.local import LocalStore

READ, PACK, PACK_ALL, RECORD, SEND, STAGING = 0.15, 0.20, 0.25, 0.03, 0.09, 0.05
"""Shares of the time."""
MOST_PARTITIONS = 64
SHARD_S = 0.5
"""Shards are cut so that packing one takes about this long: some must be finished when the time is up."""
LEAST_SHARD, LARGEST_SHARD = 1_000_000, 64_000_000
CUTS = tuple(n * 1_000_000 for n in (128, 64, 32, 16, 8))
CROWDED = 0.2
"""Waiting for a core for more than this part of the time makes the figures smaller than a run alone would see."""
WELL_USED = 0.85
"""Slots that are at work for this part of the time need no other cut of the source."""


def measured(
    pipeline: Pipeline, *, workers: int | None, seconds: float, use_store: bool, observer: Observer
) -> BenchReport:
    """Measure the parts of the run that the pipeline's settings describe.

    Refuses what planning refuses, before anything is written. Raises what a run would raise of its source and store,
    and Interrupted on the first signal; everything that was written is deleted first.
    """
    plan, recorded = pipeline.preview()
    if not plan.partitions:
        raise ConfigError("the source holds no samples: there is nothing to measure")
    if paid := [node.name for node in build(pipeline.settings.pipeline).nodes if node.paid]:
        raise ConfigError(
            f"stages.{paid[0]}: its answers are paid for, and a measurement would buy some",
            hint="switch it off for the measurement (enabled: false): how fast it answers is not for this machine to tell",
        )
    settings = overridden(pipeline.settings, workers=workers)
    with handle_signals() as stop:
        stop.count = 1  # nothing in hand is worth finishing: the first signal raises
        try:
            with scratch(settings, pipeline.store, use_store=use_store) as place:
                return _Bench(settings, pipeline.store, plan, place, seconds, observer).run(
                    use_store=use_store, begun=recorded
                )
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(
                "the measurement was stopped; what it had written is deleted", hint="run it again when you like"
            ) from None


class _Bench:
    """One measurement in work."""

    def __init__(
        self, settings: Settings, store: ObjectStore, plan: Plan, place: Scratch, seconds: float, observer: Observer
    ) -> None:
        self._settings = settings
        self._store = store
        self._plan = plan
        self._place = place
        self._seconds = seconds
        self._observer = observer
        self._engine, self._slots = engine_for(settings, plan, None)
        self._partitions = spread(plan.partitions, max(MOST_PARTITIONS, 4 * self._slots))
        self._width = min(self._slots, len(plan.partitions))
        self._notes: list[str] = []
        self._sent_file: int | None = None

    def run(self, *, use_store: bool, begun: bool) -> BenchReport:
        """Measure part after part."""
        started = time.monotonic()
        if use_store:
            # a run would be refused here, with what to do about it
            self._store.probe(f"{self._place.prefix}/probe")
        source = self._read()
        one = self._pack(source, slots=1, share=PACK)
        memory = peak_bytes()
        together = self._pack(source, slots=self._slots, share=PACK_ALL) if self._slots > 1 else None
        send, record, staging = self._send(one.kept, use_store=use_store)
        figures = self._figures(source, one, together, send, record, staging)
        if one.rate.queued_s > CROWDED * one.rate.seconds:
            share = one.rate.queued_s / (one.rate.queued_s + one.rate.cpu_s)
            self._notes.append(
                f"other programs were busy: a slot got a core only {100 - 100 * share:.0f} % of the time it could use one"
            )
        if one.failed:
            self._notes.append("some samples are bad: on_error decides what a run does with them")
        if source.whole and source.rate.seconds < self._seconds * READ / 10:
            self._notes.append(f"the source is small: it was read in {source.rate.seconds:.2f} s, which tells little")
        return told(
            figures, self._choices(figures), self._facts(figures, source, memory, begun=begun), self._notes, started
        )

    def _say(self, what: str) -> None:
        self._observer(Notice(what))

    def _read(self) -> Reading:
        self._say("reading the source")
        source = read_alone(self._settings, self._plan, self._partitions, self._seconds * READ)
        if source is None:
            raise ConfigError(
                f"{shown(self._settings.pipeline.input_uri)} gave no samples: there is nothing to measure",
                hint="check the path and input_format",
            )
        return source

    def _pack(self, source: Reading, *, slots: int, share: float) -> Packing:
        self._say(f"packing in {slots} slot{'s' if slots > 1 else ''}")
        pipeline = self._settings.pipeline
        shard_bytes = min(max(round(source.rate.bytes_s * SHARD_S), LEAST_SHARD), LARGEST_SHARD)
        settings = overridden(self._settings, max_shard_bytes=min(shard_bytes, pipeline.max_shard_bytes or shard_bytes))
        keep = self._place.folder / "kept" if slots == 1 else None
        if keep is not None:
            keep.mkdir()
        packing = pack(
            settings,
            self._plan,
            self._partitions,
            Forgetting(self._place.folder, keep),
            slots=slots,
            seconds=self._seconds * share,
            observer=self._observer,
        )
        if packing is None:
            raise ConfigError("no sample of the source could be packed: there is nothing to measure")
        return packing

    def _send(self, kept: Sequence[Kept], *, use_store: bool) -> tuple[tuple[Sent, ...], float | None, float | None]:
        """Uploads, one record, and the staging disk: None for what was not measured."""
        if not kept:
            self._notes.append("no shard was finished in the time, so nothing was uploaded: give more --seconds")
            return (), None, None
        seconds, folder = self._seconds * SEND, self._place.folder
        staging = None
        if not use_store or self._store.local_root is None:
            self._say("writing to the staging disk")
            disk = SendingWork(LocalStore(folder / "disk"), "speed", tuple(kept), folder, 1, self._seconds * STAGING)
            staging = sent(InlineEngine(), 1, disk).bytes_s
        if not use_store:
            self._notes.append("the destination was not measured")
            return (), None, staging
        self._say("writing to the destination")
        record = record_s(self._store, self._place.prefix, self._seconds * RECORD)
        files = pieces(self._store, self._place.prefix, kept, folder, seconds)
        self._sent_file = max(file.size for file in files)
        concurrency, found = self._settings.pipeline.upload_concurrency, list[Sent]()
        for slots, at_once in dict.fromkeys([(1, 1), (self._width, concurrency), (self._width, 2 * concurrency)]):
            work = SendingWork(self._store, self._place.prefix, files, folder, at_once, seconds)
            self._say(f"uploading {slots * at_once} at a time")
            found.append(sent(InlineEngine() if slots == 1 else self._engine, slots, work))
        return tuple(found), record, staging

    def _figures(
        self,
        source: Reading,
        one: Packing,
        together: Packing | None,
        send: tuple[Sent, ...],
        record: float | None,
        staging: float | None,
    ) -> Figures:
        pipeline = self._settings.pipeline
        samples_per_shard = float(pipeline.samples_per_shard)
        if pipeline.max_shard_bytes is not None:
            samples_per_shard = max(1.0, min(samples_per_shard, pipeline.max_shard_bytes / one.sample_bytes))
        return Figures(
            cores=usable_cores(),
            slots=self._slots,
            work=work_of(self._plan),
            upload_concurrency=pipeline.upload_concurrency,
            samples_per_shard=samples_per_shard,
            sample_bytes=one.sample_bytes,
            read=source.rate,
            pack=one.rate,
            start_s=(together or one).start_s,
            pack_all=together.rate if together else None,
            sent=send,
            record_s=record,
            staging_bytes_s=staging,
        )

    def _choices(self, figures: Figures) -> Choices:
        pipeline = self._settings.pipeline
        cuts = self._cuts(figures)
        return Choices(
            workers=pipeline.workers,
            partition_bytes=pipeline.partition_bytes,
            samples_per_shard=pipeline.samples_per_shard,
            staging=str(self._place.folder.parent),
            one_stream=self._is_one_stream(cuts),
            cuts=cuts,
        )

    def _is_one_stream(self, cuts: Sequence[Cut]) -> bool:
        pipeline, plan = self._settings.pipeline, self._plan
        may_be_cut = pipeline.limit is None and pipeline.workers != 0 and len(plan.files) == 1
        large = sum(p.bytes or INLINE_BYTES for p in plan.partitions) > INLINE_BYTES
        return may_be_cut and large and all(len(work) == 1 for work in (work_of(plan), *(cut.work for cut in cuts)))

    def _cuts(self, figures: Figures) -> tuple[Cut, ...]:
        """Other cuts of the source, where the plan's leaves slots without work."""
        pipeline = self._settings.pipeline
        slots = figures.cores if pipeline.workers is None else pipeline.workers
        total = sum(p.bytes or INLINE_BYTES for p in self._plan.partitions)
        used = balance(figures.work, slots) if slots else 1.0
        if used >= WELL_USED or total <= INLINE_BYTES or len(self._plan.generations) > 1:
            return ()
        self._say("planning with other partitions")
        listing = SampleStream(self._settings).listing()
        found = []
        for partition_bytes in (size for size in CUTS if size < pipeline.partition_bytes):
            stream = SampleStream(overridden(self._settings, partition_bytes=partition_bytes))
            work = tuple(float(p.samples or p.bytes or 1) for p in stream.partitions(listing))
            found.append(Cut(partition_bytes, work))
            if balance(work, slots) >= WELL_USED:
                break
        return tuple(found)

    def _facts(self, figures: Figures, source: Reading, memory: int, *, begun: bool) -> Facts:
        pipeline, plan = self._settings.pipeline, self._plan
        samples, estimated = samples_of(plan, source, pipeline.limit), None
        if samples is None:
            estimated = estimated_samples(plan, source, pipeline.limit)
        shard_bytes = round(figures.samples_per_shard * figures.sample_bytes)
        if self._store.local_root is None:
            # of each slot: the open shard, those being uploaded and one that waits
            needed = figures.width * min(
                (pipeline.upload_concurrency + 2) * shard_bytes, pipeline.staging_bytes // figures.width + shard_bytes
            )
        else:
            needed = round((samples or estimated or 0) * figures.sample_bytes) if not begun else 0
        return Facts(
            source=shown(pipeline.input_uri),
            source_format=plan.first.format,
            destination=self._store.uri,
            format=pipeline.name,
            samples=samples,
            samples_estimated=estimated,
            first_s=source.first_s,
            staging=str(self._place.folder.parent),
            sent_file=self._sent_file,
            shard_bytes=shard_bytes,
            room=Room(memory, free_memory(), needed, free_disk(self._place.folder)),
        )


def work_of(plan: Plan) -> tuple[float, ...]:
    """Size of each partition, in one unit for all."""
    if plan.first.counted:
        return tuple(float(p.samples or 0) for p in plan.partitions)
    return tuple(float(p.bytes or 1) for p in plan.partitions)


def samples_of(plan: Plan, source: Reading, limit: int | None) -> int | None:
    """Samples of the whole source where it was counted, or read to its end."""
    if plan.first.counted:
        return sum(p.samples or 0 for p in plan.partitions)
    if not source.whole:
        return None
    return source.samples if limit is None else min(source.samples, limit)


def estimated_samples(plan: Plan, source: Reading, limit: int | None) -> int | None:
    """As many as the source would have if all its samples were as large as those read."""
    sizes = [f.size for f in plan.latest.values()]
    if not source.sample_bytes or None in sizes:
        return limit
    found = round(sum(size or 0 for size in sizes) / source.sample_bytes)
    return found if limit is None else min(found, limit)
