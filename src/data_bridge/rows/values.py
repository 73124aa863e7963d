"""How one value becomes JSON or text: deterministic, without losing digits, or a BadRow that says why not."""

import base64
import datetime as dt
import enum
import math
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

from data_bridge.model.batch import Media, Rows
from data_bridge.rows.decoding import BadRow, decode

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_LONGEST_PLAIN_DECIMAL = 100


def dump(value: Any) -> bytes:
    """Compact UTF-8 JSON, keys in the order given.

    NaN and infinite numbers become null (`count_nonfinite` tells how many); integers of any size keep their
    digits; decimals, dates and times are text (RFC 3339), bytes and Media base64, numpy arrays lists.
    Raises BadRow for what has no JSON form: other types, keys that are not text, half surrogates, deep nesting.
    """
    try:
        return orjson.dumps(value, _special, _OPTIONS)
    except TypeError as error:  # integers of more than 64 bits, or really no JSON
        if isinstance(error.__cause__, BadRow):
            raise error.__cause__ from None
    try:
        return orjson.dumps(_plain(value), None, _OPTIONS)
    except RecursionError:
        raise BadRow("the value is nested too deeply for JSON") from None
    except TypeError as error:
        raise BadRow(_explained(str(error))) from None


def dump_each(values: Sequence[Any]) -> list[bytes]:
    """`dump` of each of them, faster."""
    try:
        return [orjson.dumps(value, _special, _OPTIONS) for value in values]
    except TypeError:  # one of them needs more than that, or has no JSON form
        return [dump(value) for value in values]


def text(value: Any) -> str:
    """A single value as text, the way it stands in JSON but without quotes. BadRow for null, containers and bytes."""
    if type(value) is str:
        return value
    if isinstance(value, (np.generic, float, Decimal)) and count_nonfinite(value):
        raise BadRow("the number is not finite")
    if value is None or isinstance(value, (dict, list, tuple, np.ndarray, bytes, bytearray, memoryview, Media)):
        raise BadRow(f"{_kind(value)} has no text form")
    plain = orjson.loads(dump(value)) if not isinstance(value, (int, float)) or isinstance(value, bool) else None
    return plain if isinstance(plain, str) else dump(value).decode()


def count_nonfinite(value: Any) -> int:
    """How many NaN and infinite numbers a value holds, at any depth."""
    if type(value) is float:
        return not math.isfinite(value)
    if isinstance(value, dict):
        return sum(count_nonfinite(item) for item in value.values() if type(item) not in _NEVER)
    if isinstance(value, (list, tuple)):
        return sum(count_nonfinite(item) for item in value if type(item) not in _NEVER)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind == "O":
            return count_nonfinite(value.tolist())
        return int(value.size - np.count_nonzero(np.isfinite(value))) if value.dtype.kind == "f" else 0
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float) and not math.isfinite(value)


_NEVER = frozenset((str, int, bool, type(None), bytes, Media))


def _special(value: Any) -> Any:
    """JSON form of what orjson does not write itself."""
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, np.generic):
        return _scalar(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Media):
        return base64.b64encode(value.data).decode()
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        stamp = value.isoformat()
        return stamp[:-6] + "Z" if stamp.endswith("+00:00") else stamp
    if isinstance(value, dt.timedelta):
        micros = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
        return duration_text(micros, 6)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return float(value)
    raise BadRow(f"{_kind(value)} has no JSON form")


def duration_text(number: int, digits: int) -> str:
    """ISO 8601 duration of `number` units of 10**-digits seconds: `PT1.500S`, `-PT3S`."""
    whole, rest = divmod(abs(number), 10**digits)
    fraction = f".{rest:0{digits}d}" if digits else ""
    return f"{'-' if number < 0 else ''}PT{whole}{fraction}S"


def _array(value: "np.ndarray[Any, Any]") -> Any:
    kind = value.dtype.kind
    if kind in "biuf" and value.dtype.itemsize <= 8 and value.ndim:
        native = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
        return orjson.Fragment(orjson.dumps(native, None, orjson.OPT_SERIALIZE_NUMPY))
    if kind == "M":
        return _nat_to_null(np.datetime_as_string(value).tolist())
    if kind in "biufOSU":
        return value.tolist()
    raise BadRow(f"an array of {value.dtype} has no JSON form")


def _nat_to_null(texts: Any) -> Any:
    if isinstance(texts, list):
        return [_nat_to_null(item) for item in texts]
    return None if texts == "NaT" else texts


def _scalar(value: "np.generic[Any]") -> Any:
    kind = value.dtype.kind
    if kind == "M":
        return _nat_to_null(str(np.datetime_as_string(value)))  # type: ignore[arg-type]
    if kind in "SU" or (kind in "biuf" and value.dtype.itemsize <= 8):
        return value.item()
    raise BadRow(f"{_kind(value)} has no JSON form")


def _decimal(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    exponent = value.as_tuple().exponent
    plain = isinstance(exponent, int) and abs(exponent) <= _LONGEST_PLAIN_DECIMAL
    return format(value, "f") if plain else str(value)


def _plain(value: Any) -> Any:
    """A value as orjson writes it without help, integers beyond 64 bits included."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else orjson.Fragment(_digits(value))
    if isinstance(value, str):
        return value
    if type(value) is float:
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise BadRow(f"keys of a JSON object must be text, not {_kind(key)}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    special = _special(value)
    return special if isinstance(special, orjson.Fragment) else _plain(special)


def _digits(value: int) -> bytes:
    try:
        return str(value).encode()
    except ValueError:
        raise BadRow("an integer has too many digits") from None


def _kind(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _explained(error: str) -> str:
    if "surrogate" in error:
        return "a string holds half of a surrogate pair, which is not valid Unicode"
    if "ecursion" in error:
        return "the value is nested too deeply for JSON"
    return f"the value has no JSON form: {error}"


def raw_of(rows: Rows, position: int) -> bytes | None:
    """One row as JSON bytes, as near to the source as its form allows; None when it cannot be read at all."""
    found, _, _ = decode(rows.slice(position, position + 1))
    if not found:
        return None
    try:
        return dump(found[0])
    except BadRow:
        return None
