"""LitData leaves: what each field of a sample is stored as, fixed once per dataset."""

import datetime as dt
import decimal
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media
from data_bridge.model.source import Field

Kind = Literal["bool", "int", "float", "str", "bytes", "numpy", "text", "json", "tree"]
"""`numpy`: a list of numbers as raw elements. `text`: a time, date or decimal as text. `json`: any value as JSON
text. `tree`: a nested value as an Arrow column."""

ArrowType: TypeAlias = Any
"""A `pyarrow.DataType`; the type stubs do not know what its subclasses can do."""

NUMPY_CODES: Final = {"int8": 0, "int16": 1, "int32": 2, "int64": 3, "uint8": 4, "uint16": 5, "uint32": 6, "uint64": 7,
                      "float16": 8, "float32": 9, "float64": 10, "bool": 13}  # fmt: skip
"""Element type -> LitData's number for it."""
_OURS: Final = {"float": "float32", "double": "float64", "halffloat": "float16"}
_DEEPEST: Final = 48
"""Lists and structs in a column's type; Arrow files end at 64 levels."""
MOMENTS: Final = (dt.date, dt.time, dt.timedelta, decimal.Decimal)
_INT64: Final = (-(2**63), 2**63 - 1)
_EXACT_FLOAT: Final = 2**53
"""Up to here every integer is a float64 without loss."""


class Leaf(msgspec.Struct, frozen=True):
    """One field. `type` is the Arrow type of its column in our text form (of one element for `numpy`)."""

    name: str
    kind: Kind
    type: str

    @property
    def column(self) -> ArrowType:
        """Arrow type of the column that holds the leaf."""
        return pa.list_(parse_type(self.type)) if self.kind == "numpy" else parse_type(self.type)

    @property
    def format(self) -> str:
        """LitData's name of the serializer that reads the leaf."""
        if self.kind == "numpy":
            return f"no_header_numpy:{NUMPY_CODES[self.type]}"
        return {"text": "str", "tree": "json", "json": "str"}.get(self.kind, self.kind)


@cache
def parse_type(text: str) -> ArrowType:
    """`int64`, `list<float32>[3]`, `struct<a: int64, b: list<string>>`, … as an Arrow type. Raises ValueError."""
    kind, rest = _parse(text.strip())
    if rest:
        raise ValueError(f"{text!r} is not a type: {rest!r} is left over")
    return kind


def _parse(text: str) -> tuple[ArrowType, str]:
    head = text[: min((i for i in (text.find(c) for c in "<,>") if i >= 0), default=len(text))]
    if head in ("list", "large_list", "fixed_size_list"):
        name, colon, _ = text[len(head) + 1 :].partition(": ")
        inner = text[len(head) + 1 :]
        if colon and name.isidentifier():
            inner = inner[len(name) + 2 :]
        item, rest = _parse(inner)
        return pa.list_(item), _skip_size(_expect(rest.removeprefix(" not null"), ">"))
    if head == "struct":
        return _parse_struct(text[len("struct<") :])
    if head == "map":
        key, rest = _parse(text[len("map<") :])
        item, rest = _parse(_expect(rest, ",").lstrip())
        return pa.map_(key, item), _expect(rest, ">")
    return _parse_plain(text)


def _parse_struct(text: str) -> tuple[ArrowType, str]:
    members: list[tuple[str, ArrowType]] = []
    while not text.startswith(">"):
        name, colon, text = text.partition(": ")
        if not colon:
            raise ValueError(f"a struct member without a type: {name!r}")
        kind, text = _parse(text)
        text = text.removeprefix(" not null")
        members.append((name, kind))
        text = text.removeprefix(", ")
    return pa.struct(members), text[1:]


def _parse_plain(text: str) -> tuple[ArrowType, str]:
    # commas inside brackets belong to the type: `timestamp[us, tz=UTC]`, `decimal128(10, 2)`
    depth, end = 0, len(text)
    for i, char in enumerate(text):
        depth += (char in "[(") - (char in ")]")
        if depth == 0 and char in ",>":
            end = i
            break
    name, rest = text[:end].removesuffix(" not null"), text[end:]
    if name.startswith("timestamp[") and ", tz=" in name:
        unit, _, zone = name[len("timestamp[") : -1].partition(", tz=")
        return pa.timestamp(unit, zone), rest
    if name.startswith("decimal"):
        precision, _, scale = name[name.index("(") + 1 : -1].partition(",")
        return pa.decimal256(int(precision), int(scale)), rest
    if name.startswith("fixed_size_binary["):
        return pa.binary(), rest
    alias: Any = name
    return pa.type_for_alias(alias), rest


def _expect(text: str, char: str) -> str:
    if not text.startswith(char):
        raise ValueError(f"expected {char!r} before {text!r}")
    return text[1:]


def _skip_size(text: str) -> str:
    return text[text.index("]") + 1 :] if text.startswith("[") else text


def type_text(kind: ArrowType) -> str:
    """The type in the form `parse_type` reads."""
    if pt.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    if pt.is_struct(kind):
        return f"struct<{', '.join(f'{kind.field(i).name}: {type_text(kind.field(i).type)}' for i in range(kind.num_fields))}>"
    return _OURS.get(str(kind), str(kind))


def stored_type(kind: ArrowType) -> ArrowType:
    """The type a column of this type is stored as in the Arrow layout. Raises ValueError where there is none.

    Times, dates and decimals become text, half floats float32, maps lists of `{key, value}`.
    """
    if pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_float32(kind) or pt.is_float64(kind):
        return kind
    if pt.is_float16(kind):
        return pa.float32()
    if pt.is_string(kind) or pt.is_large_string(kind) or _is_text(kind):
        return pa.string()
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind):
        return pa.binary()
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if pt.is_map(kind):
        return pa.list_(pa.struct([("key", stored_type(kind.key_type)), ("value", stored_type(kind.item_type))]))
    if pt.is_struct(kind) and kind.num_fields:
        return pa.struct([(kind.field(i).name, stored_type(kind.field(i).type)) for i in range(kind.num_fields)])
    raise ValueError(f"{kind} has no stored form")


def classic_leaf(field: Field, values: Sequence[Any], *, binary: bool) -> Leaf | str:
    """The leaf in the classic layout, or in words why there is none. `values` are the probe's, None where missing.

    `binary` (the config asks for this layout) lets pass what it holds only in part: bytes, and uint64 up to 2**63 - 1.
    """
    if any(value is None for value in values):
        return "holds nulls"
    if field.type == "media":
        return Leaf(field.name, "bytes", "binary") if binary else "holds encoded bytes"
    kind = _parsed(field.type)
    if kind is None:
        return "holds values of any kind"
    if pt.is_list(kind) and _element(kind.value_type):
        if any(None in value for value in values if isinstance(value, list)):
            return "holds lists with nulls"
        return Leaf(field.name, "numpy", _element(kind.value_type))
    scalar = _scalar(kind)
    if scalar is None or scalar == "text":
        return f"is {field.type}"
    if scalar == "bytes" and not binary:
        return "holds bytes"
    if pt.is_uint64(kind) and not binary:
        return "is uint64, of which half does not fit the classic layout's int64"
    return Leaf(
        field.name,
        scalar,
        {"bool": "bool", "int": "int64", "float": "float64", "str": "string", "bytes": "binary"}[scalar],
    )


def arrow_leaf(field: Field) -> Leaf:
    """The leaf in the Arrow layout, which has one for everything."""
    if field.type == "media":
        return Leaf(field.name, "bytes", "binary")
    kind = _parsed(field.type)
    try:
        stored = None if kind is None else stored_type(kind)
    except ValueError:
        stored = None
    if kind is None or stored is None or type_text(stored).count("<") > _DEEPEST:
        return Leaf(field.name, "json", "string")
    return Leaf(field.name, _scalar(kind) or "tree", type_text(stored))


def _parsed(text: str) -> ArrowType | None:
    if text in ("json", "null"):
        return None
    try:
        return parse_type(text)
    except (ValueError, pa.ArrowException):
        return None


def _scalar(kind: ArrowType) -> Kind | None:
    if pt.is_boolean(kind):
        return "bool"
    if pt.is_integer(kind):
        return "int"
    if pt.is_floating(kind):
        return "float"
    if pt.is_string(kind) or pt.is_large_string(kind):
        return "str"
    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind):
        return "bytes"
    return "text" if _is_text(kind) else None


def _is_text(kind: ArrowType) -> bool:
    return bool(pt.is_temporal(kind) and not pt.is_interval(kind)) or bool(pt.is_decimal(kind))


def _element(kind: ArrowType) -> str:
    name = type_text(kind)
    return name if name in NUMPY_CODES else ""


class _MixedError(Exception):
    """Values that have no type in common."""


def observed_type(values: Iterable[Any]) -> str:
    """The type all values have in common, as text: `json` when there is none or nothing to tell it by."""
    try:
        kind = _common(values)
    except (_MixedError, RecursionError):
        return "json"
    return "json" if kind is None else kind if isinstance(kind, str) else type_text(kind)


def _common(values: Iterable[Any]) -> ArrowType | str | None:
    found = [value for value in values if value is not None]
    kinds = set(map(type, found))
    if not kinds:
        return None
    if kinds <= {int, float}:
        return _common_number(found, kinds)
    if kinds == {Media}:
        return "media"
    if all(issubclass(kind, MOMENTS) for kind in kinds):
        return pa.decimal256(76, 0) if kinds == {decimal.Decimal} else pa.timestamp("us")
    if kinds == {np.ndarray}:
        return _common_arrays(found)
    if kinds == {list}:
        return pa.list_(_known(_common(item for value in found for item in value)))
    if kinds == {dict}:
        names = dict.fromkeys(name for value in found for name in value)
        if not names or any(", " in name or ": " in name for name in names):
            raise _MixedError
        return pa.struct([(name, _known(_common(value.get(name) for value in found))) for name in names])
    plain: Mapping[type, ArrowType] = {bool: pa.bool_(), str: pa.string(), bytes: pa.binary()}
    if len(kinds) == 1 and (kind := kinds.pop()) in plain:
        return plain[kind]
    raise _MixedError


def _common_number(found: Sequence[Any], kinds: set[type]) -> ArrowType:
    whole = [value for value in found if type(value) is int]
    low, high = _INT64 if kinds == {int} else (-_EXACT_FLOAT, _EXACT_FLOAT)
    if whole and not (low <= min(whole) and max(whole) <= high):
        raise _MixedError
    return pa.int64() if kinds == {int} else pa.float64()


def _common_arrays(found: Sequence[Any]) -> ArrowType:
    kinds = {value.dtype for value in found}
    if len(kinds) != 1 or any(value.ndim != 1 for value in found) or str(kind := kinds.pop()) not in NUMPY_CODES:
        raise _MixedError
    return pa.list_(pa.from_numpy_dtype(kind))


def _known(kind: ArrowType | str | None) -> ArrowType:
    if kind is None or isinstance(kind, str):
        raise _MixedError
    return kind


def check_types(given: Mapping[str, str]) -> None:
    """Raises ConfigError for a text that is no type."""
    for name, text in given.items():
        if text not in ("json", "media") and _parsed(text) is None:
            raise ConfigError(
                f"pipeline.schema: {text!r} for field {name!r} is not a type",
                hint="write an Arrow type (int64, float32, string, bool, list<int32>, timestamp[us, tz=UTC], "
                "struct<a: int64>), `media`, or `json` for anything",
            )
