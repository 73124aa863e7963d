"""Pipelines by the name in the config."""

from data_bridge.config import Settings
from data_bridge.model.plan import Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Pipeline


class PipelineFactory:
    """Makes the pipeline that `pipeline.name` asks for, in the driver and in every slot alike."""

    @staticmethod
    def create(settings: Settings, store: ObjectStore, *, plan: Plan | None = None, slots: int = 1) -> Pipeline:
        """A pipeline from the settings' source to the store. `plan` is the one the driver has fixed, for a slot.

        Nothing is read or written yet.
        """
        return Pipeline(settings, store, plan=plan, slots=slots)
