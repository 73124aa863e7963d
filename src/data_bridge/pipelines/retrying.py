"""Trying failed samples again: a generation of the plan that reads what an earlier one could not use.

Each of its partitions reads the pieces of an earlier one and takes of them only the samples that failed there, which an object
`_bridge/<run>/retries/000001/p00012.samples` lists. The shards it makes are committed, resumed and published like any others.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from data_bridge.config import Settings
from data_bridge.errors import BusyError, ConfigError, IntegrityError
from data_bridge.io.sources.stream import SampleStream
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition, Plan
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning
from data_bridge.pipelines.finalize import published
from data_bridge.pipelines.sink_run import repeats_a_key
from data_bridge.runtime.graph import Graph, Sink
from data_bridge.runtime.stage import Stage, StatefulStage, Surveying
from data_bridge.stages.build import build
from data_bridge.utils.progress import Ledger, ProgressTracker


def plan_retry(
    settings: Settings,
    store: ObjectStore,
    stream: SampleStream,
    identity: planning.Identity | None,
    probe: Callable[[], None],
) -> Plan:
    """The plan with a generation that tries all failed samples again, recorded at the destination; the plan as it stands where
    one is under way, or where nothing has failed. `probe` is called before anything is written.

    Raises ConfigError where there is no finished run, or where failures cannot be told apart from other samples, and
    ConflictError where config or source differ as no run may go on with. Code of stages may have been mended, unless a
    retry is under way.
    """
    plan = planning.read_plan(store, identity.run) if identity else None
    if plan is None:
        raise ConfigError(f"no dataset at {store.uri}", hint="begin it with `data-bridge run`")
    graph = build(settings.pipeline)
    logs = Ledger(store, plan.run).load_all(plan.partitions)
    going_on = not published(store, plan) or any(log.done is None for log in logs.values())
    if going_on and plan.generations[-1].kind != "retry":
        raise ConfigError(
            f"the run at {store.uri} is not finished", hint="finish it with `data-bridge run`, then retry"
        )
    planning.check_unchanged(settings, plan, mended=lambda: not going_on)
    if planning.grown_generation(settings, stream, plan) is not None:
        raise ConfigError("the source has grown", hint="pack what is new with `data-bridge run`, then retry")
    _refuse_what_cannot_be_retried(graph)
    if going_on:
        return plan
    probe()
    partitions = list(_partitions(store, plan, logs))
    if not partitions:
        return plan
    again = plan.first.model_copy(
        update={
            "number": len(plan.generations),
            "kind": "retry",
            "libraries": planning.libraries_now(settings, graph),
            "files": (),
            "partitions": tuple(partitions),
        }
    )
    if not planning.append_generation(store, plan.run, again):
        raise BusyError(f"another run has changed the plan of {store.uri}", hint="run again: it goes on there")
    return Plan(run=plan.run, generations=(*plan.generations, again))


def _partitions(store: ObjectStore, plan: Plan, logs: Mapping[int, PartitionLog]) -> Iterator[Partition]:
    """One for each with failed samples that were not tried again yet. A function of plan and ledger: who makes them again
    writes the same."""
    index = len(plan.partitions)
    changes = max((record.number + 1 for log in logs.values() for record in log.changes), default=0)
    for partition in plan.partitions:
        if partition.index in plan.retried or not logs[partition.index].failed_samples:
            continue
        samples, stages = _failed(store, partition, logs[partition.index])
        key = f"_bridge/{plan.run}/retries/{len(plan.generations):06d}/p{index:05d}.samples"
        store.put_bytes(key, samples.tobytes())
        yield partition.model_copy(
            update={
                "index": index,
                "samples": None,
                "shard_prefix": f"patch-{index:05d}-",
                "first_shard": 0,
                "limit": int(samples[-1]) + 1,
                "retries": partition.index,
                "only": key,
                "retried_by": dict(stages),
                "changes": changes,
            }
        )
        index += 1


def replay(ledger: Ledger, tracker: ProgressTracker) -> None:
    """Let the live changes that were in force where samples failed be in force where they are tried again: what becomes of
    them is what would have become of them."""
    if tracker.partition.retries is None:
        return
    known = {record.id for record in tracker.log.changes}
    for record in ledger.load(Partition(index=tracker.partition.retries, pieces=())).changes:
        if record.id not in known:
            tracker.append(record.model_copy(update={"token": tracker.token}))


def chosen(store: ObjectStore, partition: Partition) -> NDArray[np.int64] | None:
    """The samples that a partition takes of those it reads, counted from its start, ascending; None = all."""
    if partition.only is None:
        return None
    data = store.get(partition.only)
    if data is None:
        raise IntegrityError(
            f"{partition.only} is missing at {store.uri}", hint="restore it, or start over with --fresh"
        )
    wanted = sum(partition.retried_by.values()) * 8
    if len(data) != wanted:
        raise IntegrityError(
            f"{partition.only} at {store.uri} has {len(data)} bytes instead of {wanted}",
            hint="something else changed the destination: restore it, or start over with --fresh",
        )
    return np.frombuffer(data, dtype="<i8")


def _refuse_what_cannot_be_retried(graph: Graph) -> None:
    """Raise ConfigError where what becomes of a failed sample cannot be told from that sample alone, or where a part of it
    may be in shards already."""
    problems = [f"stages.{node.name}: {why}" for node in graph.nodes if node.enabled and (why := _why_not(node.stage))]
    problems += [
        f"{f'writers.{sink.name}' if sink.name else 'the writer'}: one sample of the source may become several, and some of "
        "a failed one may be in shards already"
        for sink in graph.sinks
        if graph.multiplies(sink.input)
    ]
    problems += [
        f"writers.{one.name} and writers.{other.name}: one sample may go to both, and a failed one may be in shards of one"
        for one, other in combinations(graph.sinks, 2)
        if not problems and not _apart(graph, one, other)
    ]
    if problems:
        raise ConfigError(
            "failed samples of this pipeline cannot be retried:\n" + "\n".join(problems),
            hint="mend what failed, then make the dataset anew: `data-bridge run --fresh`, or another output_uri",
        )


def _why_not(stage: Stage[Any]) -> str:
    if isinstance(stage, Surveying):
        return "it judges a sample by all others"
    if stage.block:
        return "it takes samples together in blocks"
    if isinstance(stage, StatefulStage):
        return "what it does with a sample depends on those before it"
    return ""


def _apart(graph: Graph, one: Sink, other: Sink) -> bool:
    """Whether a stage on the way divides the samples between two writers. Without joins each has one way from the source."""
    mine, theirs = _ports(graph, one), _ports(graph, other)
    return any(
        node.enabled
        and node.stage.divides
        and (left := mine.intersection(node.outputs))
        and (right := theirs.intersection(node.outputs))
        and left != right
        for node in graph.nodes
    )


def _ports(graph: Graph, sink: Sink) -> set[str]:
    return {sink.input, *(port for node in graph.behind(sink.input) for port in node.inputs)}


def _failed(store: ObjectStore, partition: Partition, log: PartitionLog) -> tuple[NDArray[np.int64], Counter[str]]:
    """The failed samples of a finished partition, counted from its start, and at which stages they failed."""
    assert log.done is not None, "what is not finished goes on first"
    files = [(r.failures, r.failures_sha256) for r in log.shards] + [(log.done.failures, log.done.failures_sha256)]
    found: dict[int, str] = {}
    repeated = 0
    for key, digest in files:
        if key is None:
            continue
        data = store.get(key)
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            raise IntegrityError(
                f"{key} {'is missing' if data is None else 'is not as it was written'} at {store.uri}",
                hint="restore it: it says which samples failed",
            )
        for line in data.splitlines():
            failure = orjson.loads(line)
            found[failure["index"] - partition.first_index] = failure["stage"]
            repeated += repeats_a_key(failure["reason"])
    _refuse_repeats(partition, repeated)
    if len(found) != log.failed_samples:
        raise IntegrityError(
            f"partition {partition.index}: {log.failed_samples} samples failed, its failure files name {len(found)}",
            hint="restore them, or start over with --fresh",
        )
    return np.array(sorted(found), dtype="<i8"), Counter(found.values())


def _refuse_repeats(partition: Partition, repeated: int) -> None:
    if repeated:
        raise ConfigError(
            f"{repeated} samples of partition {partition.index} failed because their key occurs twice in a shard",
            hint="in a shard of their own they would pass for others: mend the source, or leave key_field out, and start over",
        )
