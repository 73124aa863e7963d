"""Reading a config file, with every problem told at once."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from data_bridge.config.settings import Settings
from data_bridge.errors import ConfigError


def load_settings(path: Path, env: Mapping[str, str] = os.environ) -> Settings:
    """Read a YAML, TOML or JSON config.

    `${VAR}` in a value takes the variable's content (`$${VAR}` stays as it is); one that is missing is an error,
    unless it stands in a block that this config does not use. Raises ConfigError that lists every problem with the
    path of its key.
    """
    raw = parse(path)
    missing: list[str] = []
    used = used_blocks(raw)
    values = {
        block: _interpolated(value, env, (block,), missing if block in used else None) for block, value in raw.items()
    }
    if missing:
        raise ConfigError(f"{path}:\n" + "\n".join(missing), hint="set the variable, or write the value into the file")
    try:
        return Settings.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise _refusal(f"{path}:", error) from None


def _refusal(what: str, error: ValidationError) -> ConfigError:
    problems = [explained(e) for e in error.errors(include_input=False, include_url=False)]
    return ConfigError(
        "\n".join([what, *dict.fromkeys(problems)]),
        hint="`data-bridge schema` prints every key; docs/config.md explains them",
    )


def parse(path: Path) -> dict[str, Any]:
    """The blocks of a config file as they stand there."""
    if not path.is_file():
        raise ConfigError(f"no config file at {path}", hint="`data-bridge init` writes one to start from")
    parser = _PARSERS.get(path.suffix.lower())
    if parser is None:
        raise ConfigError(f"{path}: not a config file", hint="name it .yaml, .toml or .json")
    try:
        raw = parser(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be parsed: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no settings", hint="`data-bridge init` writes a file to start from")
    return {str(k): v for k, v in raw.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused when a key stands in it twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"key {twice!r} stands twice")
    return found


def _yaml(text: str) -> Any:
    from data_bridge.config import unique_yaml

    return unique_yaml.loads(text)


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": tomllib.loads,
    ".json": lambda text: json.loads(text, object_pairs_hook=_unique),
}


def used_blocks(raw: Mapping[str, Any]) -> set[str]:
    """Blocks whose variables must exist: the pipeline, and the stores its URIs name."""
    pipeline = raw.get("pipeline")
    pipeline = pipeline if isinstance(pipeline, dict) else {}
    uris = json.dumps([pipeline.get("input_uri"), pipeline.get("output_uri")])
    used = {"pipeline"}
    if "r2://" in uris or not pipeline.get("output_uri"):
        used.add("r2")
    if "s3://" in uris:
        used.add("s3")
    return used | (set(raw) - {"r2", "s3", "vast"})


_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")


def variables_in(value: Any) -> set[str]:
    """The names of the variables that a value takes from the environment."""
    if isinstance(value, dict):
        return {name for inner in value.values() for name in variables_in(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in variables_in(inner)}
    return {name for escape, name in _VARIABLE.findall(value) if not escape} if isinstance(value, str) else set()


def _interpolated(value: Any, env: Mapping[str, str], path: tuple[str, ...], missing: list[str] | None) -> Any:
    """A config value with its variables filled in; problems go to `missing`, or make the value None where it is None."""
    if isinstance(value, dict):
        return {k: _interpolated(v, env, (*path, str(k)), missing) for k, v in value.items()}
    if isinstance(value, list):
        return [_interpolated(v, env, (*path, str(i)), missing) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    absent = [name for escape, name in _VARIABLE.findall(value) if not escape and name not in env]
    if absent:
        if missing is not None:
            missing.extend(f"{'.'.join(path)}: the environment has no variable {name}" for name in absent)
        return None
    return _VARIABLE.sub(lambda m: m[0][1:] if m[1] else env[m[2]], value)


def explained(error: Mapping[str, Any], model: type[BaseModel] = Settings) -> str:
    """One validation error of a model as `path: what is wrong`."""
    loc = [
        p for p in error["loc"] if not (isinstance(p, str) and (p == "str" or p.startswith(("tuple[", "function-"))))
    ]
    where = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(loc[-1]), _keys_at(loc[:-1], model), n=1)
        return f"{where}: unknown key" + (f", did you mean `{close[0]}`?" if close else "")
    if error["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _keys_at(loc: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """The keys a block at this path may hold."""
    section = model
    for part in loc:
        inner = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        candidates = [inner, *get_args(inner)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return [info.alias or name for name, info in section.model_fields.items()]


def overridden(settings: Settings, **values: Any) -> Settings:
    """The settings with pipeline values replaced by those of command line flags that were given (not None).

    Raises ConfigError for a value the file could not have either.
    """
    given = {k: v for k, v in values.items() if v is not None}
    if not given:
        return settings
    try:
        pipeline = type(settings.pipeline).model_validate({**settings.pipeline.model_dump(), **given})
    except ValidationError as error:
        raise _refusal("the command line:", error) from None
    return settings.model_copy(update={"pipeline": pipeline})
