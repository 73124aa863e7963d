"""Which field of a row becomes which member of a sample: fixed once per dataset, then applied to every row."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.content import (
    BINARY_EXTENSIONS,
    INTEGER_EXTENSIONS,
    JSON_EXTENSIONS,
    file_bytes,
    kind_of,
    member_bytes,
)
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.magic import file_kind

SAMPLE_META = frozenset(("__key__", "__url__"))
"""What samples of a tar source carry besides their members."""

_EXTENSION = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
_PATH_EXTENSION = re.compile(r"[a-z0-9]{1,10}")
_BINARY_TYPE = re.compile(r"(media|(large_)?binary(_view)?|fixed_size_binary)($|\[)")
_LONGEST_EXTENSION = 40
_LONGEST_FIELD = 24
_WELL_KNOWN = BINARY_EXTENSIONS | INTEGER_EXTENSIONS | JSON_EXTENSIONS | {"txt", "text", "transcript", "npy", "bin"}
"""Names of binary columns that are themselves the extension."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The frozen mapping: `members` field -> extension; all other fields together in the member `rest`.

    `rest` is None when every field has a member of its own; `drop` are fields that are written nowhere.
    """

    members: Mapping[str, str]
    rest: str | None
    drop: frozenset[str] = frozenset()
    known: frozenset[str] | None = None
    """Fields seen when the mapping was made; None where the source declares them, so that none can be new."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Declared types that the source does not guarantee: every value is held against them."""
    order: tuple[str, ...] = field(init=False)
    """All extensions in the order members stand in a sample."""

    checks: Mapping[str, Callable[[Any], None]] = field(init=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.types:
            from data_bridge.pipelines.schema import checks

            object.__setattr__(self, "checks", checks(self.types))
        extensions = [*self.members.values(), *([self.rest] if self.rest else [])]
        object.__setattr__(self, "order", tuple(sorted(extensions)))

    @property
    def whole(self) -> bool:
        """Whether a sample is its row as one JSON object, whatever is in it."""
        return not self.members and not self.drop and not self.types

    @classmethod
    def load(cls, frozen: Mapping[str, Any]) -> "Layout":
        known = frozen.get("known")
        return cls(
            frozen["members"],
            frozen["rest"],
            frozenset(frozen["drop"]),
            None if known is None else frozenset(known),
            frozen.get("types", {}),
        )


def freeze(settings: PipelineSettings, probe: Probe) -> dict[str, Any]:
    """The mapping as kept in the plan: `{members, rest, drop, known, warnings}`.

    Raises ConfigError for an entry of `pipeline.members` or a `key_field` that does not fit the source.
    """
    names = [f.name for f in probe.fields]
    _check_names(settings, names)
    warnings: list[str] = []
    explicit = {name: _explicit(name, ext, probe) for name, ext in (settings.members or {}).items()}
    own = [f.name for f in probe.fields if f.name not in explicit and _is_file(f, probe)]
    from_tar = _is_tar(probe)
    named = {name: name for name in own if _named_by_extension(name, from_tar=from_tar)}
    drop = [name for name in names if from_tar and name in SAMPLE_META and name not in explicit]
    others = [name for name in names if name not in explicit and name not in own and name not in drop]
    taken: set[str] = set()
    members: dict[str, str] = {}
    for name in sorted(explicit, key=names.index):
        members[name] = _unique(explicit[name], name, taken)
    for name in named:
        members[name] = _unique(_tame(name, name, probe, warnings), name, taken)
    rest = _unique("json", "fields", taken) if others or not (explicit or own) else None
    for name in own:
        if name not in named:
            members[name] = _unique(_tame(name, _guess(name, probe, warnings), probe, warnings), name, taken)
    warnings += [w for name in members for w in _null_warning(name, probe)]
    known = None if probe.declared else names
    frozen: dict[str, Any] = {"members": members, "rest": rest, "drop": drop, "known": known}
    if settings.schema_ and not probe.declared:
        frozen["types"] = dict(settings.schema_)
    return {**frozen, "warnings": warnings} if warnings else frozen


def split(layout: Layout, row: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any], int]:
    """Contents of the own members by extension, the other fields, and how many of those are new.

    Raises BadRow for a row that lacks a member, holds null or an unfit value in one, or has a field without one.
    """
    contents: dict[str, bytes] = {}
    for name, check in layout.checks.items():
        check(row.get(name))
    for name, extension in layout.members.items():
        if row.get(name) is None:
            how = "null" if name in row else "missing"
            raise BadRow(
                f"field {name!r} is {how}: every sample must have the same members, and it is one ({extension})"
            )
        try:
            contents[extension] = member_bytes(row[name], extension)
        except BadRow as error:
            raise BadRow(f"field {name!r}: {error}") from None
    others = {k: v for k, v in row.items() if k not in layout.members and k not in layout.drop}
    if layout.rest is None and others:
        raise BadRow(
            f"field {next(iter(others))!r} was not there when the members were fixed, and none holds other fields"
        )
    new = len(others.keys() - layout.known) if layout.known is not None else 0
    return contents, others, new


def _check_names(settings: PipelineSettings, names: Sequence[str]) -> None:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"the source has two fields named {repeated[0]!r}",
            hint="rename one of them, or read only some with source_options.columns",
        )
    wanted = [(name, "pipeline.members") for name in settings.members or {}]
    if settings.key_field is not None:
        wanted.append((settings.key_field, "pipeline.key_field"))
    for name, where in wanted:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"{where} names the field {name!r}, which the source does not have",
                hint=f"{guess}its fields are {', '.join(names) or 'not known'}",
            )


def _explicit(name: str, wanted: str, probe: Probe) -> str:
    """The extension the config asks for, once the values seen fit it."""
    extension = wanted.lower().removeprefix(".")
    if not _EXTENSION.fullmatch(extension) or len(extension) > _LONGEST_EXTENSION:
        raise ConfigError(
            f"pipeline.members: {wanted!r} (for the field {name!r}) is no member extension",
            hint="use lower-case letters, digits and dots: `jpg`, `txt`, `seg.png`",
        )
    for value in _values(name, probe)[:1]:
        try:
            member_bytes(value, extension)
        except BadRow as error:
            raise ConfigError(
                f"pipeline.members: the field {name!r} cannot be a {extension!r} member: {error}",
                hint="choose another extension (`txt` for text, `json` for anything, `bin` for bytes), or none",
            ) from None
    return extension


def _values(name: str, probe: Probe) -> list[Any]:
    return [row[name] for row in probe.rows if row.get(name) is not None]


def _is_tar(probe: Probe) -> bool:
    """Whether the samples are those of a tar: then `__key__` is no data. In any other source it is a field like others."""
    others = [f for f in probe.fields if f.name not in SAMPLE_META]
    return not probe.declared and len(others) < len(probe.fields) and all(_is_file(f, probe) for f in others)


def _is_file(column: Field, probe: Probe) -> bool:
    """Whether a field holds bytes of a file: by its type, or by its values where the type was observed."""
    if _BINARY_TYPE.match(column.type):
        return True
    values = [] if probe.declared else _values(column.name, probe)
    return bool(values) and all(file_bytes(v) is not None for v in values)


def _named_by_extension(name: str, *, from_tar: bool) -> bool:
    lower = name.lower()
    if not _EXTENSION.fullmatch(lower) or len(lower) > _LONGEST_EXTENSION:
        return False
    return from_tar or kind_of(lower) in _WELL_KNOWN


def _guess(name: str, probe: Probe, warnings: list[str]) -> str:
    """Extension of the first file seen in a field: by its path, else by its content, else `bin`."""
    found = dict.fromkeys(_kind_of_file(value) for value in _values(name, probe))
    kinds = list(found) or ["bin"]
    if len(kinds) > 1:
        warnings.append(
            f"field {name!r} holds {' and '.join(kinds[:4])} files; every member is named .{kinds[0]} so that all "
            "samples have the same members (readers decode images by content, not by name)"
        )
    return kinds[0]


def _kind_of_file(value: Any) -> str:
    data = file_bytes(value)
    if isinstance(value, Media):
        suffix = value.path.rpartition("/")[2].rpartition(".")
        if suffix[1] and _PATH_EXTENSION.fullmatch(suffix[2].lower()):
            return suffix[2].lower()
    return (file_kind(data) if data else None) or "bin"


def _tame(name: str, extension: str, probe: Probe, warnings: list[str]) -> str:
    """An extension readers take for a whole number (`cls`, `id`, …) only where all values seen are one."""
    extension = extension.lower()
    if kind_of(extension) not in INTEGER_EXTENSIONS:
        return extension
    for value in _values(name, probe):
        try:
            member_bytes(value, extension)
        except BadRow:
            warnings.append(
                f"field {name!r} is named .{extension}.bin: readers take .{extension} for whole numbers, which it does not hold"
            )
            return f"{extension}.bin"
    return extension


def _unique(extension: str, name: str, taken: set[str]) -> str:
    """The extension, or `<field>.<extension>` when another field has it already."""
    found, number = extension, 1
    while found in taken:
        safe = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_FIELD] or "field"
        found = f"{safe}{number if number > 1 else ''}.{kind_of(extension)}"
        number += 1
    taken.add(found)
    return found


def _null_warning(name: str, probe: Probe) -> list[str]:
    nulls = sum(row.get(name) is None for row in probe.rows)
    if not nulls:
        return []
    return [
        f"field {name!r} is a member of its own but null in {nulls} of the first {len(probe.rows)} samples: those fail"
    ]
