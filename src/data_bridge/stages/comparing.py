"""A condition as a person types it: `words > 100`."""

import re
from typing import Any

import orjson
from pydantic import ValidationError

from data_bridge.errors import ConfigError
from data_bridge.stages.conditions import Condition

_WRITTEN = re.compile(r"\s*(?P<name>[^\s<>=!~]+)\s*(?P<how>>=|<=|==|!=|>|<|=|~)\s*(?P<value>.*?)\s*", re.DOTALL)
HINT = "write a column, one of > >= < <= = != ~ (a regular expression), and a value: --filter 'words>100'"


def compared(text: str) -> tuple[str, Condition]:
    """The column that a comparison asks of, and the condition. Raises ConfigError for what is none."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no condition", hint=HINT)
    value = _value(found["value"])
    how = found["how"]
    try:
        return found["name"], Condition.model_validate(_demand(how, value, found["value"]))
    except ValidationError as error:
        raise ConfigError(f"{text!r} is no condition: {error.errors()[0]['msg']}", hint=HINT) from None


def _demand(how: str, value: Any, written: str) -> dict[str, Any]:
    if how == "~":
        return {"matches": str(_value(written)) if written[:1] in "\"'" else written}
    if how in ("=", "==", "!="):
        if value is None:
            return {"null": how != "!="}
        return {"in" if how != "!=" else "not_in": [value]}
    bound = {"min" if how[0] == ">" else "max": value}
    return bound if how.endswith("=") else {**bound, "not_in": [value]}


def _value(written: str) -> Any:
    """Numbers, true, false and null as such, everything else as text, with quotes around it or without."""
    if len(written) > 1 and written[0] == written[-1] and written[0] in "\"'":
        return written[1:-1]
    try:
        return orjson.loads(written)
    except orjson.JSONDecodeError:
        return written
