"""`signal`: scaling and a FIR filter for arrays of numbers."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray
from pydantic import Field, StrictFloat, StrictInt, model_validator

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Row, RowFailure
from data_bridge.rows.buffers import Column, bounds, column, lengths, numbers, overwritable, valid
from data_bridge.rows.picking import take
from data_bridge.runtime.stage import Fields, Outlet, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.made import list_column
from data_bridge.stages.named import ANYTHING, NUMBERS, column_of, look_up, type_of, with_columns

Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
_ITEM: Final = {"float32": "float", "float64": "double"}
MOST_COEFFICIENTS: Final = 4096
_PLAIN: Final = frozenset({int, float})
_NONE: Final = np.empty(0, dtype=np.bool_)
_HOLDS_NULL: Final = "holds null among its numbers"
_BLOCK: Final = 1 << 15
"""Numbers that are computed at a time, if no signal is longer."""


class SignalOptions(StageOptions):
    field: str = option(min_length=1, description="the field that holds a list of numbers, or lists of them (channels)")
    scale: Number = option(1, live="any", description="every number is multiplied by this")
    offset: Number = option(0, live="any", description="and this is added")
    coeffs: Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST_COEFFICIENTS)] | None = option(
        None, live="any", description="then a FIR filter: y[n] = c[0]·x[n] + c[1]·x[n−1] + …, with zeros before x[0]"
    )
    dtype: Literal["float32", "float64"] = option("float64", description="type of the numbers made")

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if any(abs(number) > sys.float_info.max for number in (self.scale, self.offset, *(self.coeffs or ()))):
            raise ValueError("scale, offset and coeffs are numbers that float64 can hold")
        return self


class Signal(Stage[SignalOptions]):
    """Scales lists of numbers and passes them through a FIR filter.

    Each list is a signal of its own: the filter begins anew with every sample (and every channel), and gives as many
    numbers as it was given. It computes in float64, in one order of additions, so that every machine makes the same
    bytes, and rounds to `dtype` at the end: in place, where the stage before it made the numbers for it alone. Null and missing values stay; a list with null or with anything but numbers
    is its sample's failure.
    """

    kind = "signal"
    Options = SignalOptions
    bypassable = False

    def __init__(self, options: SignalOptions, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(options, outlets)
        self._coeffs = None if options.coeffs is None else tuple(float(c) for c in options.coeffs)

    def fields(self, fields: Fields) -> Fields | None:
        name = self.options.field
        look_up(fields, [name], "field")
        kind = type_of(fields, name)
        if kind in ANYTHING:
            return None
        inner, depth = kind, 0
        while inner.startswith("list<"):
            inner, depth = inner[len("list<") : inner.rindex(">")], depth + 1
        if not depth or inner not in NUMBERS | {"null"}:
            raise ConfigError(f"field: {name!r} is {kind}, not a list of numbers")
        made = "list<" * depth + _ITEM[self.options.dtype] + ">" * depth
        return tuple(field.model_copy(update={"type": made}) if field.name == name else field for field in fields)

    def process(self, batch: StageBatch) -> Result:
        name = self.options.field
        if isinstance(batch.rows, ArrowRows):
            columns = partial(self._items, mine=name in batch.mine)
            found = _of_lists(column_of(batch.rows.batch, name), columns)
            if found is not None:
                return self._columns(batch, batch.rows.batch, *found).owning(name)
        return self._rows(batch).owning(name)

    def _columns(self, batch: StageBatch, columns: pa.RecordBatch, made: Column, bad: NDArray[np.bool_]) -> Result:
        rows = ArrowRows(with_columns(columns, {self.options.field: made}))
        if not bad.any():
            return batch.same(rows)
        good = np.flatnonzero(~bad).astype(np.int64)
        reason = f"field {self.options.field!r} {_HOLDS_NULL}"
        return Result(take(rows, good), good, tuple(RowFailure(at, reason) for at in np.flatnonzero(bad).tolist()))

    def _items(self, items: Column, ends: NDArray[np.int64], *, mine: bool) -> NDArray[Any]:
        """What becomes of signals that lie one after the other in a column."""
        values = numbers(items)
        there = overwritable(items) if mine and values.dtype == self.options.dtype else None
        made = np.empty(len(values), self.options.dtype) if there is None else there
        for lo, hi in _blocks(ends):
            at = slice(ends[lo], ends[hi])
            made[at] = self._signals(values[at].astype(np.float64), ends[lo : hi + 1] - ends[lo])
        return made

    def _rows(self, batch: StageBatch) -> Result:
        """Row by row what they hold, then many signals at once."""
        name = self.options.field
        found, positions, failures = batch.apply(self._held)
        signals = [signal for _, _, leaves in found for signal in leaves]
        made = signals
        if name not in batch.mine or any(s.dtype != self.options.dtype or not s.flags.writeable for s in signals):
            made = [np.empty(len(signal), self.options.dtype) for signal in signals]
        ends = bounds(np.fromiter(map(len, signals), np.int64, len(signals)))
        for lo, hi in _blocks(ends):
            flat = np.concatenate(signals[lo:hi], dtype=np.float64)
            there = ends[lo : hi + 1] - ends[lo]
            for signal, part in zip(made[lo:hi], np.split(self._signals(flat, there), there[1:-1]), strict=True):
                signal[:] = part
        each = iter(made)
        rows = [{**row, name: _filled(value, each)} if leaves else row for row, value, leaves in found]
        return Result(DictRows(rows), positions, tuple(failures))

    def _held(self, row: Row) -> tuple[Row, Any, list[NDArray[Any]]]:
        """The row, its value, and the signals in that, from left to right."""
        value = row.get(self.options.field)
        signals: list[NDArray[Any]] = []
        if value is not None:
            try:
                _collect(value, signals)
            except _NotNumbersError as error:
                raise Skip(f"field {self.options.field!r} {error}") from None
        return row, value, signals

    def _signals(self, values: NDArray[np.float64], ends: NDArray[np.int64]) -> NDArray[Any]:
        """What becomes of the signals `values[ends[i]:ends[i + 1]]`, one after the other, of shape (len(values),). The
        values are overwritten."""
        options = self.options
        with np.errstate(over="ignore", invalid="ignore"):
            values *= float(options.scale)
            values += float(options.offset)
            found = values if self._coeffs is None else filtered(values, ends, self._coeffs)
            return found.astype(options.dtype, copy=False)


def _blocks(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Signals [lo, hi) that are computed at a time: what is needed for that besides the result stays small."""
    lo, last = 0, len(ends) - 1
    while lo < last:
        hi = max(lo + 1, int(np.searchsorted(ends, ends[lo] + _BLOCK, side="right")) - 1)
        yield lo, hi
        lo = hi


class _NotNumbersError(Exception):
    """What is wrong with a value, to go on after the field's name."""


def _channels(value: Any) -> bool:
    """Whether a value holds signals, rather than being one."""
    if isinstance(value, np.ndarray):
        return value.ndim > 1
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (list, tuple, np.ndarray))


def _collect(value: Any, signals: list[NDArray[Any]]) -> None:
    if _channels(value):
        for channel in value:
            _collect(channel, signals)
    else:
        signals.append(_array(value))


def _filled(value: Any, made: Iterator[NDArray[Any]]) -> Any:
    """The value with the next signals made in the place of its own."""
    return [_filled(channel, made) for channel in value] if _channels(value) else next(made)


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        found = value
    elif isinstance(value, (list, tuple)):
        if set(map(type, value)) <= _PLAIN:
            return np.array(value, dtype=np.float64)
        strange = [item for item in value if isinstance(item, bool) or not isinstance(item, (int, float, np.number))]
        if strange:
            named = f"holds a value of type {type(strange[0]).__name__} among its numbers"
            raise _NotNumbersError(_HOLDS_NULL if strange[0] is None else named)
        found = np.array([float(item) for item in value])
    else:
        raise _NotNumbersError(f"is of type {type(value).__name__}, not a list of numbers")
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise _NotNumbersError(f"is an array of {found.dtype}, not a list of numbers")
    return found


def filtered(values: NDArray[np.float64], ends: NDArray[np.int64], coeffs: Sequence[float]) -> NDArray[np.float64]:
    """A FIR filter over signals that lie one after the other, each `values[ends[i]:ends[i + 1]]`.

    The products are added in the order of the coefficients, number by number, whatever the signals' neighbours are.
    """
    sizes = np.diff(ends)
    longest = int(sizes.max(initial=0))
    made = np.zeros(len(values), dtype=np.float64)
    if longest and (sizes == longest).all():
        given, table = values.reshape(-1, longest), made.reshape(-1, longest)
        for delay, coefficient in enumerate(coeffs[:longest]):
            table[:, delay:] += given[:, : longest - delay] * coefficient
        return made
    place = np.arange(len(values), dtype=np.int64) - np.repeat(ends[:-1], sizes)
    for delay, coefficient in enumerate(coeffs[:longest]):
        made[delay:] += np.where(place[delay:] >= delay, values[: len(values) - delay] * coefficient, 0.0)
    return made


def _of_lists(
    lists: Column | None, function: Callable[[Column, NDArray[np.int64]], NDArray[Any]]
) -> tuple[Column, NDArray[np.bool_]] | None:
    """Lists of numbers, of any depth, with what a function makes of those at the bottom, and which of them hold null.

    None where the column is of another type.
    """
    if lists is None or not (pt.is_list(lists.type) or pt.is_large_list(lists.type)):
        return None
    items, ends = lists.flatten(), bounds(lengths(lists))
    if pt.is_integer(items.type) or pt.is_floating(items.type):
        inner, bad = column(function(items, ends)), _NONE
    else:
        found = _of_lists(items, function)
        if found is None:
            return None
        inner, bad = found[0], found[1] if found[1].any() else _NONE
    made = list_column(inner, ends, valid(lists))
    if items.null_count:
        bad = ~valid(items) | (bad if len(bad) else False)
    if not len(bad):
        return made, np.zeros(len(lists), dtype=np.bool_)
    before = bounds(bad.astype(np.int64))
    return made, before[ends[1:]] > before[ends[:-1]]
