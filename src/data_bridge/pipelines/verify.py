"""Checking a finished dataset against its manifest."""

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data_bridge.config import PipelineSettings
from data_bridge.errors import BridgeError, ConfigError, IntegrityError
from data_bridge.model.manifest import MANIFEST_KEY, Manifest, ManifestShard
from data_bridge.model.report import VerifyReport
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.factory import writer_class
from data_bridge.pipelines.writer import ShardWriter

READERS = 4
"""Shards read at the same time by a deep check."""


def verify_dataset(store: ObjectStore, *, deep: bool) -> VerifyReport:
    """Compare the destination with its manifest. Raises ConfigError when there is none.

    Every shard and index exists with its size; `deep` reads each one: SHA-256, structure, number of samples.
    """
    data = store.get(MANIFEST_KEY)
    if data is None:
        raise ConfigError(
            f"no {MANIFEST_KEY} at {store.uri}",
            hint="the dataset is not finished (`data-bridge status` tells), or this is not its root",
        )
    manifest = Manifest.model_validate_json(data)
    sizes = {o.key: o.size for o in store.list() if not o.key.startswith("_bridge/")}
    problems = list(_presence(manifest, sizes))
    problems += _indexes(store, manifest)
    if deep:
        present = [s for s in manifest.shards if sizes.get(s.path) == s.bytes]
        with ThreadPoolExecutor(READERS) as pool:
            problems += [p for found in pool.map(lambda s: _read(store, manifest, s), present) for p in found]
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


def _read(store: ObjectStore, manifest: Manifest, shard: ManifestShard) -> list[str]:
    """All that is wrong with the content of one shard."""
    try:
        with _local_copy(store, shard) as (path, digest):
            if digest != shard.sha256:
                return [f"{shard.path}: SHA-256 {digest[:12]}… instead of {shard.sha256[:12]}…"]
            samples = _writer(manifest).check(path)
    except IntegrityError as error:
        return [f"{shard.path}: {error.message}"]
    except BridgeError as error:
        return [f"{shard.path}: cannot be read: {error.message}"]
    return [] if samples == shard.samples else [f"{shard.path}: {samples} samples, the manifest says {shard.samples}"]


def _writer(manifest: Manifest) -> ShardWriter:
    values = {
        k: v for k, v in manifest.provenance["config"].items() if k in PipelineSettings.model_fields or k == "schema"
    }
    return writer_class(manifest.format)(PipelineSettings.model_validate(values), manifest.writer)


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
