"""What a stage's own commands are answered, and what of it is ordered."""

from typing import Any

import pytest
from support.live_calls import Amplifier

from data_bridge.config import Settings
from data_bridge.engine.orders import Orders
from data_bridge.engine.switchboard import Switchboard
from data_bridge.runtime.control import Reply, Request, Response

AMPLIFIER = f"{Amplifier.__module__}:Amplifier"


class Desk:
    """A switchboard and the orders it gives."""

    def __init__(self, *more: dict[str, Any]) -> None:
        self.orders = Orders()
        stages = [{AMPLIFIER: {}, "name": "amp"}, {AMPLIFIER: {"most": 5}, "name": "small"}, *more]
        settings = Settings.model_validate({"pipeline": {"input_uri": "in.jsonl", "stages": stages}})
        self._board = Switchboard(settings, "0123456789abcdef", self.orders)

    def __call__(self, command: str, stage: str | None = None, key: str | None = None, value: Any = None) -> Response:
        return self._board.answer(Request(command, stage, key, value, "7"))

    @property
    def ordered(self) -> list[tuple[int, str, str, str, Any]]:
        return [(c.number, c.stage, c.command, c.key, c.value) for c in self.orders.standing.changes]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_accepted_command_is_ordered_like_a_change(desk: Desk) -> None:
    assert desk("gain", "amp", "all", 3).replies == {"amp": Reply(accepted=True)}
    assert desk("set", "amp", "most", 50).replies == {"amp": Reply(accepted=True)}
    assert desk("gain", "amp", None, 2).replies == {"amp": Reply(accepted=True)}

    assert desk.ordered == [
        (0, "amp", "gain", "all", 3),
        (1, "amp", "set", "most", 50),
        (2, "amp", "gain", "", 2),
    ]


def test_a_question_is_answered_by_one_that_was_told_all_before_and_orders_nothing(desk: Desk) -> None:
    desk("gain", "amp", "all", 3)
    desk("gain", "amp", "all", 2)
    ordered = desk.ordered

    assert desk("gains", "amp").replies == {"amp": Reply(accepted=True, data={"gains": [3, 2]})}
    assert desk.ordered == ordered


def test_without_a_stage_everybody_is_asked_and_those_answer_that_understand(desk: Desk) -> None:
    replies = desk("gain", None, "all", 7).replies

    assert replies["engine"] is None
    assert replies["amp"] == Reply(accepted=True)
    assert replies["small"] == Reply(accepted=False, reason="a gain is at most 5")
    assert desk.ordered == [(0, "amp", "gain", "all", 7)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("3", "TypeError: a gain is a whole number"),
        (101, "a gain is at most 100"),
        (
            {"token": "abc"},
            "gain: it holds what sounds like a secret, and a command is written down at the destination",
        ),
    ],
)
def test_what_it_raises_refuses_with_its_words_and_orders_nothing(desk: Desk, value: Any, why: str) -> None:
    assert desk("gain", "amp", "all", value).replies == {"amp": Reply(accepted=False, reason=why)}
    assert desk.ordered == []


def test_an_answer_that_cannot_be_passed_on_orders_nothing(desk: Desk) -> None:
    reply = desk("odd", "amp").replies["amp"]

    assert reply is not None
    assert not reply.accepted
    assert reply.reason.startswith("its `control` gave what is no dictionary of plain JSON values: ")
    assert desk.ordered == []


@pytest.mark.parametrize(("command", "key"), [("loudness", None), ("gain", "left"), ("pause", None)])
def test_none_is_not_understood(desk: Desk, command: str, key: str | None) -> None:
    answer = desk(command, "amp", key, 3)

    assert answer.replies == {"amp": None}
    assert answer.error == f"amp does not understand {command!r}"
    assert desk.ordered == []


def test_a_stage_that_samples_pass_by_is_told_nothing(desk: Desk) -> None:
    desk("bypass", "amp")

    refused = desk("gain", "amp", "all", 3).replies["amp"]

    assert refused == Reply(accepted=False, reason="samples pass it unchanged: enable it first")


def test_nothing_is_told_to_what_stands_before_a_stage_that_has_looked_at_all_samples() -> None:
    desk = Desk({"dedupe": {}})

    refused = desk("gain", "amp", "all", 3).replies["amp"]

    assert refused is not None
    assert refused.reason.startswith("dedupe has looked at all samples as they are now")
    assert desk("gains", "amp").replies == {"amp": Reply(accepted=True, data={"gains": []})}


def test_they_are_described(desk: Desk) -> None:
    described = desk("describe", "amp").replies["amp"]

    assert described is not None
    assert described.data["commands"] == ["set", "bypass", "enable", "describe", "gain", "odd", "gains"]
    assert described.data["own_commands"]["gains"] == "the factors up to now"
