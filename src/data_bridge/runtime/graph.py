"""How stages hang together: what reads what, and what follows from that for shards."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_bridge.errors import ConfigError
from data_bridge.rows.decoding import STAGE
from data_bridge.runtime.fitting import mismatches
from data_bridge.runtime.multistage import MultiStage, given_by
from data_bridge.runtime.paid import PaidStage
from data_bridge.runtime.queue import Overflow
from data_bridge.runtime.stage import Fields, RowSchema, SideStage, Stage, StatefulStage

SOURCE = "source"
"""What a stage reads that stands first: the samples as the source has them. No stage may have this name."""


WRITE = STAGE
"""What failures of writers name as their stage."""
WINDOW = 4
"""Packets on their way in a stage's threads, unless told otherwise."""


class Node(msgspec.Struct, frozen=True):
    """A stage in its place. `inputs` are outputs as `source` or `stage.output`; several are joined, in source order."""

    name: str
    kind: str
    stage: Stage[Any]
    inputs: tuple[str, ...]
    enabled: bool = True
    threads: int = 0
    """It waits more than it computes: so many rows at a time are given to it, in threads; 0 = it takes whole packets."""
    window: int = WINDOW
    """Packets on their way in those threads."""
    pool: str = ""
    """The pool that packets in those threads, or in the queue before its branch, draw on."""
    digest: str = ""
    """Of the options on which a paid stage's answers depend."""
    rate: float | None = None
    """Calls of it that begin a second, over all slots; None = any number."""
    names: tuple[str, ...] = ()
    """What the stage calls its inputs, where it tells them apart."""

    @property
    def waits(self) -> bool:
        return self.enabled and self.threads > 0

    @property
    def remembers(self) -> bool:
        return self.enabled and isinstance(self.stage, StatefulStage)

    @property
    def paid(self) -> bool:
        """Whether its results are bought."""
        return self.enabled and isinstance(self.stage, PaidStage)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{output}" for output in self.stage.outputs)


class Sink(msgspec.Struct, frozen=True):
    """A writer in its place. `name` is "" for the only one."""

    name: str
    input: str


class Branch(msgspec.Struct, frozen=True):
    """Stages beside the way to the writers, behind a queue of their own. `port` is what they look at."""

    port: str
    nodes: tuple[Node, ...]
    overflow: Overflow = "BLOCK"
    capacity: int = WINDOW

    @property
    def name(self) -> str:
        """That of its first stage."""
        return self.nodes[0].name

    @property
    def pool(self) -> str:
        """The pool its packets draw on; "" = what the slot has."""
        return next((node.pool for node in self.nodes if node.pool), "")

    @property
    def most(self) -> int:
        """Samples of a packet that are looked at, the last ones; 0 = all."""
        only = self.nodes[0].stage if len(self.nodes) == 1 else None
        return only.most if isinstance(only, SideStage) else 0


class Graph(msgspec.Struct, frozen=True):
    """Stages on the way to writers, in an order in which each comes behind all it reads, the writers, and what is beside."""

    nodes: tuple[Node, ...] = ()
    sinks: tuple[Sink, ...] = (Sink("", SOURCE),)
    branches: tuple[Branch, ...] = ()

    @property
    def every(self) -> tuple[Node, ...]:
        """All stages, those beside the way behind the others."""
        return (*self.nodes, *(node for branch in self.branches for node in branch.nodes))

    def behind(self, port: str) -> "tuple[Node, ...]":
        """The stages that samples pass on their way to an output, in order."""
        wanted = {port}
        found: list[Node] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                found.append(node)
                wanted.update(node.inputs)
        return tuple(reversed(found))

    def keeps_counts(self, port: str) -> bool:
        """Whether every sample of the source is exactly one at this output."""
        return all(
            len(node.inputs) == 1
            and (
                not node.enabled
                or not (node.stage.drops or node.stage.multiplies or node.stage.block or node.stage.divides)
            )
            for node in self.behind(port)
        )

    def multiplies(self, port: str) -> bool:
        """Whether one sample of the source may become several at this output."""
        return any(len(node.inputs) > 1 or (node.enabled and node.stage.multiplies) for node in self.behind(port))

    def leading(self) -> tuple[Node, ...]:
        """Those of the stages that samples pass on their way to a writer."""
        wanted = {node.name for sink in self.sinks for node in self.behind(sink.input)}
        return tuple(node for node in self.nodes if node.name in wanted)

    @property
    def waits(self) -> bool:
        """Whether packets go through threads of the slot on their way."""
        return any(node.waits for node in self.nodes)

    @property
    def paid(self) -> bool:
        """Whether somebody is paid for what becomes of samples."""
        return any(node.paid for node in self.nodes)

    @property
    def remembers(self) -> bool:
        """Whether what becomes of a sample depends on those before it."""
        return any(node.remembers for node in self.nodes)

    @property
    def block(self) -> int:
        """Source samples that must be seen together; 0 = any batch will do."""
        return max((node.stage.block for node in self.nodes if node.enabled), default=0)

    def source_order(self, runs: int) -> "NDArray[np.int64] | None":
        """The order in which a stage wants the source's runs to be read; None = theirs."""
        orders = (node.stage.source_order(runs) for node in self.nodes if node.enabled)
        return next((order for order in orders if order is not None), None)

    def block_before(self, port: str) -> int:
        """The same for what arrives at one output: 0 where it comes in source order."""
        return max((node.stage.block for node in self.behind(port) if node.enabled), default=0)

    def fields(self, source: Fields, observe: "Mapping[str, Fields]") -> dict[str, Fields]:
        """Fields at every output: as the stages tell, else as `observe` has seen them.

        Raises ConfigError that holds what every stage refuses; behind one that does, nothing is known
        unless it changes no field.
        """
        known: dict[str, Fields] = {SOURCE: source}
        refused: list[tuple[str, ConfigError]] = []
        main = len(self.nodes)
        for number, node in enumerate(self.every):
            if node.inputs[0] not in known:
                continue  # beside the way nothing is observed
            given = known[node.inputs[0]]
            inputs = [known.get(port, ()) for port in node.inputs]
            refused += _misfits(node, node.stage.input_schema, inputs, "needs")
            if isinstance(node.stage, MultiStage):
                for name, fields in zip(node.names, inputs, strict=True):
                    refused += _misfits(node, node.stage.takes[name], [fields], f"needs at {name}")
            passed = dict.fromkeys(node.stage.outputs, given)
            try:
                told = given_by(node.stage, inputs, node.names) if node.enabled else passed
                refused += _misfits(node, node.stage.output_schema, list((told or {"": ()}).values()), "gives")
            except ConfigError as error:
                told = passed if node.stage.bypassable else dict.fromkeys(node.stage.outputs, ())
                refused.append((f"stages.{node.name}: {error.message}", error))
            for name, output in zip(node.stage.outputs, node.outputs, strict=True):
                if told is not None or number < main:
                    known[output] = told[name] if told is not None else observe[output]
        if refused:
            hint = next((error.hint for _, error in refused if error.hint), "")
            raise ConfigError("\n".join(message for message, _ in refused), hint=hint)
        return known

    def libraries(self) -> dict[str, str]:
        """Versions of all that the stages' bytes depend on, the user's code included."""
        return {f"{node.name}: {k}": v for node in self.nodes for k, v in node.stage.libraries().items()} | self.code()

    def code(self) -> dict[str, str]:
        """Digests of the user's own code among them."""
        told = {f"{node.name}: {k}": v for node in self.nodes for k, v in node.stage.code().items()}
        told |= {f"{node.name}: {node.kind}": code for node in self.nodes if (code := _code(type(node.stage)))}
        for node in self.nodes:
            for side, schema in (("input", node.stage.input_schema), ("output", node.stage.output_schema)):
                if schema is not None and (code := _code(schema)):
                    told[f"{node.name}: {side} schema"] = code
        return told


def _misfits(node: Node, schema: RowSchema, inputs: Sequence[Fields], verb: str) -> list[tuple[str, ConfigError]]:
    """What of the fields at a stage's edge cannot fit."""
    if schema is None or not node.enabled:
        return []
    found = dict.fromkeys(each for fields in inputs for each in mismatches(schema, fields, verb))
    hint = "change the stage before it, or the schema that the stage declares"
    return [(f"stages.{node.name}: {each}", ConfigError(each, hint=hint)) for each in found]


def _code(declared: "type | RowSchema") -> str:
    """A digest of the file that a class of somebody else's is written in, or of a schema that is none; nothing for ours."""
    if not isinstance(declared, type):
        return f"sha256:{hashlib.sha256(str(declared).encode()).hexdigest()[:16]}"
    file = None if declared.__module__.startswith("data_bridge.") else inspect.getsourcefile(declared)
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}" if file else ""
