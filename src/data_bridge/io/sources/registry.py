"""Which reader serves which format, and which format a file name stands for."""

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, cast

from data_bridge.config import SourceOptions
from data_bridge.errors import ConfigError
from data_bridge.io.codecs import base_name, stem_extension
from data_bridge.io.locations import shown
from data_bridge.io.own import GROUP, SCHEME, SourceStage
from data_bridge.io.sources.base import Format
from data_bridge.io.sources.folder import METADATA_NAMES
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "jsonl": "data_bridge.io.sources.jsonl:Jsonl",
        "csv": "data_bridge.io.sources.csv:Csv",
        "tsv": "data_bridge.io.sources.csv:Tsv",
        "text": "data_bridge.io.sources.text:Text",
        "parquet": "data_bridge.io.sources.parquet:Parquet",
        "arrow": "data_bridge.io.sources.arrow:ArrowFile",
        "tar": "data_bridge.io.sources.tar:Tar",
        "files": "data_bridge.io.sources.files:Files",
        "huggingface": "data_bridge.io.sources.hub:Hub",
        "python": "data_bridge.io.sources.own:Own",
    }
)

_HUB_OPTIONS = frozenset({"split", "config", "revision", "load_kwargs", "streaming"})
_CSV_OPTIONS = frozenset({"columns", "delimiter", "header", "quotes", "csv_types"})
_OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "jsonl": frozenset(),
        "csv": _CSV_OPTIONS,
        "tsv": _CSV_OPTIONS,
        "text": frozenset({"text_field", "keep_empty_lines"}),
        "parquet": frozenset({"columns"}),
        "arrow": frozenset({"columns"}),
        "tar": frozenset(),
        "files": frozenset(),
        "huggingface": _HUB_OPTIONS | {"columns"},
        "python": frozenset({"arguments"}),
    }
)
"""The source options each of our formats knows; formats of third parties judge for themselves."""

_EXTENSIONS: Mapping[str, str] = MappingProxyType(
    {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "jsonl",
        ".jsonlines": "jsonl",
        ".csv": "csv",
        ".tsv": "tsv",
        ".tab": "tsv",
        ".parquet": "parquet",
        ".pq": "parquet",
        ".arrow": "arrow",
        ".feather": "arrow",
        ".ipc": "arrow",
        ".txt": "text",
        ".text": "text",
        ".tar": "tar",
    }
)


def detect(files: Sequence[SourceFile | str]) -> str:
    """Name of the format all the files have, by their extensions under any compression.

    Anything unknown (images, audio, …) is `files`: each file is a sample, and a metadata file among them describes
    them. Raises ConfigError for a mixture, naming two of the files.
    """
    uris = [file if isinstance(file, str) else file.uri for file in files]
    found = [(_format_of(uri), uri) for uri in uris]
    if any(name == "files" for name, _ in found):
        found = [(name, uri) for name, uri in found if base_name(uri) not in METADATA_NAMES]
    first = found[0] if found else None
    for name, uri in found:
        if first is not None and name != first[0]:
            raise ConfigError(
                f"pipeline.input_uri mixes formats: {shown(first[1])} is {first[0]}, {shown(uri)} is {name}",
                hint="narrow input_uri to one kind of file (a glob such as `*.jsonl`), or set pipeline.input_format",
            )
    return first[0] if first else "files"


def _format_of(uri: str) -> str:
    if uri.startswith(SCHEME):
        return "python"
    return "huggingface" if _is_dataset(uri) else _EXTENSIONS.get(stem_extension(uri), "files")


def _is_dataset(uri: str) -> bool:
    """Whether the URI is a dataset of the Hub, not a file in one."""
    path = uri.removeprefix("hf://").removeprefix("datasets/").strip("/")
    return uri.startswith("hf://") and path.count("/") <= 1


def make(name: str, options: SourceOptions, transport: Transport) -> Format:
    """The reader of a format.

    Raises ConfigError for an unknown name and for an option the format does not know, naming its key.
    """
    if name in _OPTIONS:
        _refuse_foreign_options(name, options, transport)
    return cast("Format", _load(name)(options, transport))


def _load(name: str) -> Any:
    if name in FORMATS:
        module, _, attribute = FORMATS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    others = entry_points(group=GROUP)
    for point in others.select(name=name):
        if _is_format(point):
            return point.load()
        raise ConfigError(
            f"pipeline.input_format: {name!r} is a source and no format", hint=f"set input_uri to {SCHEME}{name}"
        )
    known = [*FORMATS, *sorted(point.name for point in others if _is_format(point))]
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"pipeline.input_format: unknown format {name!r}" + (f", did you mean {close[0]!r}?" if close else ""),
        hint=f"known formats: {', '.join(known)}",
    )


def _is_format(point: EntryPoint) -> bool:
    """Whether an entry point names a format: sources of a user's own are in the same group."""
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(
            f"the entry point {point.name} of {GROUP} cannot be loaded: {type(error).__name__}: {error}",
            hint="mend or remove the package that offers it",
        ) from error
    return inspect.isclass(found) and not issubclass(found, SourceStage)


def _refuse_foreign_options(name: str, options: SourceOptions, transport: Transport) -> None:
    known = _OPTIONS[name]
    if _reads_hub(transport):
        known |= _HUB_OPTIONS  # used already, to find the files
    for key, info in SourceOptions.model_fields.items():
        if key in known or getattr(options, key) == info.get_default(call_default_factory=True):
            continue
        users = [other for other, keys in _OPTIONS.items() if key in keys]
        raise ConfigError(
            f"pipeline.source_options.{key} does not apply to {name} sources",
            hint=f"remove it; it is for {', '.join(users)}",
        )


def _reads_hub(transport: Transport) -> bool:
    uris = transport.settings.pipeline.input_uri
    return any(uri.startswith("hf://") for uri in ([uris] if isinstance(uris, str) else uris))
