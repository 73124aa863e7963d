"""Checking a finished dataset against its manifest."""

import hashlib
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data_bridge.config import PipelineSettings
from data_bridge.errors import BridgeError, ConfigError, IntegrityError
from data_bridge.model.manifest import MANIFEST_KEY, Manifest, ManifestShard
from data_bridge.model.report import VerifyReport
from data_bridge.model.store import BOOKKEEPING, ObjectStore
from data_bridge.pipelines.planning import read_plan
from data_bridge.pipelines.sinks import sink_settings
from data_bridge.pipelines.writer import ShardWriter
from data_bridge.pipelines.writers import writer_class
from data_bridge.utils.progress import Ledger, parsed

READERS = 4
"""Shards read at the same time by a deep check."""


def verify_dataset(store: ObjectStore, *, deep: bool) -> VerifyReport:
    """Compare the destination with its manifest. Raises ConfigError when there is none.

    Every shard and index exists with its size; `deep` reads each one: SHA-256, structure, number of
    samples, and that chosen keys (`key_field`) occur once in the dataset.
    """
    data = store.get(MANIFEST_KEY)
    if data is None:
        raise ConfigError(
            f"no {MANIFEST_KEY} at {store.uri}",
            hint="the dataset is not finished (`data-bridge status` tells), or this is not its root",
        )
    manifest = parsed(Manifest, data, MANIFEST_KEY)
    sizes = {o.key: o.size for o in store.list(without=BOOKKEEPING)}
    problems = list(_presence(manifest, sizes))
    problems += _indexes(store, manifest)
    problems += _strangers(manifest, sizes)
    problems += _against_ledger(store, manifest)
    if deep:
        present = [s for s in manifest.shards if sizes.get(s.path) == s.bytes]
        chosen_keys = manifest.provenance["config"].get("key_field") is not None
        with ThreadPoolExecutor(READERS) as pool, _Keys() as keys:
            reads = pool.map(lambda s: _read(store, manifest, s, keys if chosen_keys else None), present)
            problems += [p for found in reads for p in found]
            problems += keys.repeated()
    return VerifyReport(
        destination=store.uri,
        shards=manifest.totals.shards,
        samples=manifest.totals.samples,
        bytes=manifest.totals.bytes,
        deep=deep,
        problems=tuple(problems),
    )


def _presence(manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    for shard in manifest.shards:
        size = sizes.get(shard.path)
        if size is None:
            yield f"{shard.path}: missing"
        elif size != shard.bytes:
            yield f"{shard.path}: {size} bytes, the manifest says {shard.bytes}"
    if sum(s.samples for s in manifest.shards) != manifest.totals.samples:
        yield f"{MANIFEST_KEY}: its shards do not add up to {manifest.totals.samples} samples"


def _indexes(store: ObjectStore, manifest: Manifest) -> list[str]:
    problems = []
    for name, digest in manifest.indexes.items():
        content = store.get(name)
        if content is None:
            problems.append(f"{name}: missing")
        elif hashlib.sha256(content).hexdigest() != digest:
            problems.append(f"{name}: its content is not what was written")
    return problems


def _strangers(manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    """Objects beside the shards that nothing names: readers that take every file of a folder would read them."""
    known = {MANIFEST_KEY, *manifest.indexes, *(s.path for s in manifest.shards)}
    yield from (f"{key}: not part of the dataset" for key in sorted(sizes) if key not in known)


def _against_ledger(store: ObjectStore, manifest: Manifest) -> list[str]:
    """What the ledger records and the manifest does not, or the other way round; failure files by their hash."""
    plan = read_plan(store, manifest.run)
    if plan is None:
        return []  # a dataset may be copied without its bookkeeping
    logs = Ledger(store, manifest.run).load_all(plan.partitions)
    records = [r for log in logs.values() for r in log.shards]
    recorded = {(r.key, r.sha256) for r in records if r.key is not None}
    listed = {(s.path, s.sha256) for s in manifest.shards}
    problems = [f"{key}: in the ledger, not in {MANIFEST_KEY}" for key, _ in sorted(recorded - listed)]
    problems += [f"{key}: in {MANIFEST_KEY}, not in the ledger" for key, _ in sorted(listed - recorded)]
    digests = {r.failures: r.failures_sha256 for r in records}
    digests |= {log.done.failures: log.done.failures_sha256 for log in logs.values() if log.done}
    for key in manifest.failures:
        content = store.get(key)
        if content is None:
            problems.append(f"{key}: missing")
        elif hashlib.sha256(content).hexdigest() != digests.get(key):
            problems.append(f"{key}: its content is not what was written")
    return problems


class _Keys:
    """Keys of the whole dataset, on disk: there may be more of them than fit in memory."""

    def __enter__(self) -> "_Keys":
        self._folder = tempfile.TemporaryDirectory(prefix="data-bridge-keys-")
        self._lock = threading.Lock()
        self._table = sqlite3.connect(Path(self._folder.name) / "keys.db", check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("CREATE TABLE keys (key TEXT, shard TEXT, writer TEXT)")
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()
        self._folder.cleanup()

    def add(self, shard: ManifestShard, keys: list[str]) -> None:
        rows = ((key, shard.path, shard.split or "") for key in keys)
        with self._lock:
            self._table.executemany("INSERT INTO keys VALUES (?, ?, ?)", rows)

    def repeated(self) -> list[str]:
        """Keys that stand in several shards of one writer, the first few of them."""
        rows = self._table.execute(
            "SELECT key, group_concat(shard, ', ') FROM (SELECT * FROM keys ORDER BY key, shard) "
            "GROUP BY key, writer HAVING count(*) > 1 ORDER BY key LIMIT 20"
        )
        return [f"the key {key!r} occurs in several shards: {shards}" for key, shards in rows]


def _read(store: ObjectStore, manifest: Manifest, shard: ManifestShard, all_keys: _Keys | None) -> list[str]:
    """All that is wrong with the content of one shard."""
    keys: list[str] = []
    try:
        with _local_copy(store, shard) as (path, digest):
            if digest != shard.sha256:
                return [f"{shard.path}: SHA-256 {digest[:12]}… instead of {shard.sha256[:12]}…"]
            samples = _writer(manifest, shard).check(path, keys)
    except IntegrityError as error:
        return [f"{shard.path}: {error.message}"]
    except BridgeError as error:
        return [f"{shard.path}: cannot be read: {error.message}"]
    if all_keys is not None:
        all_keys.add(shard, keys)
    return [] if samples == shard.samples else [f"{shard.path}: {samples} samples, the manifest says {shard.samples}"]


def _writer(manifest: Manifest, shard: ManifestShard) -> ShardWriter:
    values = {
        k: v for k, v in manifest.provenance["config"].items() if k in PipelineSettings.model_fields or k == "schema"
    }
    name = shard.split or ""
    settings = sink_settings(PipelineSettings.model_validate(values), name)
    return writer_class(settings.name)(settings, manifest.writers[name].writer if name else manifest.writer)


@contextmanager
def _local_copy(store: ObjectStore, shard: ManifestShard) -> Iterator[tuple[Path, str]]:
    """The shard as a local file with its SHA-256; a folder's own file, else a download that goes away again."""
    digest = hashlib.sha256()
    if store.local_root is not None:
        for block in store.read(shard.path):
            digest.update(block)
        yield store.local_root / shard.path, digest.hexdigest()
        return
    with tempfile.TemporaryDirectory(prefix="data-bridge-verify-") as folder:
        path = Path(folder) / Path(shard.path).name
        with path.open("wb") as file:
            for block in store.read(shard.path):
                digest.update(block)
                file.write(block)
        yield path, digest.hexdigest()
