"""The last step: check that everything recorded exists, write the readers' indexes, then the manifest."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec

from data_bridge.errors import BusyError, FatalError, IntegrityError
from data_bridge.model.answers import together
from data_bridge.model.changes import SET
from data_bridge.model.manifest import MANIFEST_KEY, IndexRange, Manifest, ManifestShard, WriterInfo
from data_bridge.model.partition_log import PartitionLog, totals
from data_bridge.model.plan import Plan
from data_bridge.model.shards import ShardRecord
from data_bridge.model.store import BOOKKEEPING, ObjectStore
from data_bridge.pipelines.planning import read_plan
from data_bridge.pipelines.sinks import SinkPlan
from data_bridge.utils.progress import dump, parsed


def finalize(
    store: ObjectStore,
    plan: Plan,
    logs: Mapping[int, PartitionLog],
    sinks: Sequence[SinkPlan],
) -> Manifest:
    """Publish the finished dataset. Running it again on the same ledger changes nothing.

    Raises FatalError while a partition is unfinished, IntegrityError when a recorded shard is missing or of another size.
    """
    unfinished = [p.index for p in plan.partitions if logs[p.index].done is None]
    if unfinished:
        raise FatalError(
            f"{len(unfinished)} of {len(plan.partitions)} partitions are not finished (first: {unfinished[0]})",
            hint="run the same command again; it continues where it stopped",
        )
    shards = [
        (p.index, record)
        for p in plan.partitions
        for sink in sinks
        for record in logs[p.index].shards_of(sink.name)
        if record.key is not None
    ]
    check_presence(store, [record for _, record in shards])
    indexes = {
        sink.key(name): content
        for sink in sinks
        for name, content in sink.writer().indexes([r for _, r in shards if r.sink == sink.name]).items()
    }
    manifest = _manifest(plan, logs, shards, indexes, sinks)
    data = store.get(MANIFEST_KEY)
    there = parsed(Manifest, data, MANIFEST_KEY) if data is not None else None
    told = there is not None and _same(there, manifest)
    if not told:
        _refuse_a_past_plan(store, plan)
    for name, content in indexes.items():
        if not told or store.get(name) != content:
            store.put_bytes(name, content)
    if there is not None and told:
        return there
    _refuse_a_past_plan(store, plan)
    store.put_bytes(MANIFEST_KEY, msgspec.json.format(dump(manifest), indent=2) + b"\n")
    return manifest


def published(store: ObjectStore, plan: Plan) -> bool:
    """Whether a manifest is there that has come of all generations of the plan."""
    data = store.get(MANIFEST_KEY)
    if data is None:
        return False
    there = parsed(Manifest, data, MANIFEST_KEY)
    return there.run == plan.run and there.provenance.get("generations") == len(plan.generations)


def _refuse_a_past_plan(store: ObjectStore, plan: Plan) -> None:
    """Another run may have planned more meanwhile: its manifest must not be replaced by one of the past."""
    now = read_plan(store, plan.run)
    if now is None or len(now.generations) != len(plan.generations):
        raise BusyError(f"another run has changed the plan of {store.uri}", hint="run again: it will finish that plan")


def check_presence(store: ObjectStore, records: Sequence[ShardRecord]) -> None:
    """What the store lists against the ledger: every shard is there with its size."""
    if not records:
        return
    # the ledger has as many objects as there are shards, and what else is there is nobody's business
    shared = os.path.commonprefix([record.key or "" for record in records])  # noqa: RUF071 - of any characters
    sizes = {found.key: found.size for found in store.list(shared, without=BOOKKEEPING)}
    wrong = [r for r in records if sizes.get(r.key or "") != r.bytes]
    if wrong:
        first = wrong[0]
        found = sizes.get(first.key or "")
        state = "is missing" if found is None else f"has {found} bytes instead of {first.bytes}"
        raise IntegrityError(
            f"{len(wrong)} recorded shards are not as recorded at {store.uri}; the first: {first.key} {state}",
            hint="something else changed the destination; restore the shards, or start over with --fresh",
        )


def _manifest(
    plan: Plan,
    logs: Mapping[int, PartitionLog],
    shards: Sequence[tuple[int, ShardRecord]],
    indexes: Mapping[str, bytes],
    sinks: Sequence[SinkPlan],
) -> Manifest:
    first = plan.first
    committed = totals(logs.values())
    warnings: dict[str, int] = {}
    for _, record in shards:
        for name, count in record.warnings.items():
            warnings[name] = warnings.get(name, 0) + count
    changes = _changes(plan, logs)
    return Manifest(
        run=plan.run,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="completed_with_failures" if committed.failed else "complete",
        format=sinks[0].settings.name,
        totals=committed,
        shards=tuple(
            ManifestShard(
                path=r.key or "",
                sha256=r.sha256,
                bytes=r.bytes,
                samples=r.samples,
                partition=index,
                source=IndexRange(start=r.first_index, end=r.end_index),
                split=r.sink or None,
                retries=plan.partitions[index].retries,
            )
            for index, r in shards
        ),
        indexes={name: hashlib.sha256(content).hexdigest() for name, content in indexes.items()},
        fields=first.fields,
        writer=first.writer,
        writers={sink.name: _writer_info(sink, shards) for sink in sinks if sink.name},
        provenance={
            "source": [_identity(f.model_dump()) for f in plan.files],
            "source_format": first.format,
            "generations": len(plan.generations),
            "config_hash": first.config_hash,
            "config": first.config,
            "stages": first.config.get("stages", []),
            "versions": {"data-bridge": version("train-data-bridge"), **first.libraries},
            **({"live_changes": changes} if changes else {}),
        },
        failures=tuple(_failure_keys(plan, logs)),
        warnings=warnings,
        paid=together(log.done.paid for log in logs.values() if log.done is not None),
    )


def _writer_info(sink: SinkPlan, shards: Sequence[tuple[int, ShardRecord]]) -> WriterInfo:
    own = [record for _, record in shards if record.sink == sink.name]
    return WriterInfo(
        format=sink.settings.name,
        writer=dict(sink.frozen),
        samples=sum(r.samples for r in own),
        shards=len(own),
        bytes=sum(r.bytes for r in own),
    )


def _changes(plan: Plan, logs: Mapping[int, PartitionLog]) -> list[dict[str, Any]]:
    """Every live change of every partition, with the source index from which it is in force there."""
    return [
        {
            "partition": p.index,
            "from": p.first_index + r.start,
            "stage": r.stage,
            **({} if r.command == SET else {"command": r.command}),
            "key": r.key,
            "value": r.value,
        }
        for p in plan.partitions
        for r in logs[p.index].changes
    ]


def _identity(file: Mapping[str, Any]) -> dict[str, Any]:
    return {k: file[k] for k in ("uri", "size", "etag", "mtime_ns", "sha256") if file.get(k) is not None}


def _failure_keys(plan: Plan, logs: Mapping[int, PartitionLog]) -> list[str]:
    """Files that name the failed samples; where those were tried again, the files of that."""
    current = [logs[p.index] for p in plan.partitions if p.index not in plan.retried]
    return sorted(r.failures for log in current for r in (*log.shards, log.done) if r is not None and r.failures)


def _same(there: Manifest, ours: Manifest) -> bool:
    """Whether two manifests say the same of the data, whenever and with whatever settings that change no bytes."""
    return _essence(there) == _essence(parsed(Manifest, dump(ours), MANIFEST_KEY))


def _essence(manifest: Manifest) -> Manifest:
    provenance = {name: value for name, value in manifest.provenance.items() if name != "versions"}
    return manifest.model_copy(update={"created": "", "run": "", "provenance": provenance})
