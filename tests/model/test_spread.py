"""Quantiles from counts in buckets: near those of the values, whoever counted and in whatever order, in bounded memory."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.model import spread

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def counted(values: list[float]) -> spread.Buckets:
    buckets: spread.Buckets = {}
    for value in values:
        spread.add(buckets, value)
    return buckets


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("draw", [random.random, lambda: random.gauss(0, 5), lambda: random.lognormvariate(3, 2)])
def test_a_quantile_is_within_two_percent_of_that_of_the_values(share: float, draw: object) -> None:
    random.seed(7)
    values = sorted(draw() for _ in range(5000))  # type: ignore[operator]

    found = spread.quantile(counted(values), share)

    assert found == pytest.approx(values[math.ceil(share * 5000) - 1], rel=0.021, abs=1e-9)


@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_two_places_together_count_what_one_would_have_counted(one: list[float], other: list[float]) -> None:
    assert spread.both(counted(one), counted(other)) == counted(other + one)


def test_any_number_of_values_takes_few_buckets() -> None:
    random.seed(7)
    values = [random.choice((-1, 1)) * 10 ** random.uniform(-30, 30) for _ in range(200_000)]

    assert len(counted(values)) < 3000
    assert counted([math.nan]) == {}
    assert spread.quantile({}, 0.5) is None
    assert spread.quantile(counted([0.0, -0.0]), 0.5) == 0
    assert spread.quantile(counted([math.inf]), 0.5) == pytest.approx(1e15, rel=0.03)
