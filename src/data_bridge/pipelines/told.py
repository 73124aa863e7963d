"""Which stages know already that the dataset is complete: each that was told has an object `_bridge/<run>/after/…`."""

from collections.abc import Iterator

from data_bridge.config import Settings
from data_bridge.model.plan import Plan
from data_bridge.model.store import ObjectStore
from data_bridge.runtime.graph import Node
from data_bridge.runtime.stage import Stage
from data_bridge.stages.build import build


def owed(settings: Settings, store: ObjectStore, plan: Plan) -> Iterator[Node]:
    """The stages that want to be told of the end and were not, for all that the plan holds."""
    for node in build(settings.pipeline).every:
        if node.enabled and type(node.stage).after is not Stage.after and store.get(_key(plan, node)) is None:
            yield node


def note(store: ObjectStore, plan: Plan, node: Node) -> None:
    """It was told."""
    store.put_if_absent(_key(plan, node), b"{}\n")


def _key(plan: Plan, node: Node) -> str:
    return f"_bridge/{plan.run}/after/{node.name}-{len(plan.generations)}.json"
