"""How values are spread, in bounded memory: how many of them each bucket has, the buckets growing by 4 %.

A bucket is a number: 0 is of values next to nothing, n of positive ones, -n of negative ones. Counts of two places add up to
those of both, in any order, and a quantile of them is within 2 % of that of the values.
"""

import math
from collections.abc import Mapping

_GROWTH = 1.04
_LEAST, _MOST = 1e-9, 1e15
"""Values nearer to 0 count as 0; larger ones as this."""
_LOG = math.log(_GROWTH)
_FIRST = math.floor(math.log(_LEAST) / _LOG)

Buckets = dict[int, int]


def bucket(value: float) -> int | None:
    """The bucket of a value; None for one that is no number."""
    size = abs(value)
    if size < _LEAST:
        return 0
    if math.isnan(size):
        return None
    number = math.ceil(math.log(min(size, _MOST)) / _LOG) - _FIRST
    return number if value > 0 else -number


def add(buckets: Buckets, value: float, times: int = 1) -> None:
    """Count a value, so many times."""
    found = bucket(value)
    if found is not None:
        buckets[found] = buckets.get(found, 0) + times


def both(one: Mapping[int, int], other: Mapping[int, int]) -> Buckets:
    """The counts of two places together."""
    found = dict(one)
    for number, count in other.items():
        found[number] = found.get(number, 0) + count
    return found


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The value that this share of all (0.5: half of them) is not above; None where there are none."""
    left = math.ceil(share * sum(buckets.values()))
    for number in sorted(buckets):
        left -= buckets[number]
        if left <= 0:
            return _value(number)
    return None


def _value(number: int) -> float:
    """The middle of a bucket."""
    if number == 0:
        return 0.0
    middle = 2.0 * math.exp((abs(number) + _FIRST) * _LOG) / (1 + _GROWTH)
    return math.copysign(middle, number)
