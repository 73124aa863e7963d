"""What an instance of a stage says to a command, and how it is told those that were accepted before."""

import pytest
from support.live_calls import Amplifier, AmplifierOptions

from data_bridge.errors import FatalError
from data_bridge.model.changes import Change
from data_bridge.runtime.commands import RefusedError, said, told
from data_bridge.runtime.control import Request
from data_bridge.runtime.stage import Result, Stage, StageBatch, StageOptions


def change(number: int, command: str, value: object, stage: str = "amp", key: str = "") -> Change:
    return Change(number=number, id=str(number), stage=stage, key=key, value=value, command=command)


class Silent(Stage[StageOptions]):
    """Has no commands."""

    kind = "silent"

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


def test_a_stage_without_commands_understands_none() -> None:
    assert said(Silent(StageOptions()), Request("gain")) is None


def test_an_instance_is_told_what_its_stage_was_told_in_that_order_and_nothing_else() -> None:
    stage = Amplifier(AmplifierOptions())

    told(
        stage,
        "amp",
        [
            change(0, "gain", 3),
            change(1, "gain", 5, stage="other"),
            change(2, "set", 7, key="most"),
            change(3, "gain", 2),
        ],
    )

    assert said(stage, Request("gains")) == {"gains": [3, 2]}


def test_what_a_stage_raises_is_its_refusal() -> None:
    with pytest.raises(RefusedError, match="TypeError: a gain is a whole number"):
        said(Amplifier(AmplifierOptions()), Request("gain", value="loud"))


@pytest.mark.parametrize(
    ("command", "why"), [("gain", "a gain is at most 1"), ("whistle", "it does not understand it")]
)
def test_one_that_does_not_do_what_another_accepted_is_fatal(command: str, why: str) -> None:
    with pytest.raises(FatalError, match=f"stage amp accepted `{command} 3` and does not do it now: {why}"):
        told(Amplifier(AmplifierOptions(most=1)), "amp", [change(0, command, 3)])
