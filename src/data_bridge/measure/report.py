"""Figures and facts as the report that users get."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from data_bridge.measure.advice import Choices, Room, advise, reason, risks
from data_bridge.measure.forecast import Figures, Forecast, Rate, forecast
from data_bridge.model.bench import BenchPart, BenchReport


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a measurement beside its figures."""

    source: str
    source_format: str
    destination: str
    format: str
    samples: int | None
    samples_estimated: int | None
    first_s: float
    staging: str
    sent_file: int | None
    shard_bytes: int
    room: Room


def told(figures: Figures, choices: Choices, facts: Facts, notes: Sequence[str], started: float) -> BenchReport:
    """The report of a measurement that began at `started` (monotonic)."""
    now = forecast(figures)
    samples = facts.samples if facts.samples is not None else facts.samples_estimated
    return BenchReport(
        source=facts.source,
        source_format=facts.source_format,
        destination=facts.destination,
        format=facts.format,
        cores=figures.cores,
        slots=figures.packing_cores,
        partitions=len(figures.work),
        parts=tuple(_parts(figures, now)),
        samples=facts.samples,
        samples_estimated=facts.samples_estimated,
        samples_s=now.samples_s,
        shard_bytes_s=now.samples_s * figures.sample_bytes,
        seconds=figures.start_s + samples / now.samples_s if samples is not None else None,
        bottleneck=now.bottleneck,
        why=reason(figures, choices),
        advice=(*risks(figures, choices, facts.room), *advise(figures, choices)),
        first_samples_s=facts.first_s,
        record_s=figures.record_s,
        slot_memory_bytes=facts.room.slot_memory,
        memory_available_bytes=facts.room.memory,
        staging=facts.staging,
        staging_free_bytes=facts.room.staging_free,
        sent_file_bytes=facts.sent_file,
        shard_bytes=facts.shard_bytes,
        measured_s=time.monotonic() - started,
        notes=tuple(notes),
    )


def _parts(figures: Figures, now: Forecast) -> list[BenchPart]:
    packing = now.busy("packing") or 0.0
    read, one, together = figures.read, figures.pack, figures.pack_all
    parts = [
        BenchPart("read", 1, read.samples_s, read.bytes_s or None, read.cores, figures.reading_share * packing),
        _packed(figures, one, 1, None if together else packing),
    ]
    if together is not None:
        parts.append(_packed(figures, together, figures.packing_cores, packing))
    for sent in figures.sent:
        cores = sent.cpu_s_per_byte * sent.bytes_s
        busy = now.busy("upload") if sent.parallel == figures.parallel else None
        parts.append(BenchPart("upload", sent.parallel, sent.bytes_s / figures.sample_bytes, sent.bytes_s, cores, busy))
    if figures.record_s:
        rate = now.limits["records"]
        parts.append(BenchPart("record", figures.width, rate, rate * figures.sample_bytes, None, now.busy("records")))
    if figures.staging_bytes_s is not None:
        rate = now.limits["staging"]
        parts.append(BenchPart("staging", 1, rate, figures.staging_bytes_s, None, now.busy("staging")))
    return parts


def _packed(figures: Figures, rate: Rate, slots: int, busy: float | None) -> BenchPart:
    return BenchPart("pack", slots, rate.samples_s, rate.samples_s * figures.sample_bytes, rate.cores or None, busy)
