"""What there is to know of a kind of stage, from its class: for `data-bridge stages show` and `docs/stages.md`.

`python -m data_bridge.stages.reference docs/stages.md` writes the tables of options there anew.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from data_bridge.config.reference import default_text, type_name
from data_bridge.errors import ConfigError
from data_bridge.runtime.multistage import MultiStage
from data_bridge.runtime.stage import Stage, StageOptions
from data_bridge.stages.registry import BUILT_IN, kinds, stage_class

_HEAD = "| option | type | default | live | |\n|---|---|---|---|---|\n"
_SECTION = re.compile(r"(?ms)^## `(?P<kind>[a-z_]+)`$.*?(?=^## |\Z)")
_TABLE = re.compile(r"(?m)^\| option \|.*\n(?:^\|.*\n)*")


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option. `name` is a path where blocks hold options of their own: `where.<name>.min`."""

    name: str
    type: str
    default: str
    live: str
    """`never`, `paused` or `any`."""
    description: str


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A kind of stage as its author describes it."""

    kind: str
    where: str
    """`module:Class`."""
    description: str
    executor: str
    bypassable: bool
    options: tuple[OptionInfo, ...]
    commands: tuple[tuple[str, str], ...] = ()
    """Of its own, each with what it does."""
    takes: tuple[str, ...] = ()
    """What it calls its inputs, where it tells them apart."""
    gives: tuple[str, ...] = ()
    """What it calls its outputs then."""

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        text = " ".join(self.description.split("\n\n")[0].split())
        return text.partition(". ")[0].rstrip(".")


def describe(kind: str) -> KindInfo:
    """What is known of a kind. Raises ConfigError for one there is not."""
    found: type[Stage[Any]] = stage_class(kind)
    text = re.sub(r"[ \t]*\n[ \t]+", "\n", (found.__doc__ or "").strip())
    where = f"{found.__module__}:{found.__qualname__}"
    own = tuple({**found.commands, **found.questions}.items())
    ports = (tuple(found.takes), tuple(found.gives)) if issubclass(found, MultiStage) else ()
    return KindInfo(kind, where, text, found.executor, found.bypassable, tuple(_options(found.Options)), own, *ports)


def describe_all() -> tuple[list[KindInfo], dict[str, str]]:
    """Every kind there is, by name, and why those of other packages that cannot be loaded cannot."""
    found: list[KindInfo] = []
    broken: dict[str, str] = {}
    for kind in sorted(kinds()):
        try:
            found.append(describe(kind))
        except ConfigError as error:
            broken[kind] = error.message
    return found, broken


def _options(model: type[BaseModel], before: str = "") -> Iterator[OptionInfo]:
    for key, info in model.model_fields.items():
        name = f"{before}{info.alias or key}"
        extra = info.json_schema_extra
        live = str(extra.get("live", "never")) if isinstance(extra, dict) else "never"
        yield OptionInfo(name, type_name(info.annotation), default_text(info), live, info.description or "")
        for inner, step in _models_in(info.annotation):
            yield from _options(inner, f"{name}{step}.")


def _models_in(kind: Any, step: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(kind, type) and issubclass(kind, StageOptions):
        yield kind, step
    is_map = getattr(kind, "__origin__", None) is dict
    for inner in get_args(kind):
        yield from _models_in(inner, ".<name>" if is_map else step)


def table(kind: str) -> str:
    """The options as a table of Markdown."""
    rows = []
    for option in describe(kind).options:
        live = "" if option.live == "never" else option.live
        cells = [f"`{option.name}`", option.type, option.default, live, option.description]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return _HEAD + "".join(rows)


def with_tables(text: str) -> str:
    """The document with the table of every built-in kind as the kind is now: in its place, or at the section's end."""

    def rewritten(section: re.Match[str]) -> str:
        if section["kind"] not in BUILT_IN:
            return section[0]
        new = table(section["kind"])
        if _TABLE.search(section[0]):
            return _TABLE.sub(lambda _: new, section[0], count=1)
        return f"{section[0].rstrip()}\n\n{new}\n"

    return _SECTION.sub(rewritten, text)


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
