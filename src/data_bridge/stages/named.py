"""Fields that options name: looked up in the schema, and as whole columns of a batch."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from data_bridge.errors import ConfigError
from data_bridge.rows.buffers import Column
from data_bridge.runtime.stage import Fields

ANYTHING = frozenset({"json", "null"})
"""Types that say nothing of the values."""
INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
FLOATS = frozenset({"halffloat", "float", "double", "float16", "float32", "float64"})
NUMBERS = INTEGERS | FLOATS


def look_up(fields: Fields, names: Iterable[str], option: str) -> None:
    """Raises ConfigError for a name that no field has; where nothing is known of the fields every name will do."""
    known = [field.name for field in fields]
    for name in names:
        if known and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"{option}: there is no field {name!r} here",
                hint=f"{guess}the fields are {', '.join(known)}; "
                "`pipeline.schema` declares one that only later samples have",
            )


def demand_type(fields: Fields, name: str, option: str, needed: str, *, fits: bool) -> None:
    """Raises ConfigError that says what the field would have to be."""
    if not fits:
        raise ConfigError(f"{option}: the field {name!r} is {type_of(fields, name)}, not {needed}")


def type_of(fields: Fields, name: str) -> str:
    """The type of a field as text; `json` for one nothing is known of."""
    return next((field.type for field in fields if field.name == name), "json")


def column_of(batch: pa.RecordBatch, name: str) -> Column | None:
    """The column of that name, or None."""
    at = batch.schema.get_field_index(name)
    return None if at < 0 else batch.column(at)


def with_columns(batch: pa.RecordBatch, made: Mapping[str, Column]) -> pa.RecordBatch:
    """The batch with these columns in the place of those of the same names; new ones come last."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    fields: dict[str, Any] = {field.name: field for field in batch.schema}
    for name, column in made.items():
        columns[name] = column
        fields[name] = pa.field(name, column.type)
    schema = pa.schema(list(fields.values()))
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
