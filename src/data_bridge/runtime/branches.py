"""Stages that lead to no writer: which of them belong together, and how packets wait before them."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from data_bridge.runtime.graph import WINDOW, Branch, Node
from data_bridge.runtime.queue import Overflow
from data_bridge.runtime.stage import SideStage, StatefulStage, Surveying


class Queueing(msgspec.Struct, frozen=True):
    """How packets wait behind an output. Without `overflow`, as who reads them has it."""

    capacity: int = WINDOW
    overflow: Overflow | None = None


def loses(queue: Queueing) -> bool:
    """Whether packets may be missing behind it."""
    return queue.overflow not in (None, "BLOCK")


def branches(nodes: Sequence[Node], queueing: Callable[[str], Queueing], problems: list[str]) -> Iterator[Branch]:
    """The stages beside the way, in order, as branches: each has one way in and a queue there. What cannot be so goes to
    `problems`."""
    own = {port for node in nodes for port in node.outputs}
    for group in _groups(nodes):
        looking = [node.stage for node in group if isinstance(node.stage, SideStage)]
        if not looking:
            continue  # something in it is read by nobody, which is told elsewhere
        names = ", ".join(node.name for node in group)
        entries = list(dict.fromkeys(port for node in group for port in node.inputs if port not in own))
        if len(entries) > 1:
            problems.append(
                f"stages: {names} lead to no writer, and read {' and '.join(entries)}: they may read only one"
            )
        for node in group:
            if node.stage.block or isinstance(node.stage, Surveying):
                problems.append(
                    f"stages.{node.name}: it needs samples together, which it does not get beside the way to a writer"
                )
            if isinstance(node.stage, StatefulStage):
                problems.append(
                    f"stages.{node.name}: it remembers, and what is beside the way to a writer is not kept with shards: "
                    "put it on the way"
                )
            problems.extend(
                f"stages.{port}: nothing queues there: put `overflow_behavior` to {entries[0]}"
                for port in node.outputs
                if loses(queueing(port))
            )
        pools = {node.pool for node in group if node.pool}
        if len(pools) > 1:
            problems.append(
                f"stages: {names} get the same packets: give them one pool, not {' and '.join(sorted(pools))}"
            )
        queue = queueing(entries[0])
        wished = {stage.overflow for stage in looking}
        overflow = queue.overflow or (wished.pop() if len(wished) == 1 else "BLOCK")
        yield Branch(entries[0], tuple(group), overflow, queue.capacity)


def _groups(nodes: Sequence[Node]) -> list[list[Node]]:
    """Stages that read one another, together, each in its order."""
    groups: list[list[Node]] = []
    for node in nodes:
        near = [group for group in groups if any(port in other.outputs for other in group for port in node.inputs)]
        merged = [other for group in near for other in group]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for other in nodes if other in merged), node])
    return sorted(groups, key=lambda group: nodes.index(group[0]))
