"""What a stage declares of rows, a pydantic model or an Arrow schema, as one thing: a model."""

import types
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from data_bridge.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic.fields import FieldInfo

KEYS = ("index", "key")
"""What tells of which sample a metric or a row of a report is."""
COSTS = ("seconds", "cost_usd")
"""What every stage's metrics have besides; no quality, so no column of a report."""


@cache
def model_of(schema: Any) -> type[BaseModel]:
    """The schema as what checks values; Arrow's types as they are decoded."""
    return schema if isinstance(schema, type) else _made("Sample", schema)


def _made(name: str, fields: "Sequence[pa.Field[Any]] | pa.Schema | pa.StructType") -> type[BaseModel]:
    wanted: dict[str, Any] = {}
    for number, field in enumerate(fields):
        type_ = _python(field.type)
        # any name may stand in a file, not all may be attributes
        wanted[f"field_{number}"] = (
            (type_ | None, Field(None, alias=field.name)) if field.nullable else (type_, Field(alias=field.name))
        )
    return create_model(name, __config__=ConfigDict(arbitrary_types_allowed=True), **wanted)


def _python(type_: "pa.DataType") -> Any:
    import pyarrow.types as are

    if are.is_dictionary(type_):
        return _python(type_.value_type)
    if are.is_integer(type_):
        info = np.iinfo(str(type_))
        return Annotated[int, Field(ge=int(info.min), le=int(info.max))]
    if are.is_list(type_) or are.is_large_list(type_) or are.is_fixed_size_list(type_):
        size = type_.list_size if are.is_fixed_size_list(type_) else None
        inner: Any = list.__class_getitem__(_python(type_.value_type) | None)
        return Annotated[inner, Field(min_length=size, max_length=size)]
    if are.is_struct(type_):
        return _made("Struct", [type_.field(at) for at in range(type_.num_fields)])
    simple: list[tuple[Callable[[Any], bool], Any]] = [
        (are.is_boolean, bool),
        (are.is_floating, float),
        (lambda t: are.is_string(t) or are.is_large_string(t), str),
        (are.is_temporal, str),
        (are.is_decimal, Decimal),
        (lambda t: are.is_binary(t) or are.is_large_binary(t) or are.is_fixed_size_binary(t), bytes),
    ]
    return next((python for test, python in simple if test(type_)), Any)


_PYTHON = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    Decimal: "decimal",
    type(None): "null",
}


def kinds_of(annotation: Any) -> frozenset[str]:
    """Kinds of values that an annotation takes, or none where that cannot be told."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        parts = [kinds_of(part) for part in get_args(annotation)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    if origin is list:
        return frozenset({"list"})
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return frozenset({"struct"})
    return frozenset({_PYTHON[annotation]}) if annotation in _PYTHON else frozenset()


def fields_of(schema: Any) -> "dict[str, FieldInfo]":
    """The fields that a schema declares, by the names that rows have for them."""
    if schema is None:
        return {}
    return {info.alias or name: info for name, info in model_of(schema).model_fields.items()}


@cache
def report_columns(stage: Any) -> tuple[str, ...]:
    """The columns of a class of stages' report, without those that say which sample; () where it has none.

    Raises ConfigError naming the field where its `report_schema` is no part of its `metrics_schema`.
    """
    metrics, report = fields_of(stage.metrics_schema), fields_of(stage.report_schema)
    where = f"{stage.__name__}.report_schema"
    for name, wanted in report.items():
        if name in KEYS:
            continue
        if name in COSTS:
            raise ConfigError(
                f"{where}: `{name}` tells nothing of quality", hint="a report has quality only: leave it out"
            )
        if name not in metrics:
            raise ConfigError(
                f"{where}: `{name}` is none of its metrics ({', '.join(metrics) or 'it has no metrics_schema'})",
                hint="what a report shows must be measured: declare it in metrics_schema too",
            )
        told, asked = kinds_of(metrics[name].annotation), kinds_of(wanted.annotation)
        if told and asked and not told & asked:
            raise ConfigError(f"{where}: `{name}` is {words_of(asked)}, and {words_of(told)} in metrics_schema")
    return tuple(name for name in report if name not in KEYS)


def words_of(kinds: frozenset[str]) -> str:
    """Kinds of values in words."""
    return " or ".join(sorted(kinds - {"null"})) or "a value"
