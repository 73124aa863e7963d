"""Single Python values made to fit an Arrow type exactly: the slow and strict way into a LitData leaf."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from data_bridge.model.batch import Media
from data_bridge.pipelines.leaves import MOMENTS, ArrowType
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import dump, text


def fit(value: Any, kind: ArrowType, *, texts: bool = False) -> Any:
    """The value as `pa.array` takes it for `kind` without changing it. Raises BadRow, whose message goes on after the field's name.

    Only integers become floats, where that loses nothing; float32 is rounded to. With `texts` times, dates and
    decimals become text. None fits everything inside of lists and structs.
    """
    if pt.is_list(kind):
        return _fit_list(value, kind, texts=texts)
    if pt.is_struct(kind):
        return _fit_struct(value, kind, texts=texts)
    if texts and pt.is_string(kind) and isinstance(value, MOMENTS):
        return text(value)
    for matches, convert in _FITTERS:
        if matches(kind):
            return convert(value, kind)
    raise BadRow(f" cannot be stored as {kind}")


def as_text(value: Any) -> str:
    """Text as it is; RFC 3339 text of a time, date or duration; the digits of a decimal. Raises BadRow for anything else."""
    if isinstance(value, MOMENTS):
        return text(value)
    return str(_fit_str(value, pa.string()))


def as_json(value: Any) -> str:
    """Any value as JSON text. Raises BadRow where it has none."""
    try:
        return dump(value).decode()
    except BadRow as error:
        raise BadRow(f": {error}") from None


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _wrong(value: Any, kind: ArrowType) -> BadRow:
    return BadRow(f" is {_name(value)}, not {kind}; `pipeline.schema` can declare another type")


def _fit_bool(value: Any, kind: ArrowType) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise _wrong(value, kind)


def _fit_int(value: Any, kind: ArrowType) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise _wrong(value, kind)
    bits = kind.bit_width - pt.is_signed_integer(kind)
    if not (-(2**bits) if pt.is_signed_integer(kind) else 0) <= value < 2**bits:
        raise BadRow(f" is {_shown(value)}, which does not fit {kind}")
    return int(value)


def _fit_float(value: Any, kind: ArrowType) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise _wrong(value, kind)
    number = value.item() if isinstance(value, np.generic) else value
    widest = np.finfo(kind.to_pandas_dtype())
    if abs(number) > float(widest.max) and number not in (math.inf, -math.inf):
        raise BadRow(f" is {_shown(value)}, which does not fit {kind}")
    if isinstance(number, int) and int(widest.dtype.type(number)) != number:
        raise BadRow(f" is {_shown(value)}, an integer that {kind} cannot hold exactly")
    return float(value)


def _shown(value: Any) -> str:
    return str(value) if abs(value) < 10**20 else f"about 10**{int(math.log10(abs(value)))}"


def _fit_str(value: Any, kind: ArrowType) -> Any:
    if not isinstance(value, str):
        raise _wrong(value, kind)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(" holds half of a surrogate pair, which is not valid Unicode") from None
    return value


def _fit_bytes(value: Any, kind: ArrowType) -> Any:
    if isinstance(value, Media):
        return value.data
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _wrong(value, kind)


def _fit_list(value: Any, kind: ArrowType, *, texts: bool) -> Any:
    if isinstance(value, dict) and pt.is_struct(kind.value_type):  # a map
        value = [{"key": key, "value": item} for key, item in value.items()]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _wrong(value, kind)
    items = []
    numbers = pt.is_primitive(kind.value_type) and not texts
    for i, item in enumerate(value):
        try:
            items.append(None if item is None and not numbers else fit(item, kind.value_type, texts=texts))
        except BadRow as error:
            raise BadRow(f"[{i}]{error}") from None
    return items


def _fit_struct(value: Any, kind: ArrowType, *, texts: bool) -> Any:
    if not isinstance(value, dict):
        raise _wrong(value, kind)
    members = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    fitted = {}
    for name, item in value.items():
        if name not in members:
            if item is None:
                continue
            raise BadRow(
                f".{name} is not in the dataset's schema; declare the field as `json` in pipeline.schema to keep such values"
            )
        try:
            fitted[name] = None if item is None else fit(item, members[name], texts=texts)
        except BadRow as error:
            raise BadRow(f".{name}{error}") from None
    return fitted


_FITTERS: Final[tuple[tuple[Callable[[ArrowType], bool], Callable[[Any, ArrowType], Any]], ...]] = (
    (pt.is_boolean, _fit_bool),
    (pt.is_integer, _fit_int),
    (pt.is_floating, _fit_float),
    (pt.is_string, _fit_str),
    (pt.is_binary, _fit_bytes),
)
