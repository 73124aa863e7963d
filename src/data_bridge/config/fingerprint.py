"""The config as it decides bytes: what is hashed, stored and compared on resume."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from data_bridge.config.fields import Section
from data_bridge.config.secrets import public_value
from data_bridge.config.settings import PipelineSettings, Settings


def byte_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the bytes of the output, secrets removed, as plain JSON values.

    Two configs with equal values here give the same shards of the same source.
    """
    return _marked(settings.pipeline, byte=True)


def config_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 of `byte_settings`, hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marked(section: Section, *, byte: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        assert isinstance(extra, dict), f"{type(section).__name__}.{name} does not say whether it changes bytes"
        value = getattr(section, name)
        if isinstance(value, Section):
            inner = _marked(value, byte=byte)
            if inner:
                values[info.alias or name] = inner
        elif isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
            values[info.alias or name] = [_marked(item, byte=byte) for item in value]
        elif extra["byte"] is byte and not isinstance(value, SecretStr):
            values[info.alias or name] = public_value(to_jsonable_python(value))
    return values


def changed_values(before: Mapping[str, Any], settings: Settings) -> dict[str, Any] | None:
    """The byte-deciding values of the settings if they differ from those recorded `before`, else None.

    A key that a later version added counts as unchanged while it has its default.
    """
    now = _without_new_defaults(byte_settings(settings), before, _marked(_DEFAULTS, byte=True))
    return None if now == before else now


_DEFAULTS = PipelineSettings(input_uri="")


def _without_new_defaults(
    now: Mapping[str, Any], before: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in now.items():
        if key not in before and value == default.get(key):
            continue
        inner = before.get(key), default.get(key)
        nested = isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in inner)
        kept[key] = _without_new_defaults(value, *inner) if nested else value  # type: ignore[arg-type]
    return kept
