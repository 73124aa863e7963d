"""What a stage is given that looks at the run as a whole: before all work, and at its end."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

from data_bridge.errors import ConfigError
from data_bridge.utils.files import replacing

_MOST = 10
"""Keys that an error names."""


def _to_nobody(_message: str) -> None:
    pass


class Context(msgspec.Struct, frozen=True):
    """The run as a stage may know it. Without arguments that of a test."""

    run: str = ""
    stage: str = ""
    """The name of the stage in the config."""
    destination: str = ""
    settings: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """The pipeline's settings that decide bytes, as they are recorded: no secrets."""
    folder: Path | None = None
    """`stages/<name>` in the run's folder on this machine, which need not exist; None for a user without a home. Nothing in
    it may decide what becomes of a sample: another machine has another one."""
    log: Callable[[str], None] = _to_nobody
    """Tell the user something: it is shown and stands in the run's events."""

    def load_json(self, name: str) -> Any:
        """A document that was saved in the folder; `{}` where none was."""
        path = None if self.folder is None else self.folder / name
        return orjson.loads(path.read_bytes()) if path is not None and path.exists() else {}

    def save_json(self, name: str, value: Any) -> None:
        """Keep a document in the folder, whole or not at all."""
        if self.folder is None:
            raise ConfigError("there is no folder to keep it in: this user has no home", hint="set HOME")
        with replacing(self.folder / name, str(os.getpid())) as file:
            file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


class RunTotals(msgspec.Struct, frozen=True):
    """The finished dataset as its ledger has it: all runs and crashes counted once."""

    samples: int
    failed: int
    bytes: int
    shards: int
    failed_here: int = 0
    """Those of the failed samples that failed in this stage."""


def require_same_keys(wanted: Iterable[str], there: Iterable[str], what: str) -> int:
    """How many there are, where both hold the same. Raises ConfigError that names up to ten of each side alone."""
    left, right = set(wanted), set(there)
    problems = [
        f"{len(alone)} {words} ({', '.join(sorted(alone)[:_MOST])}{', …' if len(alone) > _MOST else ''})"
        for alone, words in ((left - right, "are missing"), (right - left, "are there that nobody wants"))
        if alone
    ]
    if problems:
        raise ConfigError(f"{what}: {' and '.join(problems)}", hint="make both sides of the same source first")
    return len(left)
