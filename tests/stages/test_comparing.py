"""Conditions as people type them."""

from typing import Any

import pytest

from data_bridge.errors import ConfigError
from data_bridge.stages import conditions
from data_bridge.stages.comparing import compared

VALUES: list[Any] = [-1, 0, 1, 2.5, None]


def meets(text: str, values: list[Any]) -> list[Any]:
    _, condition = compared(text)
    return [value for value in values if all(test(value) for test in conditions.tests_of(condition))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x>0", [1, 2.5]),
        (" x >= 0 ", [0, 1, 2.5]),
        ("x < 1", [-1, 0]),
        ("x<=1", [-1, 0, 1]),
        ("x=1", [1]),
        ("x == 2.5", [2.5]),
        ("x != 1", [-1, 0, 2.5]),
        ("x = null", [None]),
        ("x != null", [-1, 0, 1, 2.5]),
    ],
)
def test_numbers_are_compared(text: str, expected: list[Any]) -> None:
    assert compared(text)[0] == "x"
    assert meets(text, VALUES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("x=a b", ["a b"]), ("x = '5'", ["5"]), ("x ~ ^a", ["a b"]), ("x~ '5$'", ["5"]), ('x != "5"', ["a b", ""])],
)
def test_texts_are_compared(text: str, expected: list[str]) -> None:
    assert meets(text, ["a b", "5", "", None]) == expected


def test_truth_is_compared() -> None:
    assert meets("x=true", [True, False, 1]) == [True]


@pytest.mark.parametrize("text", ["x", ">5", "", "x > word", "x ~ (", "x > null", "a b > 5"])
def test_what_is_no_condition_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="is no condition") as error:
        compared(text)

    assert "--filter" in error.value.hint
