"""What a user may tell a stage of a running run: options that may change, to values that fit."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from data_bridge.config import (
    PipelineSettings,
    StageSettings,
    explained,
    is_secret_name,
    public_value,
    with_changes,
    with_open_secrets,
)
from data_bridge.engine.orders import Orders
from data_bridge.engine.own_commands import OwnCommands
from data_bridge.engine.run_part import RATE, WORKERS, no_number
from data_bridge.errors import ConfigError
from data_bridge.model.changes import ENABLED, Change
from data_bridge.runtime.control import Reply, Request
from data_bridge.runtime.paid import PaidStage
from data_bridge.runtime.stage import Fields, Outlet, Stage, StageOptions, StatefulStage, Surveying
from data_bridge.stages.build import build, threads_of
from data_bridge.stages.registry import stage_class
from data_bridge.utils.claims import new_token


class StagePart:
    """One stage. `_planned` is how the config has it: a plan was made for that."""

    def __init__(self, planned: StageSettings, settings: PipelineSettings, orders: Orders, fields: Fields = ()) -> None:
        self._planned = planned
        self._fields = fields
        self._settings = settings
        self._orders = orders
        self._kind = stage_class(planned.kind)
        stage = self._stage(planned.options)
        self._threads = threads_of(planned, stage)
        self._paid = isinstance(stage, PaidStage)
        self._own = OwnCommands(planned.name, self._kind, lambda: self._stage(self._now.options), orders)

    def __call__(self, request: Request) -> Reply | None:
        match request.command:
            case "set" if request.key == WORKERS and self._threads:
                return self._set_threads(request.value)
            case "set" if request.key == RATE and self._paid:
                return self._set_rate(request.value)
            case "set" if request.stage is not None or request.key in self._settable():
                return self._set(request.key, request.value)
            case "bypass" | "enable":
                return self._set(ENABLED, request.command == "enable")
            case "describe":
                return Reply(accepted=True, data=self._described())
            case _:
                return self._own(request, refusal=self._refused_command)

    @property
    def _now(self) -> StageSettings:
        changed = with_changes(self._settings, self._orders.standing.changes)
        return next(stage for stage in changed.stages if stage.name == self._planned.name)

    def _set_threads(self, value: Any) -> Reply:
        if reason := no_number(WORKERS, value):
            return Reply(accepted=False, reason=reason)
        self._orders.thread(self._planned.name, value)
        return Reply(accepted=True)

    def _set_rate(self, value: Any) -> Reply:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        if value is not None and not number:
            return Reply(accepted=False, reason=f"{RATE}: a number above 0 is needed, or null for none, not {value!r}")
        self._orders.pace(self._planned.name, float(value or 0))
        return Reply(accepted=True)

    def _settable(self) -> list[str]:
        """Keys that may change in a running run."""
        fields = self._kind.Options.model_fields.items()
        live = [key for key, info in fields if _live(info) != "never" and not is_secret_name(key)]
        own = [*([WORKERS] if self._threads else []), *([RATE] if self._paid else [])]
        return list(dict.fromkeys([ENABLED, *own, *live]))

    def _set(self, key: str | None, value: Any) -> Reply:
        reason = self._refusal_of(key) or (
            self._refused_switch(value) if key == ENABLED else self._refused_value(key or "", value)
        )
        if reason:
            return Reply(accepted=False, reason=reason)
        assert key is not None, "it would have been refused"
        now = self._now
        if value == (now.enabled if key == ENABLED else now.options.get(key, _UNSET)):
            return Reply(accepted=True, reason="it has this value already")
        change = Change(number=self._orders.made, id=new_token(), stage=self._planned.name, key=key, value=value)
        if reason := self._misfit(change):
            return Reply(accepted=False, reason=reason)
        self._orders.change(change)
        return Reply(accepted=True)

    def _misfit(self, change: Change) -> str:
        """Why the stages would no longer go together with the fields of the source."""
        changed = build(with_changes(self._settings, [*self._orders.standing.changes, change]))
        try:
            changed.fields(self._fields, defaultdict(tuple))
        except ConfigError as error:
            return f"{error.message} ({error.hint})" if error.hint else error.message
        return ""

    def _refusal_of(self, key: str | None) -> str:
        """Why this key cannot change now, whatever the value."""
        if surveyed := self._surveyed():
            return surveyed
        if key == ENABLED:
            return ""
        info = self._kind.Options.model_fields.get(key or "")
        if info is None:
            return f"unknown key {key!r}; it may set {', '.join(self._settable())}"
        if _live(info) == "never":
            return f"{key} cannot change while the run goes on; it may set {', '.join(self._settable())}"
        if _live(info) == "paused" and not self._orders.standing.paused:
            return f"{key} can change only while the run is paused"
        if is_secret_name(key):
            return f"{key} may be a secret, and a change is written down at the destination"
        return ""

    def _surveyed(self) -> str:
        """Why nothing may change before a stage that had to know all samples beforehand; "" where there is none."""
        graph = build(self._settings)
        for node in graph.nodes:
            before = {n.name for port in node.inputs for n in graph.behind(port)}
            if node.enabled and isinstance(node.stage, Surveying) and self._planned.name in before:
                return f"{node.name} has looked at all samples as they are now: nothing before it may change"
        return ""

    def _refused_command(self) -> str:
        """Why the stage can be told nothing now."""
        return self._surveyed() or ("" if self._now.enabled else "samples pass it unchanged: enable it first")

    def _refused_switch(self, value: Any) -> str:
        if not isinstance(value, bool):
            return f"{ENABLED}: true or false is needed, not {value!r}"
        if not value and not self._kind.bypassable:
            return "samples cannot pass it unchanged: what follows needs what it makes"
        stage = self._stage(self._planned.options)
        counts = stage.drops or stage.multiplies or stage.block or isinstance(stage, StatefulStage)
        if value and not self._planned.enabled and (counts or not self._kind.bypassable):
            return "the plan counts on it being off; switch it on in the config of a new dataset"
        return ""

    def _refused_value(self, key: str, value: Any) -> str:
        if public_value(value) != value:
            return f"{key}: it holds what sounds like a secret, and a change is written down at the destination"
        options = self._kind.Options
        try:
            # alone and strictly: 1 is not true, and text is no number
            TypeAdapter(_alone(options.model_fields[key])).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            return _said(error, options, key)
        try:
            self._stage({**self._now.options, key: value}).check()
        except ValidationError as error:
            return _said(error, options)
        except ConfigError as error:
            return f"{key}: {error.message}"
        return ""

    def _stage(self, values: Mapping[str, Any]) -> Stage[Any]:
        outlets = [Outlet(output.name, output.weight) for output in self._planned.outputs]
        return self._kind(self._kind.Options.model_validate(with_open_secrets(dict(values))), outlets)

    def _described(self) -> dict[str, Any]:
        now = self._now
        given = self._kind.Options.model_validate(with_open_secrets(now.options))
        values = public_value(to_jsonable_python(given.model_dump(), fallback=repr))
        return {
            "kind": now.kind,
            "enabled": now.enabled,
            "bypassable": self._kind.bypassable,
            "options": {
                key: {
                    "value": values[key],
                    "live": _live(info),
                    "description": info.description or "",
                    "type": info.annotation.__name__ if isinstance(info.annotation, type) else str(info.annotation),
                }
                for key, info in self._kind.Options.model_fields.items()
                if key in values
            }
            | self._described_threads(),
            "commands": ["set", "bypass", "enable", "describe", *self._own.described],
            "own_commands": self._own.described,
        }

    def _described_threads(self) -> dict[str, Any]:
        if not self._threads:
            return {}
        name, standing = self._planned.name, self._orders.standing
        value = dict(standing.threads).get(name, self._threads)
        about = "calls at a time, in the whole run" if self._paid else "rows at a time, in each slot"
        found = {WORKERS: {"value": value, "live": "any", "description": about, "type": "int"}}
        if self._paid:
            rate = dict(standing.rates).get(name, self._planned.rate) or None
            about = "calls that begin a second, in the whole run; null = any number"
            found[RATE] = {"value": rate, "live": "any", "description": about, "type": "float"}
        return found


_UNSET = object()


def _live(info: FieldInfo) -> str:
    """When an option may change: never, paused, any."""
    extra = info.json_schema_extra
    return str(extra.get("live", "never")) if isinstance(extra, dict) else "never"


def _said(error: ValidationError, options: type[StageOptions], *where: str) -> str:
    """What is wrong, in one line; the place of an error is below `where`."""
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(explained({**e, "loc": (*where, *e["loc"])}, options) for e in found)


def _alone(info: FieldInfo) -> Any:
    """The type of one field with its limits."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
