"""What stages measure of single samples: held to what each declares, on its way beside the samples."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from data_bridge.errors import FatalError
from data_bridge.model.batch import RowFailure
from data_bridge.runtime.schemas import COSTS, KEYS, fields_of, model_of

if TYPE_CHECKING:
    from data_bridge.runtime.stage import Result, Stage, StageBatch

SECONDS, COST = COSTS
BASE = tuple((key,) for key in (*KEYS, *COSTS))
NANO = 1_000_000_000
"""Of a dollar: what is paid adds up to the same in whatever order."""


RowMetrics: TypeAlias = tuple[tuple[int, Mapping[str, Any]], ...]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Measured(msgspec.Struct, Generic[T_co], frozen=True):
    """What the function of `each` or `several` gives for a row, with what it measured of it (`metrics_schema`)."""

    value: T_co
    metrics: Mapping[str, Any]


def parted(found: "Sequence[T | Measured[T]]", positions: NDArray[np.int64]) -> tuple[list[T], RowMetrics]:
    """What a function gave for the rows at these positions, and what it measured of them."""
    if Measured not in set(map(type, found)):
        return cast("list[T]", found), ()
    pairs = zip(found, positions.tolist(), strict=True)
    metrics = tuple((row, one.metrics) for one, row in pairs if isinstance(one, Measured))
    return [one.value if isinstance(one, Measured) else one for one in found], metrics


class ItemMetrics(msgspec.Struct, frozen=True):
    """What a stage measured of one row. `offset` and `index` are those of the sample it came from, `number` its place among
    the rows of that sample where there may be several."""

    stage: str
    offset: int
    index: int
    number: int | None
    values: Mapping[str, Any] | None
    """With the seconds it took; None where nobody wants to know, or the row failed."""
    nano_usd: int


def measured(
    name: str,
    stage: "Stage[Any]",
    given: "StageBatch",
    offsets: Sequence[int] | np.ndarray[Any, Any],
    results: "Sequence[Result]",
    failures: Sequence[RowFailure],
    seconds: float,
    *,
    several: bool,
) -> Iterator[ItemMetrics]:
    """What a stage measured of the rows it was given, which took it so many seconds together; their `failures` are by row.

    Raises FatalError for what it does not declare.
    """
    found = {row: values for result in reversed(results) for row, values in result.metrics}
    if not found:
        return
    if min(found) < 0 or max(found) >= len(given):
        raise FatalError(f"stage {name} measured rows it was not given")
    failed = {failure.offset for failure in failures}
    numbers = places(given.indices.tolist()) if several else None
    for row in sorted(found):
        kept = stage.reported and row not in failed
        values = {SECONDS: seconds / len(given), **found[row]} if kept else found[row]
        nano = _nano(name, values.get(COST))
        if not kept and not nano:
            continue
        if kept:
            _hold(name, stage, values)
        number = None if numbers is None else numbers[row]
        yield ItemMetrics(name, int(offsets[row]), int(given.indices[row]), number, values if kept else None, nano)


def places(indices: Sequence[int]) -> list[int]:
    """For each row, how many of the same sample stand before it."""
    seen: dict[int, int] = {}
    found = []
    for index in indices:
        found.append(seen.get(index, 0))
        seen[index] = found[-1] + 1
    return found


def _nano(name: str, cost: Any) -> int:
    if cost is None:
        return 0
    if isinstance(cost, bool) or not isinstance(cost, (int, float, np.number)) or not 0 <= cost < math.inf:
        raise FatalError(f"stage {name} measured what is wrong: {COST} {cost!r}, where dollars are expected")
    return round(float(cost) * NANO)


def _hold(name: str, stage: "Stage[Any]", values: Mapping[str, Any]) -> None:
    """Raises FatalError for values that are not what the stage declares."""
    declared = fields_of(stage.metrics_schema)
    for value in values:
        if value not in declared and value not in COSTS:
            raise FatalError(f"stage {name} measured `{value}`, which its metrics_schema does not declare")
    if not declared:
        return
    own = {key: _plain(value) for key, value in values.items() if key in declared}
    try:
        model_of(stage.metrics_schema).__pydantic_validator__.validate_python(own, strict=True)
    except ValidationError as error:
        # what is known of every sample is not the stage's to tell
        wrong = [e for e in error.errors(include_url=False) if e["loc"][:1] not in BASE]
        if wrong:
            field = ".".join(map(str, wrong[0]["loc"])) or "a value"
            raise FatalError(f"stage {name} measured what is wrong: `{field}`: {wrong[0]['msg']}") from None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
