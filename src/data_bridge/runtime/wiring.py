"""Stages wired by name from what a config says, with every mistake told at once."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from data_bridge.runtime.branches import Queueing, branches, loses
from data_bridge.runtime.graph import SOURCE, WINDOW, WRITE, Graph, Node, Sink
from data_bridge.runtime.multistage import MultiStage
from data_bridge.runtime.stage import IN, OUT, Stage, StatefulStage, Surveying


class Wanted(msgspec.Struct, frozen=True):
    """A stage as the config has it. `inputs` are as written; () = the stage before that has an output."""

    name: str
    kind: str
    stage: Stage[Any]
    inputs: tuple[str, ...] = ()
    enabled: bool = True
    threads: int = 0
    window: int = WINDOW
    pool: str = ""
    queues: Mapping[str, Queueing] = msgspec.field(default_factory=dict)
    """By output."""
    digest: str = ""
    rate: float | None = None
    names: tuple[str, ...] = ()
    """What the config calls each of `inputs`, where it names them."""


class WantedSink(msgspec.Struct, frozen=True):
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
            inputs, names = self._named(stage, tuple(self._inputs(stage, before)))
            nodes[stage.name] = Node(
                stage.name,
                stage.kind,
                stage.stage,
                inputs,
                stage.enabled,
                stage.threads,
                stage.window,
                stage.pool,
                stage.digest,
                stage.rate,
                names,
            )
            before = stage if stage.stage.outputs else before
        sinks = tuple(self._sinks(wanted, list(nodes.values())))
        self._refuse_twins(sinks)
        self._refuse_dangling(list(nodes.values()), sinks)
        ordered = tuple(self._ordered(nodes))
        main = Graph(ordered, sinks).leading()
        beside = [node for node in ordered if node not in main]
        graph = Graph(main, sinks, tuple(branches(beside, self._queueing, self.problems)))
        self._refuse_loss(graph)
        self._refuse_late_joins(graph)
        self._refuse_waiting_twice(graph)
        self._refuse_several_blocks(graph)
        self._refuse_several_orders(graph)
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

    def _named(self, stage: Wanted, ports: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The inputs in the order in which the stage names them, and those names; none of a stage that joins what it reads."""
        where = f"stages.{stage.name}.input"
        apart = isinstance(stage.stage, MultiStage)
        takes = tuple(stage.stage.takes) if isinstance(stage.stage, MultiStage) else (IN,)
        names = stage.names or (takes if len(takes) == len(ports) == 1 else ())
        if not names and not apart:
            return ports, ()
        if set(names) != set(takes):
            form = ", ".join(f"{name}: …" for name in takes)
            strange = f" there is no {', '.join(sorted(set(names) - set(takes)))};" if set(names) - set(takes) else ""
            self.problems.append(f"{where}:{strange} the stage's inputs go by name: write `input: {{{form}}}`")
            return ports, takes if len(ports) == len(takes) else ()
        by_name = dict(zip(names, ports, strict=True))
        return tuple(by_name[name] for name in takes), takes if apart else ()

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
        if not outputs:
            self.problems.append(f"{where}: {name} only looks at samples and gives none on")
            return SOURCE
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
        last = next((node.name for node in reversed(nodes) if node.outputs), SOURCE)
        for sink in wanted:
            written = sink.input or last
            port = self._port(written, f"writers.{sink.name}.input", f"it writes {written}")
            yield Sink(sink.name if len(wanted) > 1 else "", port)

    def _sinks_of_loose_ends(self, nodes: Sequence[Node]) -> Iterator[Sink]:
        loose = list(_loose([node for node in nodes if node.outputs]))
        lossy = {port for port in loose if self._is_behind_loss(port, nodes)}
        loose = [port for port in loose if port not in lossy] or loose
        if len(loose) <= 1:
            yield Sink("", loose[0] if loose else SOURCE)
            return
        short = [port.partition(".")[2] for port in loose]
        for port, output in zip(loose, short, strict=True):
            own = output != OUT and short.count(output) == 1
            yield Sink(output if own else port.partition(".")[0] if output == OUT else port.replace(".", "-"), port)

    def _queueing(self, port: str) -> Queueing:
        """How packets wait behind an output, as the config has it."""
        name, _, output = port.partition(".")
        stage = self._by_name.get(name) if port != SOURCE else None
        return (stage.queues.get(output) if stage else None) or Queueing()

    def _is_behind_loss(self, port: str, nodes: Sequence[Node]) -> bool:
        """Whether samples may be missing at an output that nobody has said to write."""
        behind = Graph(tuple(nodes)).behind(port)
        return any(loses(self._queueing(port)) for port in (port, *(p for node in behind for p in node.inputs)))

    def _refuse_loss(self, graph: Graph) -> None:
        """Which packets find a queue full is chance, and shards are not."""
        read = {port for node in graph.nodes for port in node.inputs} | {sink.input for sink in graph.sinks}
        for port in sorted(read):
            if loses(self._queueing(port)):
                self.problems.append(
                    f"stages.{port}: {self._queueing(port).overflow} would lose samples on their way to a writer: give what only "
                    "looks at samples an output of its own, or leave `overflow_behavior` to it"
                )

    def _refuse_twins(self, sinks: Sequence[Sink]) -> None:
        names = [sink.name for sink in sinks]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            self.problems.append(f"writers: two are named {name!r}: name each in `writers`")

    def _refuse_threads(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.pool and not node.waits:
                self.problems.append(
                    f"stages.{node.name}.pool: no packet waits there: pools are for stages with threads and beside"
                )
            if node.waits and isinstance(node.stage, MultiStage):
                self.problems.append(
                    f"stages.{node.name}.executor: it puts together what a sample became, and `thread` gives rows one by one"
                )
            if node.waits and isinstance(node.stage, StatefulStage):
                self.problems.append(
                    f"stages.{node.name}.executor: it needs all samples in order, and `thread` gives them side by side"
                )
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

    def _refuse_several_orders(self, graph: Graph) -> None:
        wanting = [n.name for n in graph.nodes if n.enabled and n.stage.source_order(0) is not None]
        if len(wanting) > 1:
            self.problems.append(f"stages: {', '.join(wanting)} each put the whole source in order: one can")

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
                for before in {n.name for port in node.inputs for n in graph.behind(port) if n.remembers}:
                    self.problems.append(
                        f"stages.{node.name}: looks at all samples first, in any order, and {before} needs them in theirs: "
                        f"put {node.name} before it, or write what {before} gives and start from that"
                    )
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
