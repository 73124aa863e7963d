"""`--fresh`: take away what an earlier run made at a destination, in an order that never leaves a lie behind."""

import shutil
from collections.abc import Iterator

from data_bridge.errors import BusyError, ConflictError
from data_bridge.model.manifest import MANIFEST_KEY, Manifest
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning
from data_bridge.utils import claims
from data_bridge.utils.progress import Ledger


def made_here(store: ObjectStore) -> list[str]:
    """Every key that `start_over` would delete, in order: manifest, indexes, recorded shards, then `_bridge/`.

    Raises ConflictError for a destination without a dataset of ours in it, BusyError while a claim is live.
    """
    identity = planning.read_identity(store)
    if identity is None:
        for found in store.list():
            raise ConflictError(
                f"{store.uri} holds something that data-bridge did not make (first: {found.key}); nothing was deleted",
                hint="name another destination, or empty it yourself",
            )
        return []
    plan = planning.read_plan(store, identity.run)
    keys: list[str] = []
    if plan is not None:
        logs = Ledger(store, identity.run).load_all(plan.partitions)
        for partition in plan.partitions:
            claim = logs[partition.index].claim
            if claim is not None and claims.liveness(claim) == "alive here":
                raise BusyError(
                    f"process {claim.host.pid} is working on {store.uri}", hint=f"stop it first (kill {claim.host.pid})"
                )
        keys = [s.key for p in plan.partitions for s in logs[p.index].shards if s.key]
    return [MANIFEST_KEY, *_indexes(store), *keys, *_bookkeeping(store)]


def start_over(store: ObjectStore) -> int:
    """Delete the dataset at the destination; returns how many objects went."""
    keys = made_here(store)
    for key in keys:
        store.delete(key)
    if store.local_root is not None:
        shutil.rmtree(store.local_root / "_bridge", ignore_errors=True)
    return len(keys)


def _indexes(store: ObjectStore) -> list[str]:
    data = store.get(MANIFEST_KEY)
    names = list(Manifest.model_validate_json(data).indexes) if data else []
    # a run that died between the indexes and the manifest left them unlisted
    return sorted({*names, "shards.txt", "index.json"})


def _bookkeeping(store: ObjectStore) -> Iterator[str]:
    """Everything below `_bridge/`, the identity last: until it goes, the destination still says whose it is."""
    yield from (o.key for o in store.list("_bridge/") if o.key != planning.IDENTITY_KEY)
    yield planning.IDENTITY_KEY
