"""The rate of a run from the rates of its parts: arithmetic on given figures."""

from dataclasses import replace

import pytest
from support.figures import FIGURES

from data_bridge.measure.forecast import Rate, Sent, balance, forecast, sent_at


def test_the_slowest_part_is_the_bottleneck_and_the_others_are_busy_in_proportion() -> None:
    found = forecast(FIGURES)

    assert found.bottleneck == "packing"
    assert found.samples_s == pytest.approx(36_000)
    assert found.busy("packing") == 1
    assert found.busy("upload") == pytest.approx(0.36)
    assert found.busy("records") == pytest.approx(0.36)
    assert found.busy("staging") is None


@pytest.mark.parametrize(
    ("changed", "bottleneck", "samples_s"),
    [
        ({"sent": (Sent(8, 5e6, 1e-9),)}, "upload", 5_000),
        ({"record_s": 0.4}, "records", 10_000),
        ({"staging_bytes_s": 8e6}, "staging", 8_000),
        ({"cores": 2}, "cores", 2 / (1e-4 + 1e-6)),
        ({"sent": (Sent(8, 100e6, 50e-9),)}, "cores", 4 / (1e-4 + 50e-6)),
        ({"pack_all": None, "cores": 8}, "packing", 40_000),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else str(v),
)
def test_each_part_can_be_the_bottleneck(changed: dict[str, object], bottleneck: str, samples_s: float) -> None:
    found = forecast(replace(FIGURES, **changed))  # type: ignore[arg-type]

    assert found.bottleneck == bottleneck
    assert found.samples_s == pytest.approx(samples_s)


def test_slots_that_go_idle_before_the_others_are_counted() -> None:
    # 5 partitions on 4 slots take as long as 8 would
    found = forecast(replace(FIGURES, work=(1.0,) * 5))

    assert found.limits["packing"] == pytest.approx(36_000 * 5 / 8)


def test_more_slots_than_partitions_pack_no_faster() -> None:
    found = forecast(replace(FIGURES, work=(1.0,), pack_all=None))

    assert found.limits["packing"] == pytest.approx(10_000)
    assert found.limits["records"] == pytest.approx(25_000), "one partition's records wait for each other"


def test_slots_that_help_one_with_its_only_partition_are_counted_as_they_were_measured() -> None:
    together = Rate(samples=30_000, bytes=30_000_000, seconds=1, cpu_s=3.7, slots=1)
    shared = replace(FIGURES, work=(1.0,), pack_all=together)

    assert forecast(shared).limits["packing"] == pytest.approx(30_000)
    assert (shared.width, shared.packing_cores) == (1, 4)
    # with partitions for all, each packs alone, and no better than alone
    assert forecast(replace(shared, work=(1.0,) * 4, cores=8)).limits["packing"] == pytest.approx(40_000)


def test_an_upload_is_never_thought_faster_than_one_that_was_measured() -> None:
    assert sent_at(FIGURES, 12) == Sent(8, 100e6, 1e-9)
    assert sent_at(FIGURES, 1000) == Sent(16, 150e6, 1e-9)
    assert sent_at(replace(FIGURES, sent=(Sent(8, 100e6, 0),)), 2) == Sent(8, 100e6, 0)
    assert sent_at(replace(FIGURES, sent=()), 2) is None


def test_a_store_that_was_not_measured_limits_nothing() -> None:
    assert set(forecast(replace(FIGURES, sent=(), record_s=None)).limits) == {"packing", "cores"}


@pytest.mark.parametrize(
    ("work", "slots", "share"), [((1.0,), 1, 1), ((1.0, 1.0), 2, 1), ((3.0, 1.0), 2, 4 / 6), ((1.0, 1.0, 4.0), 2, 6 / 10), ((), 2, 1)]
)  # fmt: skip
def test_balance_is_the_share_of_time_in_which_slots_work(work: tuple[float, ...], slots: int, share: float) -> None:
    assert balance(work, slots) == pytest.approx(share)
