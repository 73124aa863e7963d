"""Rows of any form as one strictly typed Arrow column per LitData leaf; a row that does not fit is a failure."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from data_bridge.model.batch import ArrowRows, LineRows, Row, RowFailure, Rows
from data_bridge.pipelines.leaf_values import as_json, as_text, fit
from data_bridge.pipelines.leaves import ArrowType, Leaf
from data_bridge.rows.arrow import column_values, is_binary, is_media, is_text
from data_bridge.rows.buffers import Column, bounds, buffer_of, column, joined, packed, valid
from data_bridge.rows.decoding import STAGE, BadRow, decode

KEEP_NULLS = "`pipeline.litdata_layout: arrow` keeps nulls"
_EXACT: Final[dict[str, type]] = {"bool": bool, "int": int, "float": float, "str": str, "bytes": bytes}
_BLANK: Final[dict[str, Any]] = {"bool": False, "int": 0, "float": 0.0, "str": "", "bytes": b"", "numpy": []}


class Columns(msgspec.Struct, frozen=True):
    """One array per leaf (its `column` type, or one of the same shape), all of length n.

    `rows[i]` is the row that element i came from, int64 of shape (n,). Without `nullable` no array holds a null.
    """

    arrays: list[Column]
    rows: NDArray[np.int64]
    failures: tuple[RowFailure, ...]

    def without(self, bad: dict[int, str], rows: Rows) -> "Columns":
        """The same less the elements in `bad`, which become failures with their reasons."""
        if not bad:
            return self
        mask = np.ones(len(self.rows), dtype=bool)
        mask[list(bad)] = False
        kept = column(mask)
        added = [
            RowFailure(int(self.rows[i]), reason, raw=_raw(rows, int(self.rows[i])), stage=STAGE)
            for i, reason in bad.items()
        ]
        failures = sorted((*self.failures, *added), key=lambda f: f.offset)
        return Columns([array.filter(kept) for array in self.arrays], self.rows[mask], tuple(failures))


def columns(rows: Rows, leaves: Sequence[Leaf], *, nullable: bool) -> Columns:
    """Every leaf's column. Fields that are no leaf are a failure unless null; a missing field is null."""
    if isinstance(rows, ArrowRows):
        return _of_batch(rows, leaves, nullable=nullable)
    found, positions, failures = decode(rows)
    bad: dict[int, str] = {}
    _refuse_unknown(found, frozenset(leaf.name for leaf in leaves), bad)
    arrays = [
        _add(bad, *from_values([row.get(leaf.name) for row in found], leaf, nullable=nullable)) for leaf in leaves
    ]
    return Columns(arrays, positions, failures).without(bad, rows)


def _of_batch(rows: ArrowRows, leaves: Sequence[Leaf], *, nullable: bool) -> Columns:
    batch, bad = rows.batch, dict[int, str]()
    known = {leaf.name for leaf in leaves}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if name not in known:
            for i in np.flatnonzero(valid(array)).tolist():
                bad.setdefault(i, _unknown(name))
    arrays = []
    for leaf in leaves:
        at = batch.schema.get_field_index(leaf.name)
        array = batch.column(at) if at >= 0 else pa.nulls(batch.num_rows, leaf.column)
        arrays.append(_add(bad, *from_arrow(array, leaf, nullable=nullable)))
    return Columns(arrays, np.arange(batch.num_rows, dtype=np.int64), ()).without(bad, rows)


def _add(bad: dict[int, str], array: Column, found: dict[int, str]) -> Column:
    for i, reason in found.items():
        bad.setdefault(i, reason)
    return array


def _refuse_unknown(found: Sequence[Row], names: frozenset[str], bad: dict[int, str]) -> None:
    for i, row in enumerate(found):
        if not row.keys() <= names:
            name = next((name for name, value in row.items() if name not in names and value is not None), None)
            if name is not None:
                bad[i] = _unknown(name)


def _unknown(name: str) -> str:
    return f"field {name!r} is not in the dataset's schema, which LitData fixes for all samples"


def _null(name: str) -> str:
    return f"field {name!r} is null or missing; {KEEP_NULLS}"


def _raw(rows: Rows, i: int) -> bytes | None:
    return rows.data[int(rows.starts[i]) : int(rows.ends[i])] if isinstance(rows, LineRows) else None


def from_arrow(array: Column, leaf: Leaf, *, nullable: bool) -> tuple[Column, dict[int, str]]:
    """The leaf's column made of an Arrow column, and the reason by row for what does not fit."""
    try:
        made = _converted(array, leaf)
    except pa.ArrowException:
        made = None
    if made is None:
        values, bad = column_values(array)
        made, unfit = from_values(values, leaf, nullable=nullable)
        return made, unfit | {i: f"field {leaf.name!r}: {reason}" for i, reason in bad.items()}
    if nullable or not made.null_count:
        return made, {}
    return made, {i: _null(leaf.name) for i in np.flatnonzero(~valid(made)).tolist()}


def _converted(array: Column, leaf: Leaf) -> Column | None:
    """The column without touching single values, or None where that cannot be done or would not be exact."""
    kind = array.type
    fits = {
        "bool": pt.is_boolean(kind),
        "int": pt.is_integer(kind),
        "float": pt.is_floating(kind) or pt.is_integer(kind),
        "str": is_text(kind),
        "bytes": is_binary(kind),
    }
    if leaf.kind == "bytes" and is_media(kind):
        return _media_bytes(array)
    if fits.get(leaf.kind):
        return _checked_narrowing(array, array.cast(leaf.column))
    if leaf.kind == "numpy" and _is_list(kind):
        return _number_lists(array, leaf.column)
    return array if leaf.kind == "tree" and same_shape(kind, leaf.column) else None


def _checked_narrowing(array: Column, made: Column) -> Column | None:
    if pt.is_float64(array.type) and pt.is_float32(made.type):
        return None  # value by value: some may be out of range
    return made


def _is_list(kind: ArrowType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _media_bytes(array: Column) -> Column | None:
    names = [array.type.field(i).name for i in range(2)]
    members = array.flatten()
    data, path = members[names.index("bytes")], members[names.index("path")]
    if (~valid(data) & valid(path)).any():
        return None  # a path without bytes: the general way says which row
    return data.cast(pa.binary())


def _number_lists(array: Column, kind: ArrowType) -> Column | None:
    element = array.type.value_type
    same = element.equals(kind.value_type)
    if not same and not (pt.is_integer(element) and pt.is_integer(kind.value_type)):
        return None
    if array.flatten().null_count:
        return None
    return array if same else array.cast(pa.large_list(kind.value_type))


def same_shape(kind: ArrowType, stored: ArrowType) -> bool:
    """Whether columns of the two types hold the same values: list item names and offset widths do not matter."""
    if _is_list(kind) and pt.is_list(stored):
        return same_shape(kind.value_type, stored.value_type)
    if pt.is_struct(kind) and pt.is_struct(stored):
        pairs = [(kind.field(i), stored.field(i)) for i in range(min(kind.num_fields, stored.num_fields))]
        return kind.num_fields == stored.num_fields and all(
            a.name == b.name and same_shape(a.type, b.type) for a, b in pairs
        )
    if pt.is_string(stored):
        return bool(pt.is_string(kind) or pt.is_large_string(kind))
    if pt.is_binary(stored):
        return bool(pt.is_binary(kind) or pt.is_large_binary(kind))
    return bool(kind.equals(stored))


def from_values(values: list[Any], leaf: Leaf, *, nullable: bool) -> tuple[Column, dict[int, str]]:
    """The leaf's column made of Python values, and the reason by row for what does not fit."""
    kinds = set(map(type, values))
    if nullable or type(None) not in kinds:
        try:
            made = _at_once(values, leaf, kinds, nullable=nullable)
        except (pa.ArrowException, OverflowError, ValueError):
            made = None
        if made is not None:
            return made, {}
    bad: dict[int, str] = {}
    fitted: list[Any] = []
    blank = None if nullable else _BLANK[leaf.kind]
    for i, value in enumerate(values):
        try:
            fitted.append(_fitted(value, leaf, nullable=nullable))
        except BadRow as error:
            bad[i] = str(error)
            fitted.append(blank)
    return pa.array(fitted, type=leaf.column), bad


def _at_once(values: list[Any], leaf: Leaf, kinds: set[type], *, nullable: bool) -> Column | None:
    own = kinds - {type(None)}
    if not own:
        return pa.array(values, type=leaf.column)
    if own == {_EXACT.get(leaf.kind)}:
        return None if leaf.type == "float32" else _plain(values, leaf.column, nulls=own != kinds)
    return _lists_at_once(values, leaf.column, own, nullable=nullable) if pt.is_list(leaf.column) else None


def _plain(values: Sequence[Any], kind: ArrowType, *, nulls: bool) -> Column:
    """Values that all have the one Python type that `kind` takes as it is, or are None."""
    if nulls or pt.is_uint64(kind):
        return pa.array(values, type=kind)
    if pt.is_string(kind):
        return joined([value.encode() for value in values]).view(pa.large_string())
    if pt.is_binary(kind):
        return joined(values)
    found = np.array(values, np.int64 if pt.is_integer(kind) else kind.to_pandas_dtype())
    return column(found).cast(kind)


def _lists_at_once(values: list[Any], kind: ArrowType, kinds: set[type], *, nullable: bool) -> Column | None:
    """Lists of values that all have the one Python type their Arrow type takes as it is, or None."""
    element = kind.value_type
    lists = [() if value is None else value for value in values]
    if kinds == {list}:
        flat = list(chain.from_iterable(lists))
        found = set(map(type, flat))
        if not found <= ({_python_type(element), type(None)} if nullable else {_python_type(element)}):
            return None
        items = _plain(flat, element, nulls=type(None) in found)
    elif kinds == {np.ndarray}:
        arrays = [value for value in values if value is not None]
        dtypes = {value.dtype for value in arrays}
        if len(dtypes) > 1 or any(value.ndim != 1 for value in arrays):
            return None
        numbers = np.concatenate(arrays)
        items = column(numbers) if numbers.dtype.kind in "biuf" else pa.array(numbers)
        if not items.type.equals(element):
            return None
    else:
        return None
    ends = bounds(np.fromiter(map(len, lists), np.int64, len(lists)))
    missing = np.fromiter((value is None for value in values), bool, len(values))
    validity = packed(~missing) if missing.any() else None
    return pa.Array.from_buffers(pa.large_list(items.type), len(values), [validity, buffer_of(ends)], children=[items])


def _python_type(kind: ArrowType) -> type | None:
    for matches, own in ((pt.is_boolean, bool), (pt.is_integer, int), (pt.is_float64, float), (pt.is_string, str)):
        if matches(kind):
            return own
    return None  # float32: some values may be out of range


def _fitted(value: Any, leaf: Leaf, *, nullable: bool) -> Any:
    if value is None:
        if nullable:
            return None
        raise BadRow(_null(leaf.name))
    try:
        if leaf.kind == "json":
            return as_json(value)
        return as_text(value) if leaf.kind == "text" else fit(value, leaf.column, texts=leaf.kind == "tree")
    except BadRow as error:
        raise BadRow(f"field {leaf.name!r}{error}") from None
