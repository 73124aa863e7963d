"""What a stage knows is kept as it is, or refused: never changed on the way."""

from typing import Any

import pytest

from data_bridge.errors import FatalError
from data_bridge.pipelines.remembering import load, saved
from data_bridge.runtime.stage import Result, StageBatch, StageOptions, StatefulStage


class Knows(StatefulStage[StageOptions]):
    kind = "knows"

    def __init__(self, known: Any) -> None:
        super().__init__(StageOptions())
        self.known = known

    def save_state(self) -> Any:
        return self.known

    def load_state(self, state: Any) -> None:
        self.known = state

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"best": float("nan")}, r"it\['best'\] is nan"),
        ([0.5, float("-inf")], r"it\[1\] is -inf"),
        ({"seen": {3: "x"}}, r"it\['seen'\] has the key 3"),
        ({"digest": b"\x00\xff"}, r"it\['digest'\] is a bytes"),
        ({"pair": (1, 2)}, r"it\['pair'\] is a tuple"),
        ({"text": "\ud800"}, "surrogates"),
        (CIRCLE, ""),
    ],
)
def test_a_state_that_would_come_back_as_something_else_is_refused_with_its_place(known: Any, words: str) -> None:
    with pytest.raises(FatalError, match=f"stage best: its state cannot be kept: .*{words}"):
        saved("best", Knows(known))


@pytest.mark.parametrize(
    "known", [None, {"a": [1, -(1 << 63), 1 << 127, 0.1, 1e300, -0.0, True, None, "\u00e9\U0001f600", {}]}]
)
def test_plain_values_come_back_as_they_were(known: Any) -> None:
    other = Knows("nothing yet")
    load(other, saved("x", Knows(known)))

    assert repr(other.known) == repr(known)
