"""What stages know of the samples before, and how it is kept with shards and found again."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from data_bridge.errors import FatalError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.shards import Cursor
from data_bridge.pipelines.packing import Piece
from data_bridge.pipelines.sinks import SinkPlan
from data_bridge.runtime.stage import StatefulStage

MOST_STATE = 64 << 10
"""Bytes of one stage's state: it stands in the record of every shard."""


class ResumePoint(msgspec.Struct, frozen=True):
    """Where a partition is to be read from, and what each stage knew there."""

    cursor: Cursor
    states: Mapping[str, bytes] = msgspec.field(default_factory=dict)


def standing(log: PartitionLog, sinks: Sequence[SinkPlan]) -> ResumePoint:
    """Where the writer stands that is furthest behind; with stages that remember, the start of the piece that it is in."""
    behind = min(sinks, key=lambda sink: (log.cursor_of(sink.name).index, log.cursor_of(sink.name).out))
    records = log.shards_of(behind.name)
    if not records or not records[-1].state:
        return ResumePoint(log.cursor_of(behind.name))
    state = records[-1].state
    states = {name: msgspec.json.encode(value) for name, value in state["stages"].items()}
    return ResumePoint(msgspec.convert(state["cursor"], Cursor), states)


def recorded(piece: Piece) -> dict[str, Any]:
    """What the record of a shard says that ends in a piece; nothing where no stage remembers."""
    if not piece.states:
        return {}
    cursor = Cursor(pos=piece.batch.start, skip=piece.skip, index=piece.index + piece.skip)
    return {
        "cursor": msgspec.to_builtins(cursor),
        "stages": {name: msgspec.json.decode(state) for name, state in piece.states.items()},
    }


def saved(name: str, stage: StatefulStage[Any]) -> bytes:
    """What a stage knows now. Raises FatalError for what cannot be kept."""
    try:
        known = stage.save_state()
        _check_plain(known)
        state = msgspec.json.encode(known)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise FatalError(
            f"stage {name}: its state cannot be kept: {error}",
            hint="save_state returns plain JSON values: what is loaded must be what was saved",
        ) from error
    if len(state) > MOST_STATE:
        raise FatalError(
            f"stage {name}: its state has {len(state):,} bytes, and {MOST_STATE:,} at most are kept with a shard",
            hint="keep less, or make two datasets of it: one for what has to be known, and one that uses it",
        )
    return state


def _check_plain(value: Any, where: str = "it") -> None:
    """Raises TypeError or ValueError for what would be something else when it is read again, however it can be written."""
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r}, which is a {type(key).__name__} and no text")
            _check_plain(inner, f"{where}[{key!r}]")
    elif kind is list:
        for at, inner in enumerate(value):
            _check_plain(inner, f"{where}[{at}]")
    elif kind is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON does not have")
    elif value is not None and kind not in (str, int, float, bool):
        raise TypeError(f"{where} is a {kind.__name__}")


def load(stage: StatefulStage[Any], state: bytes) -> None:
    """Let a stage know what was saved."""
    stage.load_state(msgspec.json.decode(state))
