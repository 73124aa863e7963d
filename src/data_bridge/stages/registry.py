"""Kinds of stages by the key that names them in a config; the one place that imports them, only when needed."""

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from data_bridge.config.calls import load
from data_bridge.errors import ConfigError
from data_bridge.runtime.stage import Stage

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "cast": "data_bridge.stages.cast:Cast",
        "dedupe": "data_bridge.stages.dedupe:Dedupe",
        "drop": "data_bridge.stages.select:Drop",
        "explode": "data_bridge.stages.explode:Explode",
        "fetch": "data_bridge.stages.fetch:Fetch",
        "filter": "data_bridge.stages.filter:Filter",
        "limit": "data_bridge.stages.limit:Limit",
        "map": "data_bridge.stages.map:Map",
        "preview": "data_bridge.stages.preview:Preview",
        "reencode": "data_bridge.stages.reencode:Reencode",
        "rename": "data_bridge.stages.select:Rename",
        "resize": "data_bridge.stages.resize:Resize",
        "sample": "data_bridge.stages.sample:Sample",
        "select": "data_bridge.stages.select:Select",
        "shuffle": "data_bridge.stages.shuffle:Shuffle",
        "signal": "data_bridge.stages.signal:Signal",
        "split": "data_bridge.stages.split:Split",
        "text_normalize": "data_bridge.stages.text_normalize:TextNormalize",
        "tokenize": "data_bridge.stages.tokenize:Tokenize",
    }
)
ENTRY_POINTS = "data_bridge.stages"
"""The group under which other packages offer theirs: `kind = "package.module:Class"`."""


def kinds() -> dict[str, str]:
    """Every kind there is and where its class is: ours, and those of installed packages."""
    return {**{e.name: e.value for e in entry_points(group=ENTRY_POINTS)}, **BUILT_IN}


def stage_class(kind: str) -> type[Stage[Any]]:
    """The class of a kind, of `package.module:Class` or of `path/to/file.py:Class`. Raises ConfigError for one there is not."""
    where = BUILT_IN.get(kind) or (kind if ":" in kind else kinds().get(kind))
    if where is None:
        close = difflib.get_close_matches(kind, kinds(), 1)
        guess = f"did you mean `{close[0]}`? " if close else ""
        raise ConfigError(
            f"there is no kind of stage {kind!r}", hint=f"{guess}`data-bridge stages list` shows them all"
        )
    found: Any = load(where)
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ConfigError(f"{where} is no stage", hint="a stage is a subclass of data_bridge.runtime.stage.Stage")
    return found
