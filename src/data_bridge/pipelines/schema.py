"""`pipeline.schema`: the declared types bind from the plan on, or are refused there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.leaf_values import fit
from data_bridge.pipelines.leaves import ArrowType, check_types, parse_type, stored_type, type_text
from data_bridge.rows.decoding import BadRow

FIXED: Final = frozenset({"csv", "tsv", "text", "tar"})
"""Formats whose reader alone says what type a field has."""
_HINTS: Final[Mapping[str, str]] = {
    "csv": "cells are text: read them as numbers with pipeline.source_options.csv_types",
    "tsv": "cells are text: read them as numbers with pipeline.source_options.csv_types",
    "text": "lines are text: leave the field out of pipeline.schema",
    "tar": "members of a tar are bytes, `__key__` is text: leave the field out of pipeline.schema",
}
_DECLARED: Final = "the files declare their types: leave the field out of pipeline.schema or correct it"


def apply(settings: PipelineSettings, probe: Probe, source_format: str) -> Probe:
    """The probe with the types of `pipeline.schema` in place of those observed, and with fields only it names.

    A source that fixes its own types (Parquet, Arrow, Hub features, CSV, text, tar) must have the field, in the
    declared type or one that widens to it without loss; in JSON lines and metadata of files a field may come later.
    Raises ConfigError naming the field for anything else, for a text that is no type, and where no value seen fits.
    """
    declared = settings.schema_
    if not declared:
        return probe
    check_types(declared)
    checks(declared)
    own = {field.name: field for field in probe.fields}
    fixed = probe.declared or source_format in FIXED
    for name, text in declared.items():
        if name not in own:
            if fixed and own:
                raise ConfigError(
                    f"pipeline.schema: the source has no field {name!r}", hint=f"its fields are {', '.join(own)}"
                )
        elif fixed:
            if not _widens(own[name].type, text):
                raise ConfigError(
                    f"pipeline.schema: field {name!r} is {own[name].type} in the source, not {text}",
                    hint=_HINTS.get(source_format, _DECLARED),
                )
        else:
            _demand_a_fit(name, text, [row.get(name) for row in probe.rows])
    fields = [_with_type(field, declared.get(field.name)) for field in probe.fields]
    fields += [Field(name=name, type=text) for name, text in declared.items() if name not in own]
    return Probe(tuple(fields), probe.declared, probe.rows, probe.mean_sample_bytes)


def checks(declared: Mapping[str, str]) -> Mapping[str, Callable[[Any], None]]:
    """For each declared field, what raises BadRow for a value that does not fit; null fits every type.

    Raises ConfigError for a type no format can store.
    """
    return {name: _check(name, text) for name, text in declared.items() if text != "json"}


def _check(name: str, text: str) -> Callable[[Any], None]:
    try:
        kind = None if text == "media" else stored_type(parse_type(text))
    except ValueError as error:
        raise ConfigError(
            f"pipeline.schema: {text} of field {name!r} cannot be stored", hint="declare `json` for such values"
        ) from error

    def check(value: Any) -> None:
        if value is None:
            return
        if kind is None:
            if not isinstance(value, Media | bytes):
                raise BadRow(f"field {name!r} is {type(value).__name__}, not the bytes of a file (pipeline.schema)")
            return
        try:
            fit(value, kind, texts=True)
        except BadRow as error:
            raise BadRow(f"field {name!r}{error}") from None

    return check


def _demand_a_fit(name: str, text: str, values: Sequence[Any]) -> None:
    """Single values that do not fit are failures of their samples; a type that fits none of them is an error."""
    if text == "json":
        return
    check, reason = _check(name, text), ""
    for value in values:
        if value is None:
            continue
        try:
            check(value)
        except BadRow as error:
            reason = reason or str(error)
        else:
            return
    if reason:
        raise ConfigError(
            f"pipeline.schema: no value seen of the field {name!r} fits {text}: {reason}",
            hint="correct the type, or declare `json` for values of any kind",
        )


def _with_type(field: Field, text: str | None) -> Field:
    return field if text is None else field.model_copy(update={"type": text})


def _widens(own: str, wanted: str) -> bool:
    """Whether every value of the first type is one of the second."""
    if wanted in (own, "json") or own == "null":
        return True
    if "media" in (own, wanted) or "json" in (own, wanted):
        return False
    try:
        return _kind_widens(parse_type(own), parse_type(wanted))
    except (ValueError, pa.ArrowException):  # a source's type that has no text form
        return False


def _kind_widens(own: ArrowType, wanted: ArrowType) -> bool:
    if type_text(own) == type_text(wanted):
        return True
    if pt.is_integer(own) and pt.is_integer(wanted):
        signed, wants = pt.is_signed_integer(own), pt.is_signed_integer(wanted)
        return (wanted.bit_width > own.bit_width and wants >= signed) or (
            wanted.bit_width == own.bit_width and signed == wants
        )
    if pt.is_integer(own) and pt.is_floating(wanted):
        return bool(own.bit_width < wanted.bit_width)  # int32 in float64, int16 in float32, int8 in float16
    if pt.is_floating(own) and pt.is_floating(wanted):
        return bool(own.bit_width <= wanted.bit_width)
    if _is_list(own) and _is_list(wanted):
        return _kind_widens(own.value_type, wanted.value_type)
    plain: Mapping[ArrowType, ArrowType] = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    return bool(plain.get(own, own) == plain.get(wanted, wanted))


def _is_list(kind: ArrowType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))
