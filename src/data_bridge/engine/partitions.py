"""The work of a slot in this product: bring one partition of the plan to its end."""

from dataclasses import dataclass, field

from data_bridge.config import Settings
from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.model.plan import Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Takeover
from data_bridge.pipelines.factory import PipelineFactory


@dataclass(frozen=True, slots=True)
class PartitionWork:
    """Makes a slot's pipeline from values alone, so that any process can.

    The store travels as the driver probed it: a slot must not take for atomic what the probe found not to be.
    """

    settings: Settings
    plan: Plan
    store: ObjectStore
    driver: str
    slots: int = 1
    takeover: Takeover = field(default_factory=Takeover)

    def __call__(self) -> Work:
        pipeline = PipelineFactory.create(self.settings, self.store, plan=self.plan, slots=self.slots)

        def work(partition: int, control: SlotControl) -> Outcome:
            ended = pipeline.process(partition, control, driver=self.driver, takeover=self.takeover)
            return Outcome(partition, "done" if ended else "stopped")

        return work
