"""The shape of a pipeline as values: what there is, and who reads what."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

import msgspec


class Box(msgspec.Struct, frozen=True):
    """The source, a stage or a writer. `inputs` are outputs of others; an output is `name`, or `name.output` where its
    owner has several."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    enabled: bool = True
    names: tuple[str, ...] = ()
    """What it calls its inputs, where it tells them apart."""


def layers(boxes: Sequence[Box]) -> list[list[Box]]:
    """The boxes by their distance from the source, each behind all it reads."""
    owner = {port: box for box in boxes for port in box.outputs}
    depth: dict[str, int] = {}
    by_name = {box.name: box for box in boxes}
    needs = {box.name: [owner[port].name for port in box.inputs] for box in boxes}
    for name in TopologicalSorter(needs).static_order():
        depth[name] = 1 + max((depth[before] for before in needs[name]), default=-1)
    found: list[list[Box]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for box in boxes:
        found[depth[box.name]].append(by_name[box.name])
    return found


def under(boxes: Sequence[Box]) -> "Mapping[str, Box | None]":
    """Each box as the child of the deepest one it reads: a graph as a tree, for one line a box."""
    owner = {port: box for box in boxes for port in box.outputs}
    depth = {box.name: number for number, layer in enumerate(layers(boxes)) for box in layer}
    return {
        box.name: max((owner[port] for port in box.inputs), key=lambda b: depth[b.name], default=None) for box in boxes
    }


def tree(boxes: Sequence[Box]) -> list[tuple[str, Box]]:
    """Every box with the branch to draw before its name, in the order of drawing."""
    parent = under(boxes)
    children: dict[str | None, list[Box]] = {}
    for box in boxes:
        above = parent[box.name]
        children.setdefault(above.name if above else None, []).append(box)
    found: list[tuple[str, Box]] = []

    def draw(box: Box, before: str, branch: str, below: str) -> None:
        found.append((before + branch, box))
        own = children.get(box.name, [])
        for number, child in enumerate(own):
            last = number == len(own) - 1
            # a chain needs no indentation: only where ways part does the drawing move to the right
            if len(own) == 1:
                draw(child, before + below, "", "")
            else:
                draw(child, before + below, "└ " if last else "├ ", "  " if last else "│ ")

    for root in children.get(None, []):
        draw(root, "", "", "")
    return found
