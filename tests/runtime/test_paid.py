"""An answer that is paid for is kept before it is used, and found again for the same sample asked the same way."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest

from data_bridge.errors import FatalError
from data_bridge.model.answers import AnswerRecord, Paid, together
from data_bridge.model.batch import DictRows, Media, Row
from data_bridge.pipelines.journal import record
from data_bridge.runtime.pace import Pace
from data_bridge.runtime.paid import Answer, Asking, PaidStage, options_digest
from data_bridge.runtime.stage import PLACE_BITS, Skip, StageBatch, StageOptions
from data_bridge.testing import StageContract
from data_bridge.utils.progress import dump


class Teller(PaidStage[StageOptions]):
    """Tells how often it was asked; changes what it is given, as foreign code may."""

    kind = "teller"

    def __init__(self, value: Any = None) -> None:
        super().__init__(StageOptions())
        self.asked = 0
        self.value = value
        self.error: Exception | None = None

    def ask(self, row: Row) -> Answer:
        self.asked += 1
        if self.error is not None:
            raise self.error
        row.get("tags", []).append("asked")
        return Answer((self.asked, "told") if self.value is None else self.value, 0.25, 10, 2)

    def use(self, row: Row, value: Any) -> Row:
        if value == "bad":
            raise Skip("of no use")
        return {**row, "told": value}

    def example(self, row: Row) -> Any:
        row.get("tags", []).append("rehearsed")
        return (0, "as it may be")


class Shelf:
    """A journal in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, AnswerRecord] = {}

    def recall(self, key: str) -> bytes | None:
        return bytes(self.kept[key].value) if key in self.kept else None

    def keep(self, record: AnswerRecord) -> None:
        assert record.key not in self.kept
        self.kept[record.key] = record


def asking(stage: Teller, shelf: Shelf, name: str = "teller", digest: str = "d") -> Asking:
    return Asking(stage, name, digest, shelf, Pace(lambda: None))


def test_the_first_use_of_an_answer_is_that_of_every_later_one() -> None:
    stage, shelf, row = Teller(), Shelf(), {"id": 1, "tags": ["a"]}

    first = asking(stage, shelf).one(row, 5 << PLACE_BITS)
    later = asking(stage, shelf).one(row, 5 << PLACE_BITS)

    assert first == later == {"id": 1, "tags": ["a"], "told": [1, "told"]}
    assert stage.asked == 1
    (kept,) = shelf.kept.values()
    assert (kept.stage, kept.index, kept.paid) == (
        "teller",
        5,
        Paid(answers=1, cost_usd=0.25, tokens_in=10, tokens_out=2),
    )


@pytest.mark.parametrize(
    "other",
    [
        {"row": {"id": 2, "jpg": Media(b"x", "a.jpg")}},
        {"row": {"id": 1, "jpg": Media(b"y", "a.jpg")}},
        {"identity": 6},
        {"name": "another"},
        {"digest": "other options"},
    ],
    ids=str,
)
def test_another_sample_or_other_options_have_another_answer(other: dict[str, Any]) -> None:
    stage, shelf = Teller(), Shelf()
    asking(stage, shelf).one({"id": 1, "jpg": Media(b"x", "a.jpg")}, 5)

    again = {"row": {"id": 1, "jpg": Media(b"x", "a.jpg")}, "identity": 5, "name": "teller", "digest": "d", **other}
    asking(stage, shelf, again["name"], again["digest"]).one(again["row"], again["identity"])

    assert stage.asked == len(shelf.kept) == 2


def test_the_digest_of_options_is_that_of_their_values_in_any_order() -> None:
    assert options_digest("k", {"a": 1, "b": [2]}) == options_digest("k", {"b": [2], "a": 1})
    assert options_digest("k", {"a": 1}) != options_digest("k", {"a": 2})
    assert options_digest("k", {"a": 1}) != options_digest("other", {"a": 1})


def test_a_call_that_fails_is_no_answer_and_one_of_no_use_is() -> None:
    stage, shelf = Teller("bad"), Shelf()
    stage.error = ConnectionError("away")
    with pytest.raises(ConnectionError):
        asking(stage, shelf).one({}, 0)
    assert not shelf.kept

    stage.error = None
    for _ in range(2):
        with pytest.raises(Skip):
            asking(stage, shelf).one({}, 0)

    assert (len(shelf.kept), stage.asked) == (1, 2)


def test_a_value_that_json_cannot_hold_ends_the_run() -> None:
    with pytest.raises(FatalError, match="teller: the value of an answer cannot be kept"):
        asking(Teller(object()), Shelf()).one({}, 0)


def test_in_a_rehearsal_nobody_is_asked() -> None:
    stage = Teller()
    rows = [{"id": 1, "tags": ["a"]}]

    made = stage.process(StageBatch(DictRows(rows), np.arange(1, dtype=np.int64)))

    assert stage.asked == 0
    assert isinstance(made.rows, DictRows)
    assert made.rows.rows == [{"id": 1, "tags": ["a"], "told": [0, "as it may be"]}]


@pytest.mark.parametrize("cost", [(-0.1, 0, 0), (float("nan"), 0, 0), (float("inf"), 0, 0), (0, -1, 0), (0, 0, -1)])
def test_what_is_no_cost_is_refused(cost: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="are no cost"):
        Answer("x", *cost)


@pytest.mark.parametrize(
    ("cost", "tokens"),
    [(Decimal("0.25"), 3), (np.float64(0.25), np.int64(3)), (Fraction(1, 4), 3.0), (0.25, np.float64(3))],
    ids=str,
)
def test_costs_of_any_type_of_number_are_kept_as_they_are_found_again(cost: Any, tokens: Any) -> None:
    answer = Answer("x", cost, tokens, tokens)
    kept = AnswerRecord(
        stage="s",
        key="k",
        index=0,
        value=msgspec.Raw(b"1"),
        cost_usd=answer.cost_usd,
        tokens_in=answer.tokens_in,
        tokens_out=answer.tokens_out,
    )

    assert record(dump(kept), "here").paid == Paid(answers=1, cost_usd=0.25, tokens_in=3, tokens_out=3)


@pytest.mark.parametrize("cost", [("0.1", 0, 0), (True, 0, 0), (0, 1.5, 0), (0, 0, "3"), (None, 0, 0), (0, None, 0)])
def test_what_is_no_number_is_no_cost(cost: Any) -> None:
    with pytest.raises(ValueError, match="are no cost"):
        Answer("x", *cost)


def test_sums_of_costs_are_the_same_in_any_order() -> None:
    parts = [{"s": Paid(answers=1, cost_usd=round(n / 7e6, 9), tokens_in=n)} for n in range(1, 500)]

    forwards, backwards = together(parts), together(reversed(parts))

    assert forwards == backwards
    assert forwards["s"].answers == 499
    assert forwards["s"].cost_usd == round(sum(round(round(n / 7e6, 9) * 1e9) for n in range(1, 500)) / 1e9, 9)


class TestAPaidStageInRehearsal(StageContract):
    """What tests of an author see costs nothing."""

    kind = "support.oracle:Asks"
    options = {"url": "http://127.0.0.1:9/"}
    samples = [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"text": "no id"}]
    refused = [{}]
