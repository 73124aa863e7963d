"""`cast`: fields as another type, without loss."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pydantic import AfterValidator

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, Row, RowFailure
from data_bridge.rows.arrow import column_values
from data_bridge.rows.buffers import Column, numbers, pc
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.picking import take
from data_bridge.runtime.stage import Fields, Outlet, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.casting import INTEGERS, converter, finisher, moment_of
from data_bridge.stages.made import bool_column, number_column, text_column
from data_bridge.stages.named import column_of, look_up, type_of, with_columns

TIMESTAMPS: Final = tuple(f"timestamp[{unit}{zone}]" for unit in ("s", "ms", "us", "ns") for zone in ("", ", tz=UTC"))
TYPES: Final = ("bool", *INTEGERS, "float32", "float64", "string", "date", *TIMESTAMPS)
_ARROW: Final[dict[str, Any]] = {
    "bool": pa.bool_(),
    **{name: pa.type_for_alias(name) for name in INTEGERS},  # type: ignore[call-overload]
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
}


def _known(kind: str) -> str:
    full = {"timestamp": "timestamp[us, tz=UTC]", "float": "float32", "double": "float64"}.get(kind, kind)
    full = full.replace(",tz", ", tz")
    if full not in TYPES:
        raise ValueError(f"{kind!r} is none of {', '.join(TYPES)}")
    return full


class CastOptions(StageOptions):
    fields: dict[str, Annotated[str, AfterValidator(_known)]] = option(
        min_length=1,
        description="the type by field: bool, int8 … uint64, float32, float64, string, date, timestamp[s|ms|us|ns], "
        "timestamp[…, tz=UTC]; `timestamp` = timestamp[us, tz=UTC]",
    )


class Cast(Stage[CastOptions]):
    """Gives fields other types. A value that the type cannot hold exactly is a failure of its sample that names the
    field and the value; only float32 is rounded to, which is what it is for. Null and missing values stay.

    Text is read as the number, the truth value (true, false, 1, 0) or the ISO 8601 date and time it spells. A whole
    number becomes the point in time that many units after 1970. Bytes (a `txt` member of a tar) are read as UTF-8 text.
    """

    kind = "cast"
    Options = CastOptions
    bypassable = False

    def __init__(self, options: CastOptions, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(options, outlets)
        self._converters = {name: (converter(kind), finisher(kind)) for name, kind in options.fields.items()}

    def fields(self, fields: Fields) -> Fields:
        wanted = self.options.fields
        look_up(fields, wanted, "fields")
        for name in wanted:
            own = type_of(fields, name)
            if own == "media" or own.startswith(("list<", "struct<", "map<")):
                raise ConfigError(f"fields.{name}: the field is {own}, and only single values can be cast")
        return tuple(
            field.model_copy(update={"type": str(_arrow(wanted[field.name]))}) if field.name in wanted else field
            for field in fields
        )

    def process(self, batch: StageBatch) -> Result:
        if isinstance(batch.rows, ArrowRows):
            return self._columns(batch, batch.rows.batch)
        return batch.each(self._row)

    def _row(self, row: Row) -> Row:
        made = dict(row)
        for name, (convert, finish) in self._converters.items():
            value = row.get(name)
            if value is None:
                continue
            try:
                stored = convert(value)
            except BadRow as error:
                raise Skip(f"field {name!r}{error}") from None
            made[name] = stored if finish is None else finish(stored)
        return made

    def _columns(self, batch: StageBatch, columns: pa.RecordBatch) -> Result:
        made: dict[str, Column] = {}
        reasons: dict[int, str] = {}
        for name, kind in self.options.fields.items():
            column = column_of(columns, name)
            if column is None:
                continue
            quick = _cast_whole(column, _arrow(kind))
            made[name] = self._cast_each(name, kind, column, reasons) if quick is None else quick
        rows = ArrowRows(with_columns(columns, made))
        if not reasons:
            return batch.same(rows)
        good = np.delete(np.arange(len(rows), dtype=np.int64), sorted(reasons))
        failures = tuple(RowFailure(at, reasons[at]) for at in sorted(reasons))
        return Result(take(rows, good), good, failures)

    def _cast_each(self, name: str, kind: str, column: Column, reasons: dict[int, str]) -> Column:
        """The column value by value; null, with the reason, for one that cannot be cast."""
        convert = self._converters[name][0]
        values, bad = column_values(column)
        made: list[Any] = []
        for at, value in enumerate(values):
            try:
                made.append(None if value is None else convert(value))
            except BadRow as error:
                made.append(None)
                reasons.setdefault(at, f"field {name!r}{error}")
        for at, reason in bad.items():
            reasons.setdefault(at, f"field {name!r}: {reason}")
        if kind == "string":
            return text_column(made)
        return bool_column(made) if kind == "bool" else number_column(made, _arrow(kind))


def _arrow(kind: str) -> Any:
    if kind.startswith("timestamp"):
        unit, zoned = moment_of(kind)
        return pa.timestamp(unit, "UTC" if zoned else None)
    return _ARROW[kind]


def _cast_whole(column: Column, kind: Any) -> Column | None:
    """Numbers as other numbers all at once; None where a value may not fit, or where Arrow has rules of its own."""
    if column.type == kind:
        return column
    if not (_is_number(column.type) and _is_number(kind)):
        return None
    try:
        made = column.cast(kind)
    except pa.ArrowInvalid:
        return None
    if pt.is_floating(kind) and pt.is_floating(column.type) and kind.bit_width < column.type.bit_width:
        return None if _count_finite(made) != _count_finite(column) else made
    return made


def _is_number(kind: Any) -> bool:
    return bool(pt.is_integer(kind) or (pt.is_floating(kind) and not pt.is_float16(kind)))


def _count_finite(column: Column) -> int:
    return int(np.isfinite(numbers(pc.drop_null(column))).sum())
