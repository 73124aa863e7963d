"""Arrow schemas as fields of the source, and Arrow types as plain ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from data_bridge.errors import ConfigError, SourceError
from data_bridge.model.source import Field
from data_bridge.rows.arrow import is_media

MEDIA = "media"

_PLAIN: dict[str, pa.DataType] = {
    "large_string": pa.string(),
    "string_view": pa.string(),
    "large_binary": pa.binary(),
    "binary_view": pa.binary(),
}


def fields_of(schema: pa.Schema) -> tuple[Field, ...]:
    """Fields in the schema's order. Encoded images, audio and the like, as `datasets` stores them, are `media`."""
    kinds = [(f, plain_type(f.type)) for f in schema]
    return tuple(
        Field(name=f.name, type=MEDIA if is_media(kind) else type_text(kind), nullable=f.nullable) for f, kind in kinds
    )


def type_text(kind: pa.DataType) -> str:
    """The type as the product writes it: `list<int32>` without the item's name, storage of extension types,
    value type of dictionaries, `string` and `binary` whatever the offsets."""
    kind = plain_type(kind)
    if pa.types.is_fixed_size_list(kind):
        return f"list<{type_text(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{type_text(kind.key_type)}, {type_text(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{f.name}: {type_text(f.type)}' for f in _members(kind))}>"
    return str(kind)


def _members(kind: pa.DataType) -> list["pa.Field[Any]"]:
    return [kind.field(i) for i in range(kind.num_fields)]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without extensions (but UUIDs, whose bytes alone would say nothing), dictionaries, run-ends, views
    and 64-bit offsets, at every depth."""
    nested: Any = kind  # the stubs know no members of DataType
    if isinstance(kind, pa.BaseExtensionType):
        return kind if kind.extension_name == "arrow.uuid" else plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(nested.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_with_type(f, plain_type(f.type)) for f in _members(kind)])
    if pa.types.is_map(kind):
        return _map(plain_type(nested.key_type), _with_type(nested.item_field, plain_type(nested.item_type)))
    if pa.types.is_fixed_size_list(kind):
        return _list(_with_type(nested.value_field, plain_type(nested.value_type)), nested.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or str(kind).startswith(("list_view", "large_list_view")):
        return _list(_with_type(nested.value_field, plain_type(nested.value_type)))
    return _PLAIN.get(str(kind), kind)


def _map(key: pa.DataType, item: Any) -> pa.DataType:
    kind: pa.DataType = pa.map_(key, item)
    return kind


def _list(item: Any, size: int = -1) -> pa.DataType:
    kind: pa.DataType = pa.list_(item, size)
    return kind


def _with_type(member: "pa.Field[Any]", kind: pa.DataType) -> "pa.Field[Any]":
    return pa.field(member.name, kind, nullable=member.nullable)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of batches made by `plain_batch`."""
    return pa.schema([_with_type(f, plain_type(f.type)) for f in schema])


def difference(left: Sequence[Field], right: Sequence[Field]) -> str | None:
    """What keeps two files from being one table, in words, or None. Order and nullability do not matter, nor does a
    column that is all null in one of them."""
    theirs = {f.name: f.type for f in right}
    for field in left:
        other = theirs.pop(field.name, None)
        if other is None:
            return f"field {field.name!r} ({field.type}) is missing"
        if other != field.type and "null" not in (other, field.type):
            return f"field {field.name!r} is {other}, not {field.type}"
    return next((f"field {name!r} ({kind}) is extra" for name, kind in theirs.items()), None)


def select(names: Sequence[str], columns: Sequence[str] | None, where: str) -> list[str]:
    """The columns to read: those of the option, in its order, or all. Raises ConfigError for one that is not there."""
    if columns is None:
        return list(names)
    missing = [c for c in columns if c not in names]
    if missing or not columns:
        raise ConfigError(
            f"pipeline.source_options.columns: {where} has no column {', '.join(map(repr, missing))}"
            if missing else "pipeline.source_options.columns: the list is empty",
            hint=f"its columns are {', '.join(names)}",
        )  # fmt: skip
    return list(dict.fromkeys(columns))


def chosen_fields(schema: pa.Schema, columns: Sequence[str] | None, uri: str) -> tuple[Field, ...]:
    """Fields of the columns to read from a file, in the order they will have."""
    if len(set(schema.names)) < len(schema.names):
        raise SourceError(f"{uri}: two columns have the same name", hint="rename one of them in the file")
    by_name = {f.name: f for f in fields_of(schema)}
    return tuple(by_name[name] for name in select(schema.names, columns, uri))


def demand_same(uri: str, fields: Sequence[Field], other_uri: str, other: Sequence[Field]) -> None:
    """Raises SourceError naming both files and the first field in which they differ."""
    found = difference(fields, other)
    if found:
        raise SourceError(
            f"{other_uri} and {uri} are not one dataset: in {other_uri} {found}",
            hint="read them as two datasets, or only their common columns with pipeline.source_options.columns",
        )


def column_order(uris: Sequence[str], fields: Sequence[Sequence[Field]]) -> list[list[str] | None]:
    """For each file, the first file's column order where its own differs. Raises SourceError unless all have the same fields."""
    first = [f.name for f in fields[0]] if fields else []
    for uri, own in zip(uris[1:], fields[1:], strict=True):
        demand_same(uris[0], fields[0], uri, own)
    return [None if [f.name for f in own] == first else first for own in fields]


@contextmanager
def reading(where: str, format_name: str) -> Iterator[None]:
    """Turns Arrow's errors into SourceError naming `where`; ours pass."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{where}: cannot be read as {format_name}: {' '.join(str(error).split())}",
            hint=f"the file is damaged or not {format_name}: replace it, or take it out of pipeline.input_uri",
        ) from error
