from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Row
from data_bridge.testing import StageContract, assert_same_however_cut, run_stage, stage_of

SAMPLES = [{"n": n} for n in range(200)]


def kept(options: dict[str, Any], **where: Any) -> list[int]:
    return [row["n"] for row in run_stage({"sample": options}, SAMPLES, **where).samples]


class TestAFraction(StageContract):
    kind = "sample"
    options = {"fraction": 0.3}
    samples = SAMPLES
    refused = [
        {},
        {"fraction": 0},
        {"fraction": 1.1},
        {"fraction": 0.5, "every": 2},
        {"fraction": 0.5, "seed": -1},
        {"fraction": True},
    ]


class TestEveryNth(StageContract):
    kind = "sample"
    options = {"every": 3}
    samples = SAMPLES
    refused = [{"every": 0}, {"every": 1.5}, {"every": True}]

    def test_it_goes_by_the_source_index(self) -> None:
        assert kept({"every": 3}, first_index=1) == [n for n in range(200) if (n + 1) % 3 == 0]


class TestLimit(StageContract):
    kind = "limit"
    options = {"count": 7}
    samples = SAMPLES
    refused = [{}, {"count": 0}, {"count": "all"}]

    def test_it_keeps_what_the_first_samples_of_the_source_became(self) -> None:
        run = run_stage(self.config(), SAMPLES[:5], first_index=4)

        assert [row["n"] for row in run.samples] == [0, 1, 2]

    def test_where_partitions_number_their_samples_apart_it_refuses(self) -> None:
        with pytest.raises(ConfigError, match="numbered by partition") as refused:
            run_stage(self.config(), SAMPLES, prefix="00003-")

        assert "--limit" in refused.value.hint


@pytest.mark.parametrize(("partition_bytes", "refused"), [(100_000_000, False), (500, True)])
def test_a_limit_that_has_no_first_sample_is_refused_when_the_run_is_planned(
    partition_bytes: int, refused: bool, tmp_path: Path
) -> None:
    source = tmp_path / "source.jsonl"
    source.write_bytes(b"".join(b'{"n": %d}\n' % n for n in range(200)))
    pipeline = {"input_uri": str(source), "output_uri": str(tmp_path / "out"), "partition_bytes": partition_bytes}
    settings = Settings.model_validate({"pipeline": {**pipeline, "stages": [{"limit": {"count": 7}}], "workers": 0}})

    if refused:
        with pytest.raises(ConfigError, match="numbered by partition"):
            api.plan(settings)
    else:
        assert api.run_pipeline(settings).samples == 7


def test_the_samples_that_are_kept_never_change_from_one_version_to_the_next() -> None:
    assert kept({"fraction": 0.05}) == [22, 27, 33, 38, 42, 51, 88, 92, 102, 119, 149, 176, 184]
    assert kept({"fraction": 0.05, "seed": 7}, prefix="00002-", first_index=10) == [
        19,
        24,
        29,
        64,
        70,
        105,
        111,
        118,
        159,
        160,
    ]


def test_about_the_fraction_is_kept() -> None:
    rows: list[Row] = [{} for _ in range(20_000)]

    assert 5_700 < len(run_stage({"sample": {"fraction": 0.3}}, rows).samples) < 6_300


@settings(deadline=None, max_examples=60)
@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 2**63 - 1))
def test_a_larger_fraction_keeps_all_that_a_smaller_one_keeps(one: float, other: float, seed: int) -> None:
    small, large = sorted([one, other])

    assert set(kept({"fraction": small, "seed": seed})) <= set(kept({"fraction": large, "seed": seed}))


def test_another_seed_and_another_key_space_keep_others() -> None:
    found = [kept({"fraction": 0.5}), kept({"fraction": 0.5, "seed": 1}), kept({"fraction": 0.5}, prefix="00001-")]

    assert len({tuple(one) for one in found}) == 3


def test_everything_is_kept_where_the_fraction_is_one() -> None:
    assert len(kept({"fraction": 1})) == 200
    assert not stage_of({"sample": {"fraction": 1}}).drops


def test_what_was_made_of_one_source_sample_stays_together() -> None:
    import numpy as np

    from data_bridge.model.batch import DictRows
    from data_bridge.runtime.stage import Result, StageBatch

    indices = np.repeat(np.arange(50, dtype=np.int64), 3)
    made = stage_of({"sample": {"fraction": 0.4}}).process(StageBatch(DictRows([{}] * 150), indices))

    assert isinstance(made, Result)
    found, counts = np.unique(indices[made.positions], return_counts=True)
    assert 5 < len(found) < 45
    assert set(counts.tolist()) == {3}


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.floats(0.1, 1))
def test_the_same_samples_are_kept_however_they_are_cut(count: int, fraction: float) -> None:
    assert_same_however_cut({"sample": {"fraction": fraction}}, SAMPLES[:count])
