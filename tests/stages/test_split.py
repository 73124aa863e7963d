from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Row
from data_bridge.testing import StageContract, StageRun, assert_same_however_cut, run_stage, stage_of

SHARES = [{"name": "train", "weight": 0.8}, {"name": "val", "weight": 0.1}, {"name": "test", "weight": 0.1}]
SAMPLES: list[Row] = [{"n": n, "user": f"u{n % 17}"} for n in range(100)]


def split(options: dict[str, Any], samples: list[Row], outputs: Any = SHARES, **where: Any) -> StageRun:
    return run_stage({"split": options, "outputs": outputs}, samples, **where)


class TestByChance(StageContract):
    kind = "split"
    outputs = SHARES
    samples = SAMPLES
    refused = [{"by": "field"}, {"by": "weights"}, {"values": {"a": "train"}}, {"default": "train"}, {"field": "usr"}]


class TestByChanceOfAValue(StageContract):
    kind = "split"
    options = {"by": "hash", "field": "user", "seed": 3}
    outputs = SHARES
    samples = [*SAMPLES, {"n": 100, "user": None}, {"n": 101}, {"n": 102, "user": [1, "a"]}]


class TestByField(StageContract):
    kind = "split"
    options = {"by": "field", "field": "part", "values": {"dev": "val", 1: "train", "true": "test"}, "default": "rest"}
    outputs = [{"name": name} for name in ("train", "val", "test", "rest")]
    samples = [{"part": part} for part in ("train", "dev", 1, True, None, "", "val", "rest", 1.5)] + [{}, {"part": [1]}]
    refused = [
        {"by": "field", "field": "part", "default": "others"},
        {"by": "field", "field": "part", "values": {"a": "b"}},
        {"by": "field", "field": "parts"},
    ]

    def test_a_value_goes_to_the_output_said_or_to_that_of_its_name_or_to_the_default(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.origins == {"train": [0, 2], "val": [1, 6], "test": [3], "rest": [4, 5, 7, 8, 9]}
        assert run.reasons == {10: "field 'part': a value of type list has no text form"}


def test_without_a_default_other_values_are_failures_that_say_so() -> None:
    outputs = [{"name": "a"}, {"name": "b"}]

    run = split({"by": "field", "field": "x"}, [{"x": "a"}, {"x": "c"}, {"x": None}, {}], outputs)

    assert run.origins == {"a": [0], "b": []}
    assert run.reasons == {
        1: "field 'x' is 'c': no output is for that, and there is no `default`",
        2: "field 'x' is null or missing: no output is for that, and there is no `default`",
        3: "field 'x' is null or missing: no output is for that, and there is no `default`",
    }


def test_the_parts_never_change_from_one_version_to_the_next() -> None:
    assert split({}, SAMPLES).origins["val"] == [34, 36, 39, 45, 56, 61, 63, 77, 83, 91]
    assert split({"seed": 5}, SAMPLES, prefix="00004-").origins["val"] == [
        10,
        22,
        28,
        30,
        54,
        55,
        60,
        61,
        70,
        73,
        83,
        84,
    ]
    assert split({"field": "n"}, SAMPLES).origins["val"] == [32, 33, 54, 74, 81, 98]


def test_shares_are_about_those_of_the_weights_and_every_sample_is_in_one() -> None:
    rows: list[Row] = [{"n": n} for n in range(20_000)]
    for options in ({}, {"by": "weight"}, {"field": "n"}):
        origins = split(options, rows).origins

        assert sorted(at for part in origins.values() for at in part) == list(range(20_000))
        assert 15_700 < len(origins["train"]) < 16_300
        assert 1_800 < len(origins["val"]) < 2_200


def test_weights_need_not_add_up_to_one() -> None:
    hundred = [{**output, "weight": output["weight"] * 100} for output in SHARES]  # type: ignore[operator]

    assert split({}, SAMPLES, hundred).origins == split({}, SAMPLES).origins


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 100), st.integers(0, 2**63 - 1))
def test_a_sample_keeps_its_part_as_the_source_grows(count: int, seed: int) -> None:
    fewer, all_ = split({"seed": seed}, SAMPLES[:count]).origins, split({"seed": seed}, SAMPLES).origins

    assert {name: [at for at in part if at < count] for name, part in all_.items()} == fewer


@settings(deadline=None, max_examples=60)
@given(st.permutations(SAMPLES[:30]), st.integers(0, 99))
def test_by_a_value_a_sample_keeps_its_part_in_any_order_and_equal_values_never_part(
    order: list[Row], seed: int
) -> None:
    outputs = split({"field": "user", "seed": seed}, order).outputs
    expected = split({"field": "user", "seed": seed}, SAMPLES[:30]).outputs

    assert {k: sorted(row["n"] for row in v) for k, v in outputs.items()} == {
        k: sorted(row["n"] for row in v) for k, v in expected.items()
    }
    users = [{row["user"] for row in part} for part in outputs.values()]
    assert sum(map(len, users)) == len(set().union(*users))


def test_a_part_does_not_go_by_what_a_sampling_stage_kept() -> None:
    rows: list[Row] = [{} for _ in range(4_000)]
    kept = run_stage({"sample": {"fraction": 0.2}}, rows).origins["out"]
    train = set(split({}, rows).origins["train"])

    assert 0.7 < len(train.intersection(kept)) / len(kept) < 0.9


@pytest.mark.parametrize(
    ("options", "outputs", "message"),
    [
        ({}, [{"name": "train", "weight": 1}], "two outputs or more"),
        ({}, [{"name": "train", "weight": 1}, {"name": "val"}], "'val' has no weight"),
        ({"by": "field", "field": "x"}, SHARES, "'train' has a weight"),
        ({"by": "field", "field": "x", "default": "c"}, [{"name": "a"}, {"name": "b"}], "no output 'c'"),
    ],
)
def test_outputs_that_do_not_go_with_the_options_are_refused(options: Any, outputs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_of({"split": options, "outputs": outputs})


@settings(deadline=None, max_examples=25)
@given(st.lists(st.fixed_dictionaries({"user": st.none() | st.integers(0, 5)}), max_size=12))
def test_parts_are_the_same_however_the_samples_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"split": {"field": "user"}, "outputs": SHARES}, samples)
    assert_same_however_cut({"split": {}, "outputs": SHARES}, samples)
