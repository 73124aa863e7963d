"""What is said of given figures: what limits the run, what to change, and nothing where nothing is wrong."""

from dataclasses import replace

import pytest
from support import figures

from data_bridge.measure.advice import Choices, Cut, Room, advise, reason, risks
from data_bridge.measure.forecast import Figures, Rate, Sent

FIGURES = replace(
    figures.FIGURES, sent=(Sent(1, 50e6, 1e-9), Sent(8, 100e6, 1e-9), Sent(16, 150e6, 1e-9)), record_s=0.02
)
CHOICES = Choices(
    workers=None, partition_bytes=256_000_000, samples_per_shard=1000, staging="/cache"
)  # fmt: skip
ROOM = Room(slot_memory=200_000_000, memory=8_000_000_000, staging_needed=1_000_000, staging_free=1_000_000_000)


def changes(figures: Figures, choices: Choices = CHOICES) -> list[str]:
    return [advice.change for advice in advise(figures, choices)]


def test_nothing_is_advised_where_all_cores_pack() -> None:
    assert advise(FIGURES, CHOICES) == []
    assert risks(FIGURES, CHOICES, ROOM) == []
    assert reason(FIGURES, CHOICES) == "4 cores read and pack all the time, 25 % of it reading"


def test_more_uploads_at_a_time_are_advised_where_they_were_measured_to_be_faster() -> None:
    figures = replace(FIGURES, sent=(Sent(1, 1e6, 0), Sent(8, 5e6, 0), Sent(16, 9.5e6, 0)))

    (advice,) = advise(figures, CHOICES)

    assert advice.change == "pipeline.upload_concurrency: 2 -> 4"
    assert advice.why == "16 uploads at a time reached 1.9x the rate of 8"
    assert advice.speedup == pytest.approx(1.9)


def test_a_store_at_its_limit_is_said_to_be_and_no_setting_is_blamed() -> None:
    figures = replace(FIGURES, sent=(Sent(1, 4e6, 0), Sent(8, 5e6, 0), Sent(16, 5.1e6, 0)))

    assert changes(figures) == []
    assert reason(figures, CHOICES) == (
        "8 uploads at a time reach 5.0 MB/s, and 16 no more: the store or the way to it is at its limit"
    )


def test_slow_records_ask_for_larger_shards() -> None:
    figures = replace(FIGURES, record_s=0.4)

    (advice,) = advise(figures, CHOICES)

    assert advice.change == "pipeline.samples_per_shard: 1000 -> 8000"
    assert advice.speedup == pytest.approx(3.6)
    assert "10 shards of 1.0 MB a second" in reason(figures, CHOICES)


def test_shards_that_are_closed_by_their_size_are_not_advised_to_hold_more_samples() -> None:
    assert changes(replace(FIGURES, record_s=0.4), replace(CHOICES, samples_per_shard=5000)) == []


def test_too_few_partitions_are_cut_anew_as_the_plan_would_cut_them() -> None:
    figures = replace(FIGURES, slots=1, work=(1.0,), pack_all=None)
    cuts = (Cut(128_000_000, (1.0, 1.0)), Cut(64_000_000, (1.0,) * 7))

    (advice,) = advise(figures, replace(CHOICES, cuts=cuts))

    assert advice.change == "pipeline.partition_bytes: 256MB -> 64MB"
    assert advice.why == "3 of 4 cores are idle; this gives 7 partitions (and another dataset)"
    assert advice.speedup == pytest.approx(4 * 7 / 8)


def test_workers_below_the_cores_are_raised_where_there_are_partitions_for_them() -> None:
    figures = replace(FIGURES, slots=1, pack_all=None)

    (advice,) = advise(figures, replace(CHOICES, workers=1))

    assert advice.change == "pipeline.workers: 1 -> 4"
    assert advice.why == "3 of 4 cores are idle"


def test_one_file_that_cannot_be_split_is_named_as_the_reason() -> None:
    figures = replace(FIGURES, slots=1, work=(1.0,), pack_all=None)

    assert changes(figures, replace(CHOICES, one_stream=True)) == ["the source: 4 files or more in place of one"]
    assert changes(figures) == []
    assert reason(figures, CHOICES) == "1 core reads and packs all the time, 25 % of it reading; there are 4"


def test_one_file_that_all_cores_share_is_left_as_it_is() -> None:
    together = Rate(samples=30_000, bytes=30_000_000, seconds=1, cpu_s=3.8, slots=1)
    figures = replace(FIGURES, work=(1.0,), pack_all=together)
    choices = replace(CHOICES, one_stream=True, cuts=(Cut(64_000_000, (1.0,) * 7),))

    assert changes(figures, choices) == []
    assert reason(figures, choices) == "4 cores read and pack all the time, 25 % of it reading"


WAITING = replace(
    FIGURES,
    read=Rate(samples=1000, bytes=500_000, seconds=1, cpu_s=0.1),
    pack=Rate(samples=1000, bytes=1_000_000, seconds=1, cpu_s=0.2),
)


def test_a_source_that_serves_several_readers_better_gets_more() -> None:
    figures = replace(WAITING, pack_all=Rate(samples=3800, bytes=3_800_000, seconds=1, cpu_s=0.8, slots=4))

    (first, *_) = advise(figures, CHOICES)

    assert first.change == "pipeline.workers: one per core -> 8"
    assert first.why == "a slot waits 80 % of the time for its source, and 4 slots were 3.8x as fast as one"


def test_a_source_at_its_limit_is_said_to_be() -> None:
    figures = replace(WAITING, pack_all=Rate(samples=1050, bytes=1_050_000, seconds=1, cpu_s=0.3, slots=4))

    assert changes(figures) == []
    assert reason(figures, CHOICES) == "4 slots wait for the source, which gives one reader 0.5 MB/s and 4 no more"


def test_a_slow_staging_disk_is_to_be_left() -> None:
    (advice,) = advise(replace(FIGURES, staging_bytes_s=9e6), CHOICES)

    assert advice.change == "pipeline.staging_dir: a folder on a faster disk than /cache"
    assert advice.speedup == pytest.approx(4)


def test_advice_goes_on_where_the_first_change_moves_the_bottleneck() -> None:
    figures = replace(FIGURES, staging_bytes_s=9e6, sent=(Sent(8, 10e6, 0), Sent(16, 20e6, 0)))

    found = advise(figures, CHOICES)

    assert [a.change.partition(":")[0] for a in found] == ["pipeline.staging_dir", "pipeline.upload_concurrency"]
    assert [a.speedup for a in found] == pytest.approx([10 / 9, 20 / 9])


def test_memory_that_does_not_suffice_asks_for_fewer_workers() -> None:
    (advice,) = risks(FIGURES, CHOICES, replace(ROOM, memory=500_000_000))

    assert advice.change == "pipeline.workers: one per core -> 2"
    assert advice.speedup is None


def test_a_disk_that_cannot_hold_what_waits_is_named() -> None:
    (advice,) = risks(FIGURES, CHOICES, replace(ROOM, staging_needed=5_000_000_000))

    assert advice.change == "free space at /cache"
    assert advice.why == "the run may need 5.0 GB there, 1.0 GB are free"
