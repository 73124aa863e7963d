"""What to change, from measured figures alone: each advice names the figure that speaks for it. Pure functions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from data_bridge.measure.forecast import Figures, Forecast, Limit, balance, forecast, scaling, sent_at
from data_bridge.model.bench import BenchAdvice

WORTH = 1.1
"""A change that would make the run less than this much faster is not worth a word."""
CLEARLY_FASTER = 1.15
"""Two measured rates differ when one is this much above the other; less may be chance."""
WAITING = 0.6
"""A slot that keeps less than this part of a core busy waits most of the time for its source."""
LARGEST_SHARD = 1_000_000_000
MOST_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """How the plan would cut the source with another `partition_bytes`."""

    partition_bytes: int
    work: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """The settings that advice may change, as they are, and what is known of the others."""

    workers: int | None
    partition_bytes: int
    samples_per_shard: int
    staging: str
    one_stream: bool = False
    """Whether the source is one large file that no setting would cut."""
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the settings and the figures of a run with it."""

    words: str
    why: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Room:
    """Memory and disk that there are, and that a run would take."""

    slot_memory: int
    memory: int | None
    staging_needed: int
    staging_free: int


def advise(figures: Figures, choices: Choices) -> list[BenchAdvice]:
    """Changes in the order in which they help, each on top of those before it; none when none is worth it."""
    before, advice = forecast(figures).samples_s, list[BenchAdvice]()
    for _ in range(MOST_CHANGES):
        now = forecast(figures)
        found = [c for c in _CHANGES[now.bottleneck](figures, choices) if _gain(c, now) >= WORTH]
        if not found:
            break
        best = max(found, key=lambda change: forecast(change.figures).samples_s)
        figures = best.figures
        advice.append(BenchAdvice(best.words, best.why, forecast(figures).samples_s / before))
    return advice


def _gain(change: Change, now: Forecast) -> float:
    return forecast(change.figures).samples_s / now.samples_s


def risks(figures: Figures, choices: Choices, room: Room) -> list[BenchAdvice]:
    """Changes without which the run may not come to its end."""
    found = []
    needed = figures.width * room.slot_memory
    if room.memory is not None and needed > room.memory and figures.width > 1:
        fewer = max(1, room.memory // room.slot_memory)
        found.append(
            BenchAdvice(
                f"pipeline.workers: {_workers(choices)} -> {fewer}",
                f"{figures.width} slots of about {_mb(room.slot_memory)} need {_mb(needed)} of memory, {_mb(room.memory)} are free",
                None,
            )
        )
    if room.staging_needed > room.staging_free:
        found.append(
            BenchAdvice(
                f"free space at {choices.staging}",
                f"the run may need {_mb(room.staging_needed)} there, {_mb(room.staging_free)} are free",
                None,
            )
        )
    return found


def reason(figures: Figures, choices: Choices) -> str:
    """Why the bottleneck is one, in the figures' words."""
    now = forecast(figures)
    return _REASONS[now.bottleneck](figures, choices)


# -- upload ---------------------------------------------------------------------------------------------------------------


def _send_more(figures: Figures, _: Choices) -> list[Change]:
    now = sent_at(figures, figures.parallel)
    assert now is not None, "an upload that was not measured limits nothing"
    return [
        Change(
            f"pipeline.upload_concurrency: {figures.upload_concurrency} -> {more}",
            f"{sent.parallel} uploads at a time reached {sent.bytes_s / now.bytes_s:.1f}x the rate of {now.parallel}",
            replace(figures, upload_concurrency=more),
        )
        for sent in figures.sent
        if (more := sent.parallel // figures.width) > figures.upload_concurrency
        and sent.bytes_s >= CLEARLY_FASTER * now.bytes_s
    ]


def _upload_reason(figures: Figures, _: Choices) -> str:
    now = sent_at(figures, figures.parallel)
    assert now is not None, "an upload that was not measured limits nothing"
    said = f"{now.parallel} uploads at a time reach {_mb_s(now.bytes_s)}"
    more = max((s for s in figures.sent if s.parallel > now.parallel), key=lambda s: s.bytes_s, default=None)
    if more is not None and more.bytes_s < CLEARLY_FASTER * now.bytes_s:
        said += f", and {more.parallel} no more: the store or the way to it is at its limit"
    return said


# -- records --------------------------------------------------------------------------------------------------------------


def _larger_shards(figures: Figures, choices: Choices) -> list[Change]:
    limits = forecast(figures).limits
    others = min(rate for name, rate in limits.items() if name != "records")
    factor = 2 ** math.ceil(math.log2(1.5 * others / limits["records"]))
    largest = LARGEST_SHARD / (figures.samples_per_shard * figures.sample_bytes)
    factor = min(factor, 2 ** math.floor(math.log2(largest))) if largest >= 2 else 1
    if factor < 2 or figures.samples_per_shard < choices.samples_per_shard:
        return []  # shards are large, or it is their size in bytes that closes them
    return [
        Change(
            f"pipeline.samples_per_shard: {choices.samples_per_shard} -> {choices.samples_per_shard * factor}",
            f"a record takes {_ms(figures.record_s)} and each shard of {_shard(figures)} waits for one (this makes another dataset)",
            replace(figures, samples_per_shard=figures.samples_per_shard * factor),
        )
    ]


def _records_reason(figures: Figures, _: Choices) -> str:
    assert figures.record_s, "a record that was not measured limits nothing"
    return (
        f"the shards of a partition are recorded one after the other: at {_ms(figures.record_s)} each, {figures.width} "
        f"at a time, that is {figures.width / figures.record_s:,.0f} shards of {_shard(figures)} a second"
    )


# -- packing --------------------------------------------------------------------------------------------------------------


def _more_slots(figures: Figures, choices: Choices) -> list[Change]:
    shared = figures.packing_cores > figures.width  # processes without a partition help those that have one
    cuts = [] if shared else choices.cuts
    found = [_recut(figures, choices, cut) for cut in cuts if len(cut.work) > len(figures.work)]
    idle = figures.cores - figures.slots
    if idle > 0 and len(figures.work) > figures.slots:
        found.append(
            Change(
                f"pipeline.workers: {_workers(choices)} -> {figures.cores}",
                _idle(idle, figures.cores),
                replace(figures, slots=figures.cores),
            )
        )
    if (
        _waits(figures)
        and figures.pack_all is not None
        and scaling(figures) > WAITING
        and len(figures.work) > figures.slots
    ):
        found.append(
            Change(
                f"pipeline.workers: {_workers(choices)} -> {2 * figures.slots}",
                f"a slot waits {100 - 100 * figures.pack.ready:.0f} % of the time for its source, and {figures.pack_all.slots} "
                f"slots were {figures.pack_all.samples_s / figures.pack.samples_s:.1f}x as fast as one",
                replace(figures, slots=2 * figures.slots),
            )
        )
    if (
        choices.one_stream
        and figures.packing_cores < figures.cores
        and not shared
        and not found
        and not _waits(figures)
    ):
        found.append(
            Change(
                f"the source: {figures.cores} files or more in place of one",
                f"it can only be read from its start to its end, so 1 of {figures.cores} cores works",
                replace(figures, work=(1.0,) * figures.cores, slots=figures.cores),
            )
        )
    return found


def _recut(figures: Figures, choices: Choices, cut: Cut) -> Change:
    slots = choices.workers or figures.cores
    before, width = balance(figures.work, figures.slots), min(figures.slots, len(figures.work))
    unused = _idle(figures.slots - width, figures.slots) if width < figures.slots else ""
    if figures.slots < slots:
        unused = _idle(slots - figures.slots, slots)
    why = unused or f"with {_partitions(figures.work)} the slots are at work {100 * before:.0f} % of the time"
    return Change(
        f"pipeline.partition_bytes: {_size(choices.partition_bytes)} -> {_size(cut.partition_bytes)}",
        f"{why}; this gives {_partitions(cut.work)} (and another dataset)",
        replace(figures, work=cut.work, slots=slots),
    )


def _waits(figures: Figures) -> bool:
    return figures.pack.ready < WAITING and figures.read.ready < WAITING


def _packing_reason(figures: Figures, choices: Choices) -> str:
    slots = "a slot" if figures.width == 1 else f"{figures.width} slots"
    if _waits(figures):
        said = f"{slots} wait{'s' if figures.width == 1 else ''} for the source, which gives one reader {_mb_s(figures.read.bytes_s)}"
        together = figures.pack_all
        if together is not None and together.samples_s < CLEARLY_FASTER * figures.pack.samples_s:
            said += f" and {together.slots} no more"
        return said
    if figures.pack.ready < WAITING:
        return f"{slots} wait{'s' if figures.width == 1 else ''} for the disk that shards are written to ({choices.staging})"
    share = f"{100 * figures.reading_share:.0f} % of it reading"
    used = figures.packing_cores
    said = "1 core reads and packs" if used == 1 else f"{used} cores read and pack"
    return f"{said} all the time, {share}" + (f"; there are {figures.cores}" if used < figures.cores else "")


# -- the rest -------------------------------------------------------------------------------------------------------------


def _faster_disk(figures: Figures, choices: Choices) -> list[Change]:
    return [
        Change(
            f"pipeline.staging_dir: a folder on a faster disk than {choices.staging}",
            f"it takes {_mb_s(figures.staging_bytes_s or 0)}",
            replace(figures, staging_bytes_s=None),
        )
    ]


def _no_change(_figures: Figures, _choices: Choices) -> list[Change]:
    """All cores are at work: that is what a run should come to."""
    return []


def _cores_reason(figures: Figures, _: Choices) -> str:
    sent = sent_at(figures, figures.parallel)
    what = "packing and uploading keep" if sent and sent.cpu_s_per_byte else "packing keeps"
    return f"{what} {'the only core' if figures.cores == 1 else f'all {figures.cores} cores'} busy"


_CHANGES: Mapping[Limit, Callable[[Figures, Choices], list[Change]]] = {
    "packing": _more_slots,
    "cores": _no_change,
    "upload": _send_more,
    "records": _larger_shards,
    "staging": _faster_disk,
}
_REASONS: Mapping[Limit, Callable[[Figures, Choices], str]] = {
    "packing": _packing_reason,
    "cores": _cores_reason,
    "upload": _upload_reason,
    "records": _records_reason,
    "staging": lambda figures, _: f"the staging disk takes {_mb_s(figures.staging_bytes_s or 0)}",
}


def _workers(choices: Choices) -> str:
    return "one per core" if choices.workers is None else str(choices.workers)


def _idle(count: int, total: int) -> str:
    return f"{count} of {total} cores {'is' if count == 1 else 'are'} idle"


def _partitions(work: tuple[float, ...]) -> str:
    return f"{len(work)} partition{'s' if len(work) != 1 else ''}"


def _shard(figures: Figures) -> str:
    return _mb(figures.samples_per_shard * figures.sample_bytes)


def _size(count: int) -> str:
    return f"{count // 1_000_000}MB" if count % 1_000_000 == 0 else str(count)


def _mb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _mb_s(rate: float) -> str:
    return f"{_mb(rate)}/s"


def _ms(seconds: float | None) -> str:
    return f"{1000 * (seconds or 0):,.0f} ms"
