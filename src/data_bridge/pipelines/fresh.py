"""`--fresh`: take away what an earlier run made at a destination, in an order that never leaves a lie behind."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby

from data_bridge.errors import BusyError, IntegrityError
from data_bridge.model.manifest import MANIFEST_KEY
from data_bridge.model.plan import Plan
from data_bridge.model.shards import Claim
from data_bridge.model.store import BOOKKEEPING, ObjectStore
from data_bridge.pipelines import planning
from data_bridge.pipelines.single_writer import WRITER_KEY
from data_bridge.pipelines.staging import PROBES
from data_bridge.pipelines.writers import WRITERS, writer_class
from data_bridge.storage.deleting import delete_all
from data_bridge.utils import claims
from data_bridge.utils.progress import Ledger, dump, parsed

INDEXES = ("shards.txt", "index.json")


def made_here(store: ObjectStore) -> list[str]:
    """Every key that `start_over` would delete, in order.

    Shards are known by their names: an attempt that died may have left some that no record names, and the root held
    nothing when the dataset was begun. Raises ConflictError for a destination without a dataset of ours in it.
    """
    return [key for step in _steps(store) for key in step]


def _steps(store: ObjectStore) -> list[list[str]]:
    """Keys that may go in any order, step by step: manifest; indexes and shards; records, their repetitions first; the
    plan, newest first; the identity.

    So whatever is left after a crash is a valid beginning, or refused: records without their plan would pass for those of
    another, a plan without its first generation for a whole one.
    """
    if not planning.is_dataset(store):
        return []
    keys = [*store.list_keys()]
    patterns = [writer_class(name).shard_names for name in WRITERS]
    ours = [key for key in keys if _is_ours(key, patterns)]
    below = [key for key in keys if key.startswith(BOOKKEEPING) and key != planning.IDENTITY_KEY]
    folders = [list(found) for _, found in groupby(sorted(below, reverse=True), key=lambda key: key.split("/")[:3])]
    records = [found for found in folders if not planning.is_plan(found[0])]
    plan = [[key] for found in folders if planning.is_plan(found[0]) for key in found]
    manifest = [MANIFEST_KEY] if MANIFEST_KEY in keys else []
    return [manifest, ours, *records, *plan, [planning.IDENTITY_KEY]]


def _is_ours(key: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Whether a key is that of a shard or an index, at the root or in the folder of one of several writers."""
    folder, _, name = key.rpartition("/")
    return "/" not in folder and folder != "_bridge" and (name in INDEXES or any(p.fullmatch(name) for p in patterns))


def start_over(store: ObjectStore, *, steal: bool = False) -> int:
    """Delete the dataset at the destination; returns how many objects went.

    Raises BusyError, with nothing deleted, while a run that lives works on it (a minute is waited to see whether one
    on another machine does) and `steal` is not given.
    """
    steps = _steps(store)
    if not steal:
        _refuse_live_runs(store)
    for keys in steps:
        delete_all(store, keys)
    if store.local_root is not None:
        shutil.rmtree(store.local_root / "_bridge", ignore_errors=True)
    return sum(map(len, steps))


def begin_anew(store: ObjectStore, *, steal: bool = False) -> None:
    """Delete the dataset, as `start_over` does, and leave a new, empty one: what else is there is then not in its way."""
    store.probe(PROBES)  # which also learns whether it knows put-if-absent
    start_over(store, steal=steal)
    store.put_if_absent(planning.IDENTITY_KEY, dump(planning.Identity(run=claims.new_token())))


def _refuse_live_runs(store: ObjectStore) -> None:
    with suppress(IntegrityError):  # a damaged ledger is one of the reasons to start over
        identity = planning.read_identity(store)
        plan = planning.read_plan(store, identity.run) if identity else None
        if plan is not None:
            _refuse_live_claims(store, plan)


def _refuse_live_claims(store: ObjectStore, plan: Plan) -> None:
    watch = claims.Watch(store, plan.run)
    logs = Ledger(store, plan.run).load_all(plan.partitions)
    held = {p.index: claim for p in plan.partitions if (claim := logs[p.index].claim) is not None}
    writer = store.get(WRITER_KEY)
    if writer is not None and claims.liveness(holder := parsed(Claim, writer, WRITER_KEY)) == "alive here":
        raise BusyError(f"process {holder.host.pid} is working on {store.uri}", hint="stop it first")
    far = {claim.driver for claim in held.values() if claims.liveness(claim) == "elsewhere"}
    for driver in far:
        watch.look(driver)
    dead = frozenset(driver for driver in far if watch.is_dead(driver))
    for index, claim in held.items():
        claims.refuse_if_held(store, plan.run, index, claim, dead)
