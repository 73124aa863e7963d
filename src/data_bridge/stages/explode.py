"""`explode`: one sample for each element of a list."""

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, Row
from data_bridge.model.source import Field
from data_bridge.rows.buffers import Column, buffer_of, column, lengths, packed
from data_bridge.rows.picking import take
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.named import ANYTHING, column_of, look_up, type_of

_FILES = ("struct<bytes: binary, path: string>", "struct<path: string, bytes: binary>")


class ExplodeOptions(StageOptions):
    field: str = option(min_length=1, description="the field that holds a list; in each sample made, one element of it")
    index_field: str | None = option(
        None, min_length=1, description="a new field: the element's place in its list, from 0"
    )
    empty: Literal["drop", "keep"] = option(
        "drop", description="a sample whose list is empty, null or missing: leave it out, or keep it with null"
    )


class Explode(Stage[ExplodeOptions]):
    """Makes one sample of each element of a list, in order; the other fields are the same in all of them. A value that
    is no list is its sample's failure."""

    kind = "explode"
    Options = ExplodeOptions
    bypassable = False

    @property
    def drops(self) -> bool:
        return self.options.empty == "drop"

    @property
    def multiplies(self) -> bool:
        return True

    def fields(self, fields: Fields) -> Fields | None:
        name, place = self.options.field, self.options.index_field
        look_up(fields, [name], "field")
        if place is not None and place in [field.name for field in fields]:
            raise ConfigError(f"index_field: there is a field {place!r} already")
        kind = type_of(fields, name)
        if kind in ANYTHING or kind == "list<null>":
            return None
        if not kind.startswith("list<"):
            raise ConfigError(f"field: {name!r} is {kind}, not a list")
        item = kind[len("list<") : kind.rindex(">")]
        item = "media" if item in _FILES else item
        made = tuple(Field(name=name, type=item) if field.name == name else field for field in fields)
        return made if place is None else (*made, Field(name=place, type="int64", nullable=not self.drops))

    def process(self, batch: StageBatch) -> Result:
        if isinstance(batch.rows, ArrowRows):
            found = column_of(batch.rows.batch, self.options.field)
            if found is not None and (pt.is_list(found.type) or pt.is_large_list(found.type)):
                return self._columns(batch.rows, found)
        return batch.several(self._rows)

    def _rows(self, row: Row) -> list[Row]:
        name, place = self.options.field, self.options.index_field
        if place is not None and place in row:
            raise Skip(f"there is a field {place!r} already")
        items = _items(row.get(name), name)
        if not items:
            return [] if self.drops else [{**row, name: None, **({} if place is None else {place: None})}]
        return [{**row, name: item, **({} if place is None else {place: at})} for at, item in enumerate(items)]

    def _columns(self, rows: ArrowRows, lists: Column) -> Result:
        counts = lengths(lists)
        copies = counts if self.drops else np.maximum(counts, 1)
        positions = np.repeat(np.arange(len(rows), dtype=np.int64), copies)
        places = np.arange(len(positions), dtype=np.int64) - np.repeat(np.cumsum(copies) - copies, copies)
        there = np.repeat(counts > 0, copies)
        made = {self.options.field: _taken(lists.flatten(), np.cumsum(there) - 1, there)}
        if self.options.index_field is not None:
            made[self.options.index_field] = _taken(column(places), np.arange(len(places)), there)
        others = take(ArrowRows(rows.batch.drop_columns([self.options.field])), positions)
        assert isinstance(others, ArrowRows)
        columns = dict(zip(others.batch.schema.names, others.batch.columns, strict=True))
        names = [*rows.batch.schema.names, *(name for name in made if name not in rows.batch.schema.names)]
        spread = [made[name] if name in made else columns[name] for name in names]
        return Result(ArrowRows(pa.RecordBatch.from_arrays(spread, names=names)), positions)


def _taken(values: Column, at: NDArray[np.int64], there: NDArray[np.bool_]) -> Column:
    """The values at the places, null where there is none."""
    if there.all():
        return values if len(values) == len(at) else values.take(column(at))
    indices = np.ascontiguousarray(np.maximum(at, 0), np.int64)
    return values.take(pa.Array.from_buffers(pa.int64(), len(at), [packed(there), buffer_of(indices)]))


def _items(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, np.ndarray) and value.ndim:
        found: list[Any] = value.tolist()
        return found
    raise Skip(f"field {name!r} is of type {type(value).__name__}, not a list")
