"""`max_failures`: numbers and shares of the source, of a run and of a stage."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpus import write_jsonl
from support.runs import out, settings

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import DataError
from data_bridge.events import Event, SamplesPacked

__all__ = ["out"]


def test_a_rerun_does_not_forget_max_failures(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 400, bad_every=10)
    chosen = settings(str(source), out, on_error="skip", max_failures=5)

    for _ in range(3):
        with pytest.raises(DataError, match="max_failures = 5"):
            api.run_pipeline(chosen)

    assert not (out / "manifest.json").exists()


def test_a_stage_may_fail_so_often_and_a_rerun_does_not_forget(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    write_jsonl(source, 400, bad_every=10)

    def chosen(most: int) -> Settings:
        stage = {"map": {"call": "support.stages:stamped"}, "name": "stamp", "max_failures": most}
        return settings(str(source), out, on_error="skip", stages=[stage])

    for _ in range(3):
        with pytest.raises(DataError, match=r"failed in stage stamp, more than pipeline.stages.stamp.max_failures = 5"):
            api.run_pipeline(chosen(5))
    assert not (out / "manifest.json").exists()

    assert api.run_pipeline(chosen(12)).failed == 40 + 12
    with pytest.raises(DataError, match="12 samples failed in stage stamp"):
        api.run_pipeline(chosen(11))


def test_what_fails_in_another_stage_does_not_count_against_a_stage(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 400, bad_every=10)
    stages = [{"select": {"fields": ["id"]}, "max_failures": 0}]

    assert api.run_pipeline(settings(str(source), out, on_error="skip", stages=stages)).failed == 40


def test_a_share_of_lines_nobody_counted_is_judged_when_all_are_read(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 400, bad_every=10)

    with pytest.raises(DataError, match=r"40 samples failed, more than pipeline.max_failures = 9.9% of 400 samples"):
        api.run_pipeline(settings(str(source), out, on_error="skip", max_failures="9.9%"))
    assert not (out / "manifest.json").exists()

    assert api.run_pipeline(settings(str(source), out, on_error="skip", max_failures="10%")).failed == 40


def test_the_first_bad_line_of_many_good_ones_is_no_large_share(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text("no json\n" + '{"id": 1}\n' * 399)

    report = api.run_pipeline(settings(str(source), out, on_error="skip", max_failures="0.5%", samples_per_shard=2))

    assert (report.failed, report.samples) == (1, 399)


def test_a_share_that_is_passed_for_sure_ends_the_run_before_all_is_read(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text(
        ('{"id": 1, "text": "a line that is in order, among those that are not"}\n' + "no json\n") * 100_000
    )
    read = 0

    def count(event: Event) -> None:
        nonlocal read
        read += event.samples if isinstance(event, SamplesPacked) else 0

    with pytest.raises(DataError, match=r"pipeline.max_failures = 1% of"):
        api.run_pipeline(settings(str(source), out, on_error="skip", max_failures="1%"), observer=count)

    assert read < 200_000


def test_a_share_is_one_of_what_is_committed_already_though_its_batch_is_not_over(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text(("no json\n" + '{"id": 1}\n' * 199) * 25)

    # 25 of 5,000, all in one batch: more than 0.6 % of a thousand
    report = api.run_pipeline(settings(str(source), out, on_error="skip", max_failures="0.6%"))

    assert (report.failed, report.samples) == (25, 4_975)


def test_a_share_of_a_counted_source_is_one_of_all_its_samples(out: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": range(2_000)}), tmp_path / "ids.parquet")
    shares = {"3.25%": None, "3.2%": r"failed in stage stamp, more than .*stamp.max_failures = 3.2% of 2,000 samples"}

    for share, refusal in shares.items():
        stage: dict[str, Any] = {"map": {"call": "support.stages:stamped"}, "name": "stamp", "max_failures": share}
        chosen = settings(tmp_path / "ids.parquet", out / share, on_error="skip", stages=[stage])
        if refusal is None:
            # of the first shard's 50 samples there are two, which is 4 %
            assert api.run_pipeline(chosen).failed == 65
        else:
            with pytest.raises(DataError, match=refusal):
                api.run_pipeline(chosen)


@pytest.mark.parametrize("most", ["101%", "-1%", "0.5", "x%", "%", "5% of all", -1, True, 0.5])
def test_what_is_neither_a_number_nor_a_share_is_refused(most: object, out: Path) -> None:
    with pytest.raises(ValueError, match="max_failures"):
        settings("source.jsonl", out, max_failures=most)
