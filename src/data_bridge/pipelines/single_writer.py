"""Stores without put-if-absent: one run at a time, held by a lock object instead of by the ledger."""

from collections.abc import Generator
from contextlib import contextmanager, suppress

from data_bridge.errors import BridgeError, BusyError
from data_bridge.events import Notice, Observer
from data_bridge.model.shards import Claim
from data_bridge.model.store import ObjectStore
from data_bridge.utils import claims
from data_bridge.utils.progress import dump

WRITER_KEY = "_bridge/writer.json"


@contextmanager
def single_writer(
    store: ObjectStore, watch: claims.Watch, driver: str, observer: Observer, *, steal: bool
) -> Generator[None]:
    """Hold the destination alone where its store cannot tell two writers apart; nothing to do where it can.

    Raises BusyError when another run holds it. The lock cannot be atomic here, and the observer is told so.
    """
    if store.conditional:
        yield
        return
    observer(
        Notice(
            f"{store.uri} does not support put-if-absent: only one run may write here, and two that start in the same "
            "moment are not told apart"
        )
    )
    there = store.get(WRITER_KEY)
    if there is not None and not steal:
        _refuse_if_alive(store, watch, Claim.model_validate_json(there))
    mine = dump(Claim(token=driver, host=claims.this_host(), driver=driver))
    store.put_bytes(WRITER_KEY, mine)
    if store.get(WRITER_KEY) != mine:
        raise BusyError(f"another run has just started on {store.uri}", hint="let it finish, then run again")
    claims.opened(driver)
    try:
        yield
    finally:
        claims.closed(driver)
        with suppress(BridgeError):  # what ended the run matters more, and a dead holder is seen as dead
            if store.get(WRITER_KEY) == mine:  # a run that stole the destination holds it now
                store.delete(WRITER_KEY)


def _refuse_if_alive(store: ObjectStore, watch: claims.Watch, holder: Claim) -> None:
    state = claims.liveness(holder)
    if state == "gone" or (state == "elsewhere" and watch.is_dead(holder.driver)):
        return
    raise BusyError(
        f"{store.uri} is being written by process {holder.host.pid} on {holder.host.name}",
        hint="wait for it or stop it, then run again; --steal takes over from a run that only seems alive",
    )
