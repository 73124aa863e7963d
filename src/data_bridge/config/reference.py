"""The settings reference in `docs/config.md`, made from the settings themselves.

`python -m data_bridge.config.reference docs/config.md` writes it anew.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from data_bridge.config.fields import Section
from data_bridge.config.monitoring import MetricsSettings
from data_bridge.config.settings import PipelineSettings, R2Settings, S3Settings, SourceOptions
from data_bridge.config.stages import OutputSettings, PoolSettings, StageSettings, WriterSettings
from data_bridge.config.vast import VastSearch, VastSettings

_HEAD = """\
# Config reference

<!-- Made from the settings by `uv run poe docs`; do not edit. -->

A config is a YAML, TOML or JSON file with the blocks below. Only `pipeline.input_uri` is required. Unknown keys, keys
given twice and values of a wrong type are refused before any work, all of them in one message.

* **`${VAR}`** in a value is replaced by that environment variable, in every kind of file. A variable that does not
  exist is an error that names it, but only in a block that the run uses. `$${VAR}` stands for the text `${VAR}`.
  Nothing else is read from the environment, except by vendors' own tools (the AWS credential chain, `HF_TOKEN`, proxies), and
  `XDG_RUNTIME_DIR`, where a run listens for [commands](control.md).
* **Sizes** are numbers of bytes or texts: `500MB`, `1GB` (powers of 1000), `64MiB` (powers of 1024).
* **Secrets** reach no plan, message, ledger or manifest. What sounds like one in `load_kwargs` (`token`) is one.
* **Bytes**: a setting marked *yes* takes part in the bytes of the shards. When it changes, a run on the same destination
  is refused with the difference; all others may change between a run and its continuation.
* `data-bridge schema` prints the same as JSON Schema, for editors.
"""

_BLOCKS: tuple[tuple[str, type[Section], str], ...] = (
    ("pipeline", PipelineSettings, "Required."),
    ("pipeline.source_options", SourceOptions, "An option that does not apply to the format is refused."),
    (
        "pipeline.stages[]",
        StageSettings,
        "See [stages.md](stages.md). In the file the kind is the key that holds its options: `map: {call: …}`.",
    ),
    ("pipeline.stages[].outputs[]", OutputSettings, "A stage with one output may write `output: {…}`."),
    ("pipeline.writers[]", WriterSettings, ""),
    ("pipeline.pools.<name>", PoolSettings, "See [stages.md](stages.md#beside-the-way-to-the-writers)."),
    ("r2", R2Settings, "Optional. With it and no `output_uri`, the destination is `r2://<bucket>/<prefix>/<dataset>`."),
    ("s3", S3Settings, "Optional."),
    ("metrics", MetricsSettings, "Optional. See [metrics.md](metrics.md)."),
    ("vast", VastSettings, "Optional. See [remote.md](remote.md)."),
    ("vast.search", VastSearch, ""),
)


def markdown() -> str:
    """The whole reference, one table for each block."""
    return "\n".join([_HEAD, *(_block(*block) for block in _BLOCKS)])


def _block(name: str, section: type[Section], remark: str) -> str:
    rows = [_row(key, info) for key, info in _keys(section)]
    doc = (section.__doc__ or "").strip()
    return "\n".join(
        [
            f"## `{name}`",
            "",
            f"{doc} {remark}",
            "",
            "| key | type | default | bytes | |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _keys(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        yield info.alias or name, info


def _row(key: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    byte = isinstance(extra, dict) and extra["byte"]
    cells = [
        f"`{key}`",
        _type(info),
        default_text(info),
        "yes" if byte else "",
        (info.description or "") + _others(key, info),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _others(key: str, info: FieldInfo) -> str:
    """Other names of a key."""
    choices = getattr(info.validation_alias, "choices", ())
    names = [f"`{c}`" for c in choices if c != key]
    return f" (also called {', '.join(names)})" if names else ""


def _type(info: FieldInfo) -> str:
    # sizes are integers that may be written as text
    return "size" if "parse_size" in f"{info.metadata}{info.annotation}" else type_name(info.annotation)


def type_name(kind: Any) -> str:
    """What a setting of this type may be, in words."""
    if get_origin(kind) is Annotated:
        return type_name(get_args(kind)[0])
    origin, inner = get_origin(kind), [a for a in get_args(kind) if a is not type(None)]
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(a) for a in inner))
    if origin is tuple:
        return f"list of {type_name(inner[0])}"
    if origin is dict:
        return f"map to {type_name(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "block"
    plain: dict[Any, str] = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true, false",
        Path: "path",
        SecretStr: "secret",
        Any: "anything",
    }
    return plain.get(kind) or str(getattr(kind, "__name__", kind))


def default_text(info: FieldInfo) -> str:
    """Its default, `required`, or nothing."""
    value = info.get_default(call_default_factory=False)
    if info.is_required():
        return "required"
    if value is None or value == {} or isinstance(value, Section) or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
