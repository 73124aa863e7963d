"""Many objects deleted."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from data_bridge.model.store import ObjectStore

AT_ONCE = 16
SOME = 1000
"""As many keys wait for their turn in memory."""


def delete_all(store: ObjectStore, keys: Sequence[str]) -> None:
    """Delete the objects in any order, in a bucket several at once; no error for those that are absent.

    Not with S3's DeleteObjects: some stores lack it, others refuse the checksum that clients send with it.
    """
    if store.local_root is not None or len(keys) < 2:
        for key in keys:
            store.delete(key)
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="delete") as pool:
        for first in range(0, len(keys), SOME):
            list(pool.map(store.delete, keys[first : first + SOME]))
