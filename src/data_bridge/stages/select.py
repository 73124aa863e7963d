"""`select`, `drop` and `rename`: which fields samples have, and under which names."""

from collections.abc import Mapping
from typing import Annotated

import pyarrow as pa
from pydantic import Field, field_validator

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, Row
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.named import look_up

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class NamesOptions(StageOptions):
    fields: Names = option(description="names of fields")

    @field_validator("fields")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for name in value if value.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice")
        return value


class Select(Stage[NamesOptions]):
    """Keeps the named fields alone, in the order named. A sample that lacks one goes on without it."""

    kind = "select"
    Options = NamesOptions
    bypassable = False

    def fields(self, fields: Fields) -> Fields:
        look_up(fields, self.options.fields, "fields")
        known = {field.name: field for field in fields}
        return tuple(known[name] for name in self.options.fields if name in known)

    def process(self, batch: StageBatch) -> Result:
        names = self.options.fields
        if isinstance(batch.rows, ArrowRows):
            there = set(batch.rows.batch.schema.names)
            return batch.same(ArrowRows(batch.rows.batch.select([name for name in names if name in there])))
        return batch.each(lambda row: {name: row[name] for name in names if name in row})


class Drop(Stage[NamesOptions]):
    """Leaves out the named fields."""

    kind = "drop"
    Options = NamesOptions
    bypassable = False

    def fields(self, fields: Fields) -> Fields:
        look_up(fields, self.options.fields, "fields")
        left = tuple(field for field in fields if field.name not in self.options.fields)
        if fields and not left:
            raise ConfigError("fields: no field would be left", hint="keep one at least")
        return left

    def process(self, batch: StageBatch) -> Result:
        gone = frozenset(self.options.fields)
        if isinstance(batch.rows, ArrowRows):
            names = batch.rows.batch.schema.names
            return batch.same(ArrowRows(batch.rows.batch.select([name for name in names if name not in gone])))
        return batch.each(lambda row: {name: value for name, value in row.items() if name not in gone})


class RenameOptions(StageOptions):
    fields: dict[str, str] = option(description="the new name by the name it has", min_length=1)

    @field_validator("fields")
    @classmethod
    def _different_names(cls, value: dict[str, str]) -> dict[str, str]:
        new = list(value.values())
        if twice := next((name for name in new if new.count(name) > 1), None):
            raise ValueError(f"two fields would be named {twice!r}")
        if "" in new:
            raise ValueError("a field needs a name")
        return value


class Rename(Stage[RenameOptions]):
    """Gives fields other names; their values and places stay. Names may be swapped."""

    kind = "rename"
    Options = RenameOptions
    bypassable = False

    def fields(self, fields: Fields) -> Fields:
        look_up(fields, self.options.fields, "fields")
        names = [field.name for field in fields]
        if taken := _taken(names, self.options.fields):
            raise ConfigError(f"fields: there is a field {taken!r} already", hint="drop it before, or rename it too")
        new = self.options.fields
        return tuple(field.model_copy(update={"name": new.get(field.name, field.name)}) for field in fields)

    def process(self, batch: StageBatch) -> Result:
        new = self.options.fields
        if isinstance(batch.rows, ArrowRows):
            columns = batch.rows.batch
            schema = pa.schema([field.with_name(new.get(field.name, field.name)) for field in columns.schema])
            return batch.same(ArrowRows(pa.RecordBatch.from_arrays(columns.columns, schema=schema)))
        return batch.each(self._renamed)

    def _renamed(self, row: Row) -> Row:
        new = self.options.fields
        made = {new.get(name, name): value for name, value in row.items()}
        if len(made) != len(row):
            raise Skip(f"there is a field {_taken(list(row), new)!r} already")
        return made


def _taken(names: list[str], new: Mapping[str, str]) -> str | None:
    """A name that two fields would have."""
    after = [new.get(name, name) for name in names]
    return next((name for name in after if after.count(name) > 1), None)
