"""Settings as live changes have left them, and settings written out again."""

from collections.abc import Iterable
from typing import Any

from pydantic_core import to_jsonable_python

from data_bridge.config.secrets import public_value
from data_bridge.config.settings import PipelineSettings
from data_bridge.config.stages import StageSettings
from data_bridge.model.changes import ENABLED, SET, Change


def with_changes(settings: PipelineSettings, changes: Iterable[Change]) -> PipelineSettings:
    """The pipeline with its stages as the changes of their options leave them, made in this order."""
    stages = {stage.name: stage for stage in settings.stages}
    for change in changes:
        stage = stages.get(change.stage)
        if stage is not None and change.command == SET:
            stages[change.stage] = _changed(stage, change.key, change.value)
    return settings.model_copy(update={"stages": tuple(stages.values())})


def _changed(stage: StageSettings, key: str, value: Any) -> StageSettings:
    if key == ENABLED:
        return stage.model_copy(update={"enabled": value})
    return stage.model_copy(update={"options": {**stage.options, key: value}})


def exported(settings: PipelineSettings) -> dict[str, Any]:
    """The pipeline as a config file would say it: what was given or changed, without secrets, as plain JSON values."""
    values = settings.model_dump(by_alias=True, exclude_unset=True, exclude={"stages"})
    if settings.stages:
        values["stages"] = [_written(stage) for stage in settings.stages]
    return {key: public_value(value) for key, value in to_jsonable_python(values).items()}


def _written(stage: StageSettings) -> dict[str, Any]:
    given = stage.model_dump(by_alias=True, exclude_unset=True, exclude={"kind", "options", "name"})
    named = {} if stage.name == stage.kind else {"name": stage.name}
    return {stage.kind: stage.options, **named, **given}
