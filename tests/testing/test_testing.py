"""What the tools for authors of stages find: each broken stage here breaks one promise."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from data_bridge.errors import ConfigError, FatalError
from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Media, Row, RowFailure
from data_bridge.runtime.control import Request
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.stage import (
    Fields,
    Result,
    RowSchema,
    Stage,
    StageBatch,
    StageOptions,
    StatefulStage,
)
from data_bridge.testing import StageContract, assert_resumes, assert_same_however_cut, forms, run_stage

SAMPLES: list[Row] = [{"n": n} for n in range(60)]
HERE = f"{__file__}:"


class Plain(Stage[StageOptions]):
    """Keeps every promise."""

    kind = "plain"

    def fields(self, fields: Fields) -> Fields:
        return fields

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


class Remembering(Plain):
    """Numbers samples in the order in which this process sees them."""

    seen = 0

    def process(self, batch: StageBatch) -> Result:
        def numbered(row: Row) -> Row:
            Remembering.seen += 1
            return {**row, "n": Remembering.seen}

        return batch.each(numbered)


class CountingInItsBatch(Plain):
    def process(self, batch: StageBatch) -> Result:
        return batch.same(DictRows([{"n": at} for at in range(len(batch))]))


class Starting(Plain):
    def __init__(self, options: StageOptions, outlets: Any = ()) -> None:
        super().__init__(options, outlets)
        self.ended = threading.Event()
        threading.Thread(target=self.ended.wait, daemon=True).start()

    def close(self) -> None:
        self.ended.set()


class Changing(Plain):
    def process(self, batch: StageBatch) -> Result:
        assert isinstance(batch.rows, DictRows)
        for row in batch.rows.rows:
            row["n"] = 0
        return batch.same(batch.rows)


class Unordered(Plain):
    def process(self, batch: StageBatch) -> Result:
        return batch.only(np.arange(len(batch), dtype=np.int64)[::-1].copy())


class DroppingInSilence(Plain):
    def process(self, batch: StageBatch) -> Result:
        return batch.only(np.arange(1, len(batch), dtype=np.int64))


class FailingAndKeeping(Plain):
    def process(self, batch: StageBatch) -> Result:
        failures = (RowFailure(0, "no"),) if len(batch) else ()
        return msgspec.structs.replace(batch.same(batch.rows), failures=failures)


class AddingAField(Plain):
    def process(self, batch: StageBatch) -> Result:
        return batch.each(lambda row: {**row, "m": 1})


class KnowingByNumber(StatefulStage[StageOptions]):
    """JSON has no keys but texts."""

    kind = "knowing"

    def save_state(self) -> Any:
        return {1: "one"}

    def load_state(self, state: Any) -> None:
        assert state == self.save_state()

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


class Answering(Plain):
    """Every instance has an answer of its own."""

    commands = {"whoami": "its number"}
    made = 0

    def control(self, request: Request) -> dict[str, Any] | None:
        Answering.made += 1
        return {"number": Answering.made} if request.command == "whoami" else None


class UnderstandingAll(Plain):
    def control(self, request: Request) -> dict[str, Any] | None:
        return {"done": request.command}


class Summing(Plain):
    """Reads what it has overwritten already."""

    def process(self, batch: StageBatch) -> Result:
        def summed(row: Row) -> Row:
            numbers = row.get("numbers", [])
            made = numbers if "numbers" in batch.mine else list(numbers)
            for at in range(1, len(made)):
                made[at] = numbers[at] + numbers[at - 1]
            return {**row, "numbers": made}

        return batch.each(summed)


class BareOptions(StageOptions):
    most: int = 1


class Undescribed(Plain):
    Options = BareOptions


class Contract(StageContract):
    samples = SAMPLES[:5]
    requests = [Request("whoami")]


def promises(kind: type[Stage[Any]]) -> Mapping[str, Callable[[], None]]:
    case: Any = type("Case", (Contract,), {"kind": f"{HERE}{kind.__name__}"})()
    return {name: getattr(case, name) for name in dir(case) if name.startswith("test_")}


def test_a_stage_that_keeps_every_promise_passes() -> None:
    case: Any = type("Case", (Contract,), {"kind": f"{HERE}Plain", "requests": ()})()
    for promise in promises(Plain):
        getattr(case, promise)()


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Starting, "test_making_one_starts_no_thread"),
        (Undescribed, "test_every_option_says_what_it_is_and_when_it_may_change"),
        (Remembering, "test_the_same_samples_make_the_same"),
        (CountingInItsBatch, "test_it_makes_the_same_however_the_samples_are_cut"),
        (Changing, "test_samples_it_was_given_stay_as_they_are"),
        (Unordered, "test_every_result_says_where_its_samples_came_from"),
        (FailingAndKeeping, "test_a_failure_is_a_value_and_no_sample_is_left_of_it"),
        (DroppingInSilence, "test_what_it_says_of_itself_is_so"),
        (AddingAField, "test_the_fields_it_promises_are_those_it_makes"),
        (Answering, "test_commands_are_answered_and_done_alike_by_every_instance"),
        (UnderstandingAll, "test_commands_are_answered_and_done_alike_by_every_instance"),
    ],
)
def test_a_stage_that_breaks_a_promise_fails_the_test_of_it(kind: type[Stage[Any]], promise: str) -> None:
    with pytest.raises(AssertionError):
        promises(kind)[promise]()


def test_a_state_that_no_record_can_keep_fails_the_test_of_resuming() -> None:
    with pytest.raises(FatalError, match="its state cannot be kept"):
        promises(KnowingByNumber)["test_one_that_loads_what_another_saved_goes_on_as_that_one_would"]()


def test_a_stage_that_makes_something_else_in_place_fails_the_test_of_it() -> None:
    case: Any = type("Case", (Contract,), {"kind": f"{HERE}Summing", "samples": [{"numbers": [1, 2, 3]}]})()

    with pytest.raises(AssertionError):
        case.test_it_makes_the_same_in_memory_that_it_may_overwrite()


def test_options_that_are_accepted_although_they_were_to_be_refused_are_told() -> None:
    case: Any = type(
        "Case", (Contract,), {"kind": "select", "options": {"fields": ["n"]}, "refused": [{"fields": ["n"]}]}
    )()

    with pytest.raises(AssertionError, match="was accepted"):
        case.test_options_it_cannot_work_with_are_refused_when_the_plan_is_made()


def test_a_stage_is_given_samples_in_every_form_that_can_hold_them() -> None:
    def names(*samples: Row) -> list[str]:
        return [name for name, _ in forms(samples)]

    assert names({"a": 1, "b": [1.5]}) == ["dictionaries", "lines", "columns"]
    assert names({"a": 1}, {"b": 2}) == ["dictionaries", "lines"], "a column would make null of what is missing"
    assert names({"a": 1}, {"a": "x"}) == ["dictionaries", "lines"]
    assert names({"a": b"x"}) == ["dictionaries", "columns"]
    assert names({"a": Media(b"x")}) == ["dictionaries"]
    held = dict(forms([{"a": 1}]))
    assert (type(held["lines"]), type(held["columns"])) == (LineRows, ArrowRows)


def test_source_indices_and_key_space_are_those_asked_for() -> None:
    run = run_stage({"sample": {"every": 10}}, SAMPLES, first_index=5, batch=7)

    assert run.samples == [{"n": n} for n in range(60) if (n + 5) % 10 == 0]
    assert run.origins["out"] == [n for n in range(60) if (n + 5) % 10 == 0]


def test_a_failure_has_the_place_among_all_samples() -> None:
    run = run_stage({"cast": {"fields": {"n": "int8"}}}, [{"n": 1}] * 5 + [{"n": 300}], batch=2)

    assert run.reasons == {5: "field 'n' is 300, which does not fit int8"}


def test_a_config_that_is_wrong_is_refused_as_in_a_run() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.stages\.sample"):
        run_stage({"sample": {"fractions": 1}}, SAMPLES)
    with pytest.raises(ConfigError, match="exactly one kind"):
        run_stage({"sample": {"every": 1}, "limit": {"count": 1}}, SAMPLES)


def test_a_stage_whose_result_goes_by_its_batch_is_found() -> None:
    with pytest.raises(AssertionError, match="1 at a time"):
        assert_same_however_cut({f"{HERE}CountingInItsBatch": {}}, SAMPLES)


def test_a_stage_that_remembers_is_found_by_a_kill(tmp_path: Path) -> None:
    Remembering.seen = 0

    with pytest.raises(AssertionError, match="other than undisturbed"):
        assert_resumes({f"{HERE}Remembering": {}}, SAMPLES, tmp_path, kills=1)


def test_samples_that_no_source_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no source can be made"):
        assert_resumes({"select": {"fields": ["a"]}}, [{"a": Media(b"x")}], tmp_path)


class Weight(BaseModel):
    weight: float
    digits: int


class Shown(BaseModel):
    weight: float


class Weighing(Plain):
    """Measures what it passes; 3 is a failure, and its cost is told all the same."""

    metrics_schema: ClassVar[RowSchema] = Weight
    report_schema: ClassVar[RowSchema] = Shown

    def process(self, batch: StageBatch) -> Result:
        def weighed(row: Row) -> Measured[Row]:
            if row["n"] == 3:
                raise ValueError("too light")
            return Measured(row, {"weight": row["n"] / 2, "digits": len(str(row["n"])), "cost_usd": 0.25})

        return batch.each(weighed)


class WeighingByPlace(Weighing):
    """Measures where in its batch a sample is."""

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows).measuring({at: {"weight": at, "digits": 1} for at in range(len(batch))})


class WeighingTooMuch(Weighing):
    def process(self, batch: StageBatch) -> Result:
        return batch.each(lambda row: Measured(row, {"weight": 1.0, "digits": 1, "height": 2}))


def test_what_a_stage_measures_is_there_to_be_looked_at() -> None:
    run = run_stage(Weighing(StageOptions()), SAMPLES[2:5], first_index=2)

    assert run.samples == [{"n": 2}, {"n": 4}]
    assert run.report == [{"index": 2, "weight": 1.0}, {"index": 4, "weight": 2.0}]
    assert run.metrics[1] == {"index": 4, "weight": 2.0, "digits": 1, "cost_usd": 0.25}
    assert run_stage(Plain(StageOptions()), SAMPLES).metrics == []


def test_a_stage_that_measures_something_else_when_cut_otherwise_is_found_out() -> None:
    assert_same_however_cut(Weighing(StageOptions()), SAMPLES)

    with pytest.raises(AssertionError, match="at first"):
        assert_same_however_cut(WeighingByPlace(StageOptions()), SAMPLES)


def test_a_stage_that_measures_what_it_does_not_declare_is_found_out() -> None:
    with pytest.raises(FatalError, match="measured `height`, which its metrics_schema does not declare"):
        run_stage(WeighingTooMuch(StageOptions()), SAMPLES)


class ShowingTime(Weighing):
    report_schema = pa.schema({"weight": pa.float64(), "cost_usd": pa.float64()})


class ShowingMore(Weighing):
    report_schema = pa.schema({"weight": pa.float64(), "height": pa.float64()})


class ShowingText(Weighing):
    report_schema = pa.schema({"weight": pa.string()})


class ShowingOfNothing(Plain):
    report_schema = Shown


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (ShowingTime, "ShowingTime.report_schema: `cost_usd` tells nothing of quality"),
        (ShowingMore, r"ShowingMore.report_schema: `height` is none of its metrics \(weight, digits\)"),
        (ShowingText, "ShowingText.report_schema: `weight` is text, and float in metrics_schema"),
        (
            ShowingOfNothing,
            r"ShowingOfNothing.report_schema: `weight` is none of its metrics \(it has no metrics_schema\)",
        ),
    ],
)
def test_a_stage_whose_report_shows_what_it_does_not_measure_cannot_be_made(stage: type[Plain], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stage(StageOptions())
