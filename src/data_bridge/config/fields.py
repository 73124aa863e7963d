"""What the blocks of a config are made of."""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
              "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def refuse_bool(value: object) -> object:
    """`true` would pass for 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def parse_size(value: object) -> object:
    """`"1GB"`, `"64MiB"` or a plain number of bytes -> int; anything else is left for validation to refuse."""
    if not isinstance(value, str):
        return refuse_bool(value)
    text = value.strip().lower().replace("_", "").replace(" ", "")
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = SIZE_UNITS.get(text[len(number) :])
    if unit is None or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{value!r} is not a size: write 500MB, 1GB, 64MiB or a number of bytes")
    return round(float(number) * unit)


def share(value: str) -> Fraction:
    """`"0.5%"` as 1/200, exactly. Raises ValueError for what is no share."""
    number, percent, rest = value.strip().partition("%")
    if (
        not percent
        or rest
        or not re.fullmatch(r"\d+(\.\d+)?", number.strip())
        or (found := Fraction(number.strip())) > 100
    ):
        raise ValueError(f"{value!r} is no share: write 0.5%, at most 100%")
    return found / 100


def _share_text(value: str) -> str:
    share(value)
    return value


Size = Annotated[int, BeforeValidator(parse_size)]
Count = Annotated[int, BeforeValidator(refuse_bool)]
Failures = Annotated[Count, Field(ge=0)] | Annotated[str, AfterValidator(_share_text)]
"""How many samples may fail: a number, or a share such as `0.5%`."""


def field(default: Any = ..., *, byte: bool, **extra: Any) -> Any:
    """A settings field that says whether it is part of the config hash."""
    return Field(default, json_schema_extra={"byte": byte}, **extra)


class Section(BaseModel):
    """A closed, frozen block of the config."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())
