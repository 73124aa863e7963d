"""A config as it may leave this machine: what the run uses, and the variables it names, apart from each other."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_bridge.config.loading import parse, used_blocks, variables_in


@dataclass(frozen=True, slots=True)
class Portable:
    """`text` is the config as JSON with its `${VAR}` as they stand; `variables` are their values, which are secrets."""

    text: str
    variables: Mapping[str, str]


def portable(path: Path, replaced: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Portable:
    """The config without blocks that its run does not use, and never with that of the rented machine. `replaced` takes the
    place of whole blocks, except that `pipeline` is added to. Raises ConfigError as `load_settings` does."""
    raw = parse(path)
    used = used_blocks(raw) - {"vast"}
    kept = {block: value for block, value in raw.items() if block in used}
    for block, value in replaced.items():
        kept[block] = {**kept["pipeline"], **value} if block == "pipeline" else value
    named = {name for name in variables_in(kept) if name in env}
    return Portable(json.dumps(kept, indent=1), {name: env[name] for name in sorted(named)})
