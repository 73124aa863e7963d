"""Stages look at the run as a whole: all of them before any work, and each once its dataset is complete."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from data_bridge.config import stages_folder
from data_bridge.errors import BridgeError, ConfigError, FatalError
from data_bridge.events import Notice, Observer
from data_bridge.model.manifest import Manifest
from data_bridge.model.partition_log import PartitionLog, failures_by_stage
from data_bridge.pipelines.base import Pipeline
from data_bridge.pipelines.told import note, owed
from data_bridge.runtime.context import Context, RunTotals
from data_bridge.runtime.graph import Node
from data_bridge.runtime.stage import reason
from data_bridge.stages.build import build


def before_all(pipeline: Pipeline, observer: Observer) -> None:
    """Let every stage look whether the run can be. Raises ConfigError that tells all that any of them says."""
    refused: list[tuple[str, str]] = []
    enabled = [node for node in build(pipeline.settings.pipeline).every if node.enabled]
    for node in enabled:
        error = _guarded(partial(node.stage.before, _context(pipeline, node, observer)))
        if error is not None:
            hint = error.hint if isinstance(error, BridgeError) else ""
            refused.append((f"stages.{node.name}: {_words(error)}", hint))
    if refused:
        hint = next((hint for _, hint in refused if hint), "see to what the stages need, then run again")
        raise ConfigError("\n".join(message for message, _ in refused), hint=hint)


def after_all(pipeline: Pipeline, logs: Mapping[int, PartitionLog], manifest: Manifest, observer: Observer) -> None:
    """Tell every stage that the dataset is complete, unless it was told by an earlier run.

    Raises FatalError that names those in which that went wrong; the next run tells them again.
    """
    made = manifest.totals
    totals = RunTotals(made.samples, made.failed, made.bytes, made.shards)
    failed = failures_by_stage(logs.values())
    problems: list[str] = []
    for node in owed(pipeline.settings, pipeline.store, pipeline.plan):
        here = replace(totals, failed_here=failed[node.name])
        error = _guarded(partial(node.stage.after, _context(pipeline, node, observer), here))
        if error is None:
            note(pipeline.store, pipeline.plan, node)
        else:
            problems.append(f"stages.{node.name}: {_words(error)}")
    if problems:
        raise FatalError(
            "the dataset is complete, but what stages do at its end went wrong:\n" + "\n".join(problems),
            hint="run the same command again: it does that part alone",
        )


def _guarded(hook: Callable[[], None]) -> Exception | SystemExit | None:
    """The one boundary around foreign code: what it raises is told with the stage's name."""
    try:
        hook()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything, an exit too
        return error
    return None


def _words(error: Exception | SystemExit) -> str:
    return error.message if isinstance(error, BridgeError) else reason(error)


def _context(pipeline: Pipeline, node: Node, observer: Observer) -> Context:
    folder = None
    with suppress(RuntimeError):  # this user has no home
        folder = stages_folder(pipeline.plan.run) / node.name
    return Context(
        run=pipeline.plan.run,
        stage=node.name,
        destination=pipeline.store.uri,
        settings=pipeline.plan.first.config,
        folder=folder,
        log=lambda message: observer(Notice(f"{node.name}: {message}")),
    )
