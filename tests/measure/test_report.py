"""The report says of the figures what they say: each part's rate, how busy it is in a run, how long the run takes."""

import time
from dataclasses import replace

import pytest

from data_bridge.measure.advice import Choices, Room
from data_bridge.measure.forecast import Figures, Rate, Sent
from data_bridge.measure.report import Facts, told

FIGURES = Figures(
    cores=2,
    slots=2,
    work=(1.0, 1.0),
    upload_concurrency=2,
    samples_per_shard=1000,
    sample_bytes=2000,
    read=Rate(samples=4000, bytes=4_000_000, seconds=1, cpu_s=1),
    pack=Rate(samples=1000, bytes=2_000_000, seconds=1, cpu_s=1),
    start_s=3,
    pack_all=Rate(samples=2000, bytes=4_000_000, seconds=1, cpu_s=2, slots=2),
    sent=(Sent(1, 1_000_000, 1e-8), Sent(4, 2_000_000, 1e-8), Sent(8, 2_000_000, 1e-8)),
    record_s=0.1,
    staging_bytes_s=8_000_000,
)
CHOICES = Choices(workers=None, partition_bytes=1, samples_per_shard=1000, staging="/cache")
FACTS = Facts(
    source="in", source_format="jsonl", destination="s3://bucket", format="webdataset", samples=50_000,
    samples_estimated=None, first_s=0.1, staging="/cache", sent_file=None, shard_bytes=2_000_000,
    room=Room(1, 10**12, 0, 10**12),
)  # fmt: skip


def test_a_run_takes_its_start_and_its_samples_at_the_rate_of_the_bottleneck() -> None:
    report = told(FIGURES, CHOICES, FACTS, ["a note"], time.monotonic())

    assert (report.bottleneck, report.samples_s, report.shard_bytes_s) == ("upload", 1000, 2_000_000)
    assert report.seconds == 3 + 50
    assert report.advice == ()
    assert report.notes == ("a note",)


def test_each_part_is_busy_for_its_share_of_the_run() -> None:
    report = told(FIGURES, CHOICES, FACTS, [], time.monotonic())

    assert [(p.name, p.parallel, p.samples_s, p.busy and round(p.busy, 3)) for p in report.parts] == [
        ("read", 1, 4000, 0.125),
        ("pack", 1, 1000, None),
        ("pack", 2, 2000, 0.5),
        ("upload", 1, 500, None),
        ("upload", 4, 1000, 1),
        ("upload", 8, 1000, None),
        ("record", 2, 20_000, 0.05),
        ("staging", 1, 4000, 0.25),
    ]
    assert [p.cores for p in report.parts] == pytest.approx([1, 1, 2, 0.01, 0.02, 0.02, None, None])


def test_an_estimated_number_of_samples_serves_where_nobody_knows_it() -> None:
    report = told(FIGURES, CHOICES, replace(FACTS, samples=None, samples_estimated=1000), [], time.monotonic())
    unknown = told(FIGURES, CHOICES, replace(FACTS, samples=None), [], time.monotonic())

    assert (report.samples, report.samples_estimated, report.seconds) == (None, 1000, 4)
    assert unknown.seconds is None


def test_risks_come_before_what_makes_it_faster() -> None:
    figures = replace(FIGURES, sent=(Sent(4, 1_000_000, 0), Sent(8, 2_000_000, 0)))
    facts = replace(FACTS, room=Room(1, 10**12, 2_000_000, 1_000_000))

    report = told(figures, CHOICES, facts, [], time.monotonic())

    assert [a.change for a in report.advice] == ["free space at /cache", "pipeline.upload_concurrency: 2 -> 4"]
