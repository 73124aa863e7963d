"""What a config may demand of a field's value without a function; used by `filter`."""

import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any, Final, Self, TypeAlias

import numpy as np
import pyarrow.types as pt
from numpy.typing import NDArray
from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from data_bridge.config.fields import Count, refuse_bool
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media
from data_bridge.rows.arrow import is_binary, is_text
from data_bridge.rows.buffers import Column, lengths, numbers, pc, valid
from data_bridge.runtime.stage import Skip, StageOptions, option
from data_bridge.stages.named import ANYTHING, NUMBERS

Number = Annotated[StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)], BeforeValidator(refuse_bool)]
Plain: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr
Test: TypeAlias = Callable[[Any], bool]
"""Whether a value (None: null or missing) will do. Raises Skip for one that cannot be asked: `text, not a number`."""

_EXACT_FLOAT: Final = 2**53
_CONTAINERS: Final = (str, bytes, list, tuple, np.ndarray)


class Condition(StageOptions):
    """Everything given must hold. Null and missing values meet nothing but `null: true`."""

    min: Number | None = option(None, live="any", description="numbers: at least this")
    max: Number | None = option(None, live="any", description="numbers: at most this")
    one_of: tuple[Plain, ...] | None = option(None, live="any", alias="in", description="one of these values")
    not_in: tuple[Plain, ...] | None = option(None, live="any", description="none of these values")
    min_length: Count | None = option(None, live="any", ge=0, description="characters, bytes or items at least")
    max_length: Count | None = option(None, live="any", ge=0, description="characters, bytes or items at most")
    matches: str | None = option(
        None, live="any", description="text: a regular expression (Python's) that is found in it; `^` and `$` bind it"
    )
    null: StrictBool | None = option(None, live="any", description="true: null or missing; false: there is a value")

    @field_validator("matches")
    @classmethod
    def _is_regular(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _something_that_can_hold(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if not given:
            raise ValueError("it demands nothing")
        if self.null and len(given) > 1:
            raise ValueError("`null: true` excludes every other demand")
        for low, high in ((self.min, self.max), (self.min_length, self.max_length)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"nothing is at least {low} and at most {high}")
        return self

    @property
    def measures(self) -> bool:
        """Whether it asks for a number."""
        return self.min is not None or self.max is not None

    @property
    def counts(self) -> bool:
        """Whether it asks for a length."""
        return self.min_length is not None or self.max_length is not None

    def check(self, name: str, kind: str) -> None:
        """Raises ConfigError where no value of the field's type can be asked this."""
        if kind in ANYTHING:
            return
        if self.measures and kind not in NUMBERS and not kind.startswith("decimal"):
            raise ConfigError(f"where.{name}: the field is {kind}, `min` and `max` compare numbers")
        if self.counts and not (kind in ("string", "binary", "media") or kind.startswith(("list<", "fixed_size_bin"))):
            raise ConfigError(f"where.{name}: the field is {kind}, which has no length")
        if self.matches is not None and kind != "string":
            raise ConfigError(f"where.{name}: the field is {kind}, `matches` is for text")
        texts = kind == "string"
        for value in (*(self.one_of or ()), *(self.not_in or ())):
            if kind in ("string", "bool", *NUMBERS) and isinstance(value, str) != texts:
                hint = "YAML takes words such as no, on and 1.0 for other things: put them in quotes" if texts else ""
                raise ConfigError(f"where.{name}: the field is {kind}, which {value!r} never equals", hint=hint)


def tests_of(condition: Condition) -> tuple[Test, ...]:
    """The condition as tests, which must all hold."""
    return tuple(_tests(condition))


def _tests(condition: Condition) -> Iterator[Test]:
    if condition.null is not None:
        wanted = condition.null
        yield lambda value: (value is None) == wanted
        if wanted:
            return
    if condition.measures:
        low = -math.inf if condition.min is None else condition.min
        high = math.inf if condition.max is None else condition.max
        yield lambda value: value is not None and low <= _number(value) <= high
    if condition.counts:
        least, most = condition.min_length or 0, condition.max_length
        yield lambda value: value is not None and least <= (n := _length(value)) and (most is None or n <= most)
    for values, inside in ((condition.one_of, True), (condition.not_in, False)):
        if values is not None:
            yield _membership(values, inside=inside)
    if condition.matches is not None:
        search = re.compile(condition.matches).search
        yield lambda value: value is not None and search(_text(value)) is not None


def _membership(values: tuple[Any, ...], *, inside: bool) -> Test:
    truths = frozenset(value for value in values if isinstance(value, bool))
    others = frozenset(value for value in values if not isinstance(value, bool))

    def test(value: Any) -> bool:
        if value is None:
            return False
        if isinstance(value, (bool, np.bool_)):
            return (bool(value) in truths) == inside  # to Python, true is 1
        if isinstance(value, (list, dict, np.ndarray)):
            raise Skip(f"{_called(value)}, not a single value (`in` and `not_in` compare those)")
        return (value in others) == inside

    return test


def _called(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, (list, tuple, np.ndarray)):
        return "a list"
    return "an object" if isinstance(value, dict) else f"of type {type(value).__name__}"


def _number(value: Any) -> Any:
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Skip(f"{_called(value)}, not a number (`min` and `max` compare numbers)")
    return math.nan if isinstance(value, Decimal) and value.is_nan() else value


def _length(value: Any) -> int:
    if isinstance(value, Media):
        return len(value.data)
    if not isinstance(value, _CONTAINERS):
        raise Skip(f"{_called(value)}, which has no length")
    return len(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Skip(f"{_called(value)}, not text (`matches` is for text)")
    return value


def quick_verdicts(condition: Condition, column: Column) -> NDArray[np.bool_] | None:
    """What the tests say of every value of a column, none of which can fail; None where they must be asked one by one."""
    if condition.one_of is not None or condition.not_in is not None or condition.matches is not None:
        return None
    verdicts = np.ones(len(column), dtype=np.bool_)
    if condition.measures:
        within = _within(condition, column)
        if within is None:
            return None
        verdicts &= within
    if condition.counts:
        found = _lengths(column)
        if found is None:
            return None
        verdicts &= found >= (condition.min_length or 0)
        if condition.max_length is not None:
            verdicts &= found <= condition.max_length
    if column.null_count or condition.null:
        there = valid(column)
        verdicts &= ~there if condition.null else there
    return verdicts


def _within(condition: Condition, column: Column) -> NDArray[np.bool_] | None:
    bounds = [bound for bound in (condition.min, condition.max) if bound is not None]
    if pt.is_integer(column.type):
        values = numbers(column)
        low, high = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
        least = low if condition.min is None else math.ceil(condition.min)
        most = high if condition.max is None else math.floor(condition.max)
        if least > high or most < low:
            return np.zeros(len(column), dtype=np.bool_)
        within: NDArray[np.bool_] = (values >= max(least, low)) & (values <= min(most, high))
        return within
    if pt.is_floating(column.type) and all(abs(bound) <= _EXACT_FLOAT for bound in bounds):
        values = numbers(column).astype(np.float64)
        verdicts: NDArray[np.bool_] = ~np.isnan(values)
        if condition.min is not None:
            verdicts &= values >= float(condition.min)
        if condition.max is not None:
            verdicts &= values <= float(condition.max)
        return verdicts
    return None


def _lengths(column: Column) -> NDArray[np.int64] | None:
    kind = column.type
    if pt.is_string(kind) or pt.is_large_string(kind):
        return numbers(pc.utf8_length(column)).astype(np.int64)
    if is_text(kind):
        return None
    if (is_binary(kind) and not pt.is_binary_view(kind)) or pt.is_list(kind) or pt.is_large_list(kind):
        return lengths(column)
    return None
