"""The graph of a pipeline as the config writes it: stages, their outputs, and the writers behind them."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator

from data_bridge.config.fields import Count, Failures, Section, Size, field
from data_bridge.config.secrets import Hidden

QUEUE_CAPACITY = 4
"""Packets on their way in the threads of a stage that waits."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def _named(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: use letters, digits, `-` and `_`, at most 64")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _default_name(kind: str) -> str:
    """The name of a stage that was given none: its kind; of `package.module:Class` the class."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", kind.rpartition(":")[2]).lower() if ":" in kind else kind


Name = Annotated[str, AfterValidator(_named)]
"""The name of a stage, an output or a writer: also that of its folder."""


class OutputSettings(Section):
    """One output of a stage, and the queue behind it."""

    name: Name = field("out", byte=True, description="what others call it: `stage.name`")
    weight: float | None = field(None, byte=True, gt=0, description="share of the samples (`split` by weight)")
    queue_capacity: Count = field(
        QUEUE_CAPACITY,
        byte=False,
        gt=0,
        description="packets on their way in the threads of a stage that waits, or before stages that lead to no writer",
    )
    overflow_behavior: Annotated[Literal["BLOCK", "DROP_NEW", "KEEP_NEWEST"], BeforeValidator(_upper)] | None = field(
        None,
        byte=False,
        description="what a full queue does before stages that lead to no writer: the run waits, or they miss the new or the "
        "oldest packet; default: as those stages have it",
    )


class StageSettings(Section):
    """One stage: exactly one kind with its options (`map: {call: …}`), and how it is run."""

    kind: str = field(byte=True, description="what it does; in the file, the key that holds the options")
    options: Hidden = field({}, byte=True, description="the kind's own options")
    name: Name = field(byte=True, description="default: the kind, with a number where it stands twice")
    input: str | tuple[str, ...] | dict[str, str] | None = field(
        None,
        byte=True,
        description="stage or `stage.output` to read; a list joins; names, of a stage that tells its inputs apart; default: the stage "
        "before",
    )
    outputs: tuple[OutputSettings, ...] = field((), byte=True, description="named outputs, each with its queue")
    executor: Literal["auto", "inline", "thread", "process", "llm"] = field(
        "auto",
        byte=False,
        description="`thread`: its rows wait in threads of the slot; `process`: on all cores of the slot; `inline`: all stages "
        "stay in the slot's own process; `llm`: its calls are paid for, and each answer is kept; `auto`: as its kind says, `process` where "
        "that does not matter",
    )
    workers: Count | None = field(
        None,
        byte=False,
        gt=0,
        description="threads of each slot (default 8), calls of the whole run (`llm`, default 30), or most cores of a slot "
        "(default: those that are free)",
    )
    rate: float | None = field(
        None, byte=False, gt=0, description="`llm`: calls that begin a second, in the whole run; default: any number"
    )
    ordered: bool = field(
        True,
        byte=False,
        description="results come in the order of the samples, from threads too; false is refused: shards would depend on time",
    )
    pool: str | None = field(
        None, byte=False, description="one of `pools`: packets in its threads, or queued before it, share those bytes"
    )
    on_error: Literal["fail", "skip", "quarantine"] | None = field(
        None, byte=True, description="a sample it cannot use; default: `pipeline.on_error`"
    )
    max_failures: Failures | None = field(
        None,
        byte=False,
        description="stop when more samples than this failed in it: a number, or a share of the source's (`0.5%`)",
    )
    report: bool = field(
        False, byte=False, description="keep what it measures of each sample: `report.csv`, where its kind has a report"
    )
    enabled: bool = field(True, byte=True, description="false: samples pass it unchanged")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        """`{map: {…}, name: x}` as `{kind: map, options: {…}, name: x}`."""
        if not isinstance(value, Mapping) or "kind" in value:
            return value
        given = dict(value)
        if "output" in given:
            if "outputs" in given:
                raise ValueError("`output` and `outputs` exclude each other")
            given["outputs"] = [given.pop("output")]
        common = {key: given.pop(key) for key in list(given) if key in cls.model_fields}
        kinds = sorted(map(str, given))
        if len(kinds) != 1:
            close = [m for k in kinds for m in difflib.get_close_matches(k, list(cls.model_fields), 1)]
            guess = f" (did you mean `{close[0]}`?)" if close else ""
            found = f"this one has {len(kinds)}: {', '.join(kinds)}{guess}" if kinds else "this one has none"
            raise ValueError(f"a stage holds exactly one kind, such as `map: {{…}}`; {found}")
        options = given[kinds[0]]
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"the options of `{kinds[0]}` are a block, not {options!r}")
        return {"name": _default_name(kinds[0]), **common, "kind": kinds[0], "options": dict(options or {})}

    @field_validator("outputs")
    @classmethod
    def _one_name_each(cls, value: tuple[OutputSettings, ...]) -> tuple[OutputSettings, ...]:
        names = [output.name for output in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two outputs are named {twice!r}")
        return value

    @property
    def inputs(self) -> tuple[str, ...]:
        """The outputs it reads, as written; empty = the stage before."""
        if isinstance(self.input, dict):
            return tuple(self.input.values())
        return (self.input,) if isinstance(self.input, str) else self.input or ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the stage calls each of them; empty where they go without names."""
        return tuple(self.input) if isinstance(self.input, dict) else ()


class PoolSettings(Section):
    """Memory for packets that wait, shared by the stages that name it."""

    bytes: Size = field(byte=False, gt=0, description="together at most, over all workers")


class WriterSettings(Section):
    """One of several writers. What is not given is as `pipeline` has it."""

    name: Name = field(byte=True, description="also the folder its shards are in")
    input: str | None = field(None, byte=True, description="stage or `stage.output` it writes; default: the last stage")
    format: Literal["webdataset", "litdata"] | None = field(None, byte=True, description="as `pipeline.name`")
    output_format: Literal["tar", "tar.gz", "tar.zst"] | None = field(None, byte=True, description="as in `pipeline`")
    compression: Literal["none", "zstd"] | None = field(None, byte=True, description="as in `pipeline`")
    litdata_layout: Literal["auto", "classic", "arrow", "tokens"] | None = field(
        None, byte=True, description="as in `pipeline`"
    )
    samples_per_shard: Count | None = field(None, byte=True, gt=0, description="as in `pipeline`")
    max_shard_bytes: Size | None = field(None, byte=True, gt=0, description="as in `pipeline`")
    members: dict[str, str] | None = field(None, byte=True, description="as in `pipeline`")
    key_field: str | None = field(None, byte=True, description="as in `pipeline`")


def numbered(stages: tuple[StageSettings, ...]) -> tuple[StageSettings, ...]:
    """The stages with a number behind names that were not given and stand twice. Raises ValueError for given ones."""
    seen: dict[str, int] = {}
    named: list[StageSettings] = []
    given = [s.name for s in stages if s.name != _default_name(s.kind)]
    for stage in stages:
        name = stage.name
        if name == _default_name(stage.kind):
            seen[name] = seen.get(name, 0) + 1
            name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        elif given.count(name) > 1:
            raise ValueError(f"two stages are named {name!r}")
        named.append(stage.model_copy(update={"name": name}))
    names = [s.name for s in named]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two stages are named {twice!r}")
    return tuple(named)
