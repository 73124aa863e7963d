"""From settings to a graph of stages; every mistake of a config in one message."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from data_bridge.config import PipelineSettings, StageSettings, explained, public_value, with_open_secrets
from data_bridge.errors import ConfigError
from data_bridge.runtime.branches import Queueing
from data_bridge.runtime.graph import WINDOW, Graph
from data_bridge.runtime.multistage import MultiStage
from data_bridge.runtime.paid import CALLS, PaidStage, options_digest
from data_bridge.runtime.stage import Outlet, Result, SideStage, Stage, StageBatch, StageOptions
from data_bridge.runtime.threaded import WORKERS
from data_bridge.runtime.wiring import Wanted, WantedSink, wire
from data_bridge.stages.registry import stage_class


def build(settings: PipelineSettings, *, check: bool = False) -> Graph:
    """The graph of a pipeline; stages are made, nothing is started.

    `check` also lets each stage look whether what it needs is there: once, where a run is planned. Raises ConfigError
    that lists everything that is wrong.
    """
    if not settings.stages and not settings.writers:
        return Graph()
    problems: list[str] = []
    hints: list[str] = []
    wanted = [_wanted(spec, _stage(spec, problems, hints, check=check), problems) for spec in settings.stages]
    graph = wire(wanted, [WantedSink(w.name, w.input) for w in settings.writers], problems)
    uncounted = {node.name for branch in graph.branches for node in branch.nodes}
    problems += [
        f"stages.{spec.name}.max_failures: it leads to no writer, and what fails there is not recorded"
        for spec in settings.stages
        if spec.max_failures is not None and spec.name in uncounted
    ]
    problems += [
        f"stages.{spec.name}.executor: it leads to no writer, and all of its branch has one thread"
        for spec, made in zip(settings.stages, wanted, strict=True)
        if spec.executor == "thread" and spec.name in uncounted and not isinstance(made.stage, SideStage)
    ]
    problems += [
        f"stages.{made.name}: it leads to no writer, and what a branch sees again after a crash would be paid for again: give "
        "its output to a writer"
        for made in wanted
        if isinstance(made.stage, PaidStage) and made.name in uncounted
    ]
    problems += [
        f"stages.{spec.name}.report: it leads to no writer, and what is measured there is not kept"
        for spec in settings.stages
        if spec.report and spec.name in uncounted
    ]
    if not problems:
        return graph
    raise ConfigError(
        "\n".join(problems), hint=hints[0] if hints else "docs/stages.md explains stages and how to wire them"
    )


def threads_of(spec: StageSettings, stage: Stage[Any]) -> int:
    """Rows that the stage has in work at a time, in threads of the slot; 0 = it takes whole packets."""
    if isinstance(stage, PaidStage):
        return spec.workers or CALLS
    executor = stage.executor if spec.executor == "auto" else spec.executor
    return (spec.workers or WORKERS) if executor == "thread" else 0


def _wanted(spec: StageSettings, stage: Stage[Any], problems: list[str]) -> Wanted:
    if isinstance(stage, SideStage) and spec.executor != "auto":
        problems.append(f"stages.{spec.name}.executor: it has a thread of its own in every slot")
    if isinstance(stage, MultiStage) and (strange := {output.name for output in spec.outputs} - set(stage.outputs)):
        problems.append(
            f"stages.{spec.name}.outputs: it has no {', '.join(sorted(strange))}; its own are {', '.join(stage.outputs)}"
        )
    if isinstance(stage, SideStage) and spec.outputs:
        problems.append(f"stages.{spec.name}.outputs: it only looks at samples and gives none on")
    if not spec.ordered:
        problems.append(
            f"stages.{spec.name}.ordered: false would let the moment at which a result is ready decide in which shard it is, and every "
            "run would give other bytes: leave it out; a slow sample holds up only those behind it, `workers` and `queue_capacity` of "
            "its outputs say how many are on their way meanwhile"
        )
    paid = isinstance(stage, PaidStage)
    if spec.executor == "llm" and not paid:
        problems.append(
            f"stages.{spec.name}.executor: `llm` keeps the answers of a stage that has an `ask` and a `use` (PaidStage), so that "
            "none is paid twice; this one has not: where that does not matter, use `thread` with `workers: 30`"
        )
    if paid and spec.executor not in ("auto", "llm"):
        problems.append(
            f"stages.{spec.name}.executor: its answers are paid for, and only `llm`, its default, keeps them"
        )
    if spec.rate is not None and not paid:
        problems.append(f"stages.{spec.name}.rate: it is for stages whose answers are paid for (executor `llm`)")
    digest = options_digest(spec.kind, public_value(to_jsonable_python(spec.options))) if paid else ""
    threads = threads_of(spec, stage)
    window = max((output.queue_capacity for output in spec.outputs), default=WINDOW)
    queues = {output.name: Queueing(output.queue_capacity, output.overflow_behavior) for output in spec.outputs}
    return Wanted(
        spec.name,
        spec.kind,
        stage,
        spec.inputs,
        spec.enabled,
        threads,
        window,
        spec.pool or "",
        queues,
        digest,
        spec.rate,
        () if isinstance(stage, _Missing) else spec.input_names,
    )


def _stage(spec: StageSettings, problems: list[str], hints: list[str], *, check: bool) -> Stage[Any]:
    """The stage, or one in its place that has its outputs, so that mistakes of others are found as well."""
    where = f"pipeline.stages.{spec.name}"
    outlets = [Outlet(output.name, output.weight) for output in spec.outputs]
    try:
        kind = stage_class(spec.kind)
        stage = kind(kind.Options.model_validate(with_open_secrets(spec.options)), outlets)
        stage.reported = spec.report
        if spec.report and kind.report_schema is None:
            problems.append(f"{where}.report: {spec.kind} measures nothing of a sample: it has no report_schema")
        if check:
            stage.check()
    except ConfigError as error:
        problems.append(f"{where}: {error.message}")
        hints += [error.hint] if error.hint else []
    except ValidationError as error:
        problems += [f"{where}: {text}" for text in _problems(kind.Options, error)]
    else:
        return stage
    return _Missing(StageOptions(), outlets)


class _Missing(Stage[StageOptions]):
    """Stands where a stage could not be made."""

    def process(self, _batch: StageBatch) -> Result:
        raise AssertionError("a graph with a stage that is missing is refused")


def _problems(options: Any, error: ValidationError) -> Sequence[str]:
    return [explained(e, options) for e in error.errors(include_input=False, include_url=False)]
