"""CSV columns whose type the config declares."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SHAPES = {
    "int64": r"^[+-]?[0-9]+$",
    "float64": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^(?i:[+-]?(nan|inf|infinity))$",
    "bool": r"^(?i:true|false)$",
}
_ARROW = {"int64": pa.int64(), "float64": pa.float64()}
_INT64 = range(-(2**63), 2**63)
_MOST_DIGITS = 19
FIELD_TYPES = {"int64": "int64", "float64": "double", "bool": "bool", "string": "string"}
"""Declared name -> the name fields of a source carry."""


def typed(column: "pa.Array[Any]", kind: str) -> tuple["pa.Array[Any]", NDArray[np.bool_]]:
    """The strings as `kind`, and which of them do not parse (what the column holds for those means nothing).

    White space around a value is no part of it; an empty cell is null, quoted or not.
    """
    if kind == "string":
        return column, np.zeros(len(column), np.bool_)
    text: Any = pc.utf8_trim_whitespace(column)
    absent = pc.fill_null(pc.equal(text, pa.scalar("")), True)
    fits = pc.fill_null(pc.match_substring_regex(text, _SHAPES[kind]), False)
    bad = pc.invert(pc.or_(fits, absent))
    text = pc.if_else(fits, text, pa.scalar(None, pa.string()))
    if kind == "bool":
        return pc.equal(pc.utf8_lower(text), pa.scalar("true")), np.asarray(bad)
    text = pc.utf8_ltrim(text, characters="+")
    values, beyond = _numbers(text, kind)
    return values, np.asarray(bad) | beyond


def _numbers(text: Any, kind: str) -> tuple["pa.Array[Any]", NDArray[np.bool_]]:
    """Numbers, and which of them the type cannot hold."""
    try:
        values: Any = text.cast(_ARROW[kind])
    except pa.ArrowInvalid:
        mask = pa.array([t is None or _is_int64(t) for t in text.to_pylist()])
        kept: Any = pc.if_else(mask, text, pa.scalar(None, pa.string()))
        return kept.cast(_ARROW[kind]), ~np.asarray(mask)
    none = np.zeros(len(values), np.bool_)
    if kind == "float64" and pc.any(pc.is_inf(values)).as_py():
        spelled = pc.fill_null(pc.match_substring(text, "inf", ignore_case=True), True)
        none = np.asarray(pc.and_(pc.fill_null(pc.is_inf(values), False), pc.invert(spelled)))
    return values, none


def _is_int64(digits: str) -> bool:
    significant = digits.lstrip("-0")
    return len(significant) <= _MOST_DIGITS and int(digits[:1].strip("0123456789") + (significant or "0")) in _INT64
