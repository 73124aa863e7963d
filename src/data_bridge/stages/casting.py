"""Single values as another type, exactly; used by `cast`. Each raises BadRow that goes on after the field's name."""

import datetime as dt
import math
import re
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from data_bridge.model.batch import Media
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import text

INTEGERS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    }
)
"""Least and greatest value of each type."""
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(?: ?(Z|z|[+-]\d\d:?\d\d))?", re.ASCII
)
_DIGITS: Final = MappingProxyType({"s": 0, "ms": 3, "us": 6, "ns": 9})
_INT64: Final = range(-(2**63) + 1, 2**63)
_FLOAT32: Final = struct.Struct("f")
_DAY: Final = 86_400
_LARGEST: Final = 1e40
"""No integer type comes near it."""


def shown(value: Any) -> str:
    """A value in a message: its beginning at least."""
    if isinstance(value, Media):
        return f"a file of {len(value.data)} bytes"
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}…"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def to_bool(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise BadRow(f" is {shown(value)}, which is neither true nor false")


def to_integer(value: Any, kind: str) -> int:
    value = _plain(value)
    if isinstance(value, str):
        if not _WHOLE.fullmatch(word := value.strip()):
            raise BadRow(f" is {shown(value)}, which is no whole number")
        number = int(word)
    elif isinstance(value, (int, float, Decimal)):
        if isinstance(value, (float, Decimal)) and (not abs(_nearest(value)) < _LARGEST or value != int(value)):
            raise BadRow(f" is {shown(value)}, which is no whole number")
        number = int(value)
    else:
        raise BadRow(f" is {shown(value)}, which is no number")
    least, greatest = INTEGERS[kind]
    if not least <= number <= greatest:
        raise BadRow(f" is {shown(value)}, which does not fit {kind}")
    return number


def to_float(value: Any, *, single: bool) -> float:
    value = _plain(value)
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value.strip()):
            raise BadRow(f" is {shown(value)}, which is no number")
        number = float(value)
    elif isinstance(value, (int, float, Decimal)):
        number = _nearest(value)
        if isinstance(value, int) and (number != value or (single and _single(number) != value)):
            kind = "float32" if single else "float64"
            raise BadRow(f" is {shown(value)}, a whole number that {kind} does not hold exactly")
    else:
        raise BadRow(f" is {shown(value)}, which is no number")
    finite_before = not isinstance(value, (float, Decimal)) or math.isfinite(value)
    rounded = _single(number) if single else number
    if finite_before and not math.isfinite(rounded):
        raise BadRow(f" is {shown(value)}, which is too large for {'float32' if single else 'float64'}")
    return rounded


def _single(number: float) -> float:
    """The nearest float32; infinite where there is none."""
    try:
        rounded: float = _FLOAT32.unpack(_FLOAT32.pack(number))[0]
    except OverflowError:
        return math.copysign(math.inf, number)
    return rounded


def _nearest(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRow(f" is {shown(value)}, which is no UTF-8 text") from None
    try:
        return text(value)
    except BadRow as error:
        raise BadRow(f" is {shown(value)}: {error}") from None


def to_days(value: Any) -> int:
    """The days since 1970 of a date."""
    if isinstance(value, dt.datetime) or (isinstance(value, str) and len(value) > 10):
        nanoseconds, zoned = _since_1970(value)
        if zoned or nanoseconds % (_DAY * 10**9):
            raise BadRow(f" is {shown(value)}, which is more than a date")
        return nanoseconds // (_DAY * 10**9)
    if isinstance(value, dt.date):
        return (value - dt.date(1970, 1, 1)).days
    return _since_1970(value)[0] // (_DAY * 10**9)


def to_moment(value: Any, unit: str, *, zoned: bool) -> int:
    """The units since 1970 of a point in time."""
    digits = _DIGITS[unit]
    value = _plain(value) if isinstance(value, (np.integer, np.bool_)) else value
    if isinstance(value, int) and not isinstance(value, bool):
        stored = value
    else:
        nanoseconds, has_zone = _since_1970(value)
        if has_zone != zoned:
            lacks = "has no offset from UTC" if zoned else "has an offset from UTC"
            other = f"timestamp[{unit}]" if zoned else f"timestamp[{unit}, tz=UTC]"
            raise BadRow(f" is {shown(value)}, which {lacks}: that is a {other}")
        stored, rest = divmod(nanoseconds, 10 ** (9 - digits))
        if rest:
            raise BadRow(f" is {shown(value)}, which has more digits than a timestamp in {unit}")
    if stored not in _INT64:
        raise BadRow(f" is {shown(value)}, which is out of range for a timestamp in {unit}")
    return stored


def moment_text(stored: int, unit: str, *, zoned: bool) -> str:
    """RFC 3339 with all digits of the unit, as a column of such a type becomes it."""
    return str(np.datetime_as_string(np.array(stored, f"datetime64[{unit}]"))) + ("Z" if zoned else "")


def date_text(days: int) -> str:
    return str(np.datetime_as_string(np.array(days, "datetime64[D]")))


def _since_1970(value: Any) -> tuple[int, bool]:
    """Nanoseconds since 1970 (in UTC where it has an offset), and whether it has one."""
    if isinstance(value, (dt.datetime, dt.date)):
        value = value.isoformat()
    if not isinstance(value, str):
        raise BadRow(f" is {shown(value)}, which is no point in time")
    found = _MOMENT.fullmatch(value.strip())
    if found is None:
        raise BadRow(f" is {shown(value)}, which is no point in time as 2024-02-29T12:30:00Z is")
    date, time, seconds, fraction, zone = found.groups()
    try:
        moment = dt.datetime.fromisoformat(f"{date}T{time or '00:00'}:{seconds or '00'}")
        offset = _offset(zone)
    except ValueError as error:
        raise BadRow(f" is {shown(value)}, which is no point in time: {error}") from None
    passed = moment - dt.datetime(1970, 1, 1)
    whole = passed.days * _DAY + passed.seconds - offset
    return whole * 10**9 + int((fraction or "").ljust(9, "0")), zone is not None


def _offset(zone: str | None) -> int:
    if zone is None or zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    if hours > 23 or minutes > 59:
        raise ValueError("the offset from UTC is out of range")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def converter(kind: str) -> Callable[[Any], Any]:
    """What makes a value of this type (a key of `cast`) of any that means one."""
    if kind == "bool":
        return to_bool
    if kind in INTEGERS:
        return partial(to_integer, kind=kind)
    if kind in ("float32", "float64"):
        return partial(to_float, single=kind == "float32")
    if kind == "string":
        return to_text
    if kind == "date":
        return to_days
    unit, zoned = moment_of(kind)
    return partial(to_moment, unit=unit, zoned=zoned)


def moment_of(kind: str) -> tuple[str, bool]:
    """Unit of `timestamp[ms, tz=UTC]`, and whether it is in UTC."""
    return kind[len("timestamp[") :].partition(",")[0].rstrip("]"), "tz=" in kind


def finisher(kind: str) -> Callable[[Any], Any] | None:
    """What makes plain values of those the converter gives, where they are not yet."""
    if kind == "date":
        return date_text
    if kind.startswith("timestamp"):
        unit, zoned = moment_of(kind)
        return partial(moment_text, unit=unit, zoned=zoned)
    return None
