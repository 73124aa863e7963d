"""How stages hang together: wired by name from what a config says, with every mistake told at once."""

import difflib
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from data_bridge.errors import ConfigError
from data_bridge.rows.decoding import STAGE
from data_bridge.runtime.stage import OUT, Fields, Stage, Surveying

SOURCE = "source"
"""What a stage reads that stands first: the samples as the source has them. No stage may have this name."""


WRITE = STAGE
"""What failures of writers name as their stage."""
WINDOW = 4
"""Packets on their way in a stage's threads, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Node:
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

    @property
    def waits(self) -> bool:
        return self.enabled and self.threads > 0

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{output}" for output in self.stage.outputs)


@dataclass(frozen=True, slots=True)
class Sink:
    """A writer in its place. `name` is "" for the only one."""

    name: str
    input: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages in an order in which each comes behind all it reads, and the writers."""

    nodes: tuple[Node, ...] = ()
    sinks: tuple[Sink, ...] = (Sink("", SOURCE),)

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
                or (not (node.stage.drops or node.stage.multiplies or node.stage.block) and len(node.outputs) == 1)
            )
            for node in self.behind(port)
        )

    def multiplies(self, port: str) -> bool:
        """Whether one sample of the source may become several at this output."""
        return any(len(node.inputs) > 1 or (node.enabled and node.stage.multiplies) for node in self.behind(port))

    @property
    def waits(self) -> bool:
        """Whether packets go through threads of the slot on their way."""
        return any(node.waits for node in self.nodes)

    @property
    def block(self) -> int:
        """Source samples that must be seen together; 0 = any batch will do."""
        return max((node.stage.block for node in self.nodes if node.enabled), default=0)

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
        for node in self.nodes:
            given = known[node.inputs[0]]
            try:
                told = given if not node.enabled else node.stage.fields(given)
            except ConfigError as error:
                told = given if node.stage.bypassable else ()
                refused.append((f"stages.{node.name}: {error.message}", error))
            for output in node.outputs:
                known[output] = told if told is not None else observe[output]
        if refused:
            hint = next((error.hint for _, error in refused if error.hint), "")
            raise ConfigError("\n".join(message for message, _ in refused), hint=hint)
        return known

    def libraries(self) -> dict[str, str]:
        """Versions of all that the stages' bytes depend on."""
        told = {f"{node.name}: {k}": v for node in self.nodes for k, v in node.stage.libraries().items()}
        return told | {f"{node.name}: {node.kind}": code for node in self.nodes if (code := _code(node.stage))}


def _code(stage: Stage[Any]) -> str:
    """A digest of the file that a stage of somebody else's is written in; nothing for ours."""
    file = None if type(stage).__module__.startswith("data_bridge.") else inspect.getsourcefile(type(stage))
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}" if file else ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stage as the config has it. `inputs` are as written; () = the stage before."""

    name: str
    kind: str
    stage: Stage[Any]
    inputs: tuple[str, ...] = ()
    enabled: bool = True
    threads: int = 0
    window: int = WINDOW


@dataclass(frozen=True, slots=True)
class WantedSink:
    name: str
    input: str | None = None


def wire(stages: Sequence[Wanted], sinks: Sequence[WantedSink], problems: list[str]) -> Graph:
    """The graph; what is wrong with it goes to `problems`, and then the graph is of no use."""
    return _Wiring(stages, problems).graph(sinks)


@dataclass(slots=True)
class _Wiring:
    stages: Sequence[Wanted]
    problems: list[str]
    _by_name: dict[str, Wanted] = field(init=False)

    def __post_init__(self) -> None:
        self._by_name = {stage.name: stage for stage in self.stages}
        if SOURCE in self._by_name:
            self.problems.append(f"stages: no stage may be named `{SOURCE}`: it is what the first one reads")
        if WRITE in self._by_name:
            self.problems.append(f"stages: no stage may be named `{WRITE}`: failures of writers go by that name")

    def graph(self, wanted: Sequence[WantedSink]) -> Graph:
        nodes: dict[str, Node] = {}
        before: Wanted | None = None
        for stage in self.stages:
            inputs = tuple(self._inputs(stage, before))
            nodes[stage.name] = Node(
                stage.name, stage.kind, stage.stage, inputs, stage.enabled, stage.threads, stage.window
            )
            before = stage
        sinks = tuple(self._sinks(wanted, list(nodes.values())))
        self._refuse_twins(sinks)
        self._refuse_dangling(list(nodes.values()), sinks)
        graph = Graph(tuple(self._ordered(nodes)), sinks)
        self._refuse_late_joins(graph)
        self._refuse_waiting_twice(graph)
        self._refuse_several_blocks(graph)
        self._refuse_threads(graph)
        return graph

    def _inputs(self, stage: Wanted, before: Wanted | None) -> Iterator[str]:
        where = f"stages.{stage.name}.input"
        if not stage.inputs:
            yield SOURCE if before is None else self._port(before.name, where, f"{stage.name} reads {before.name}")
            return
        seen = set()
        for written in stage.inputs:
            port = self._port(written, where, f"it reads {written}")
            if port in seen:
                self.problems.append(f"{where}: reads {port} twice")
            seen.add(port)
            yield port

    def _port(self, written: str, where: str, what: str) -> str:
        """The output that a name in the config means."""
        name, _, output = written.partition(".")
        if written == SOURCE:
            return SOURCE
        stage = self._by_name.get(name)
        if stage is None:
            close = difflib.get_close_matches(name, [SOURCE, *self._by_name], 1)
            guess = f", did you mean `{close[0]}`?" if close else ""
            self.problems.append(f"{where}: there is no stage {name!r}{guess}")
            return SOURCE
        outputs = stage.stage.outputs
        if output in outputs:
            return f"{name}.{output}"
        choice = ", ".join(f"`{name}.{o}`" for o in outputs)
        if output:
            self.problems.append(f"{where}: {name} has no output {output!r}; it has {choice}")
        elif len(outputs) > 1:
            self.problems.append(f"{where}: {what}, which has several outputs: name one of {choice}")
        return f"{name}.{outputs[0]}"

    def _sinks(self, wanted: Sequence[WantedSink], nodes: Sequence[Node]) -> Iterator[Sink]:
        if not wanted:
            yield from self._sinks_of_loose_ends(nodes)
            return
        last = nodes[-1].name if nodes else SOURCE
        for sink in wanted:
            written = sink.input or last
            port = self._port(written, f"writers.{sink.name}.input", f"it writes {written}")
            yield Sink(sink.name if len(wanted) > 1 else "", port)

    def _sinks_of_loose_ends(self, nodes: Sequence[Node]) -> Iterator[Sink]:
        loose = list(_loose(nodes))
        if not nodes or len(loose) <= 1:
            yield Sink("", loose[0] if loose else SOURCE)
            return
        short = [port.partition(".")[2] for port in loose]
        for port, output in zip(loose, short, strict=True):
            own = output != OUT and short.count(output) == 1
            yield Sink(output if own else port.partition(".")[0] if output == OUT else port.replace(".", "-"), port)

    def _refuse_twins(self, sinks: Sequence[Sink]) -> None:
        names = [sink.name for sink in sinks]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            self.problems.append(f"writers: two are named {name!r}: name each in `writers`")

    def _refuse_threads(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.waits and (node.stage.block or isinstance(node.stage, Surveying)):
                self.problems.append(
                    f"stages.{node.name}: it needs samples together, and `thread` gives them one by one"
                )

    def _refuse_late_joins(self, graph: Graph) -> None:
        for node in graph.nodes:
            if len(node.inputs) < 2:
                continue
            for before in {n.name for port in node.inputs for n in graph.behind(port) if n.stage.block}:
                self.problems.append(
                    f"stages.{node.name}.input: joins what {before} has put in another order: join first"
                )

    def _refuse_several_blocks(self, graph: Graph) -> None:
        blocks = {node.name: node.stage.block for node in graph.nodes if node.enabled and node.stage.block}
        if len(set(blocks.values())) > 1:
            told = ", ".join(f"{name} {size:,}" for name, size in blocks.items())
            self.problems.append(
                f"stages: they take different numbers of samples at a time ({told}): give all the same"
            )

    def _refuse_waiting_twice(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.enabled and isinstance(node.stage, Surveying):
                for before in {n.name for port in node.inputs for n in graph.behind(port) if n.waits}:
                    self.problems.append(
                        f"stages.{node.name}: looks at all samples first, so that {before} would wait for each twice: "
                        f"put {node.name} before it, or write what {before} gives and start from that"
                    )

    def _refuse_dangling(self, nodes: Sequence[Node], sinks: Sequence[Sink]) -> None:
        written = {sink.input for sink in sinks}
        for port in _loose(nodes):
            if port not in written:
                self.problems.append(f"stages: nothing reads {port}: name it in a writer's or a stage's input")

    def _ordered(self, nodes: Mapping[str, Node]) -> list[Node]:
        # lists, not sets: the order must be the same in every process
        needs = {
            name: list(dict.fromkeys(p.partition(".")[0] for p in node.inputs if p != SOURCE))
            for name, node in nodes.items()
        }
        sorter = TopologicalSorter(needs)
        try:
            return [nodes[name] for name in sorter.static_order() if name in nodes]
        except CycleError as error:
            circle: list[str] = error.args[1]
            self.problems.append(f"stages: they read one another in a circle: {' → '.join(reversed(circle))}")
            return list(nodes.values())


def _loose(nodes: Sequence[Node]) -> Iterator[str]:
    """Outputs that no stage reads."""
    read = {port for node in nodes for port in node.inputs}
    yield from (output for node in nodes for output in node.outputs if output not in read)
