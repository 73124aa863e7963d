"""Places of one measurement that are always taken away again: a folder on this machine, keys at the destination."""

import re
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from data_bridge.config import Settings
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.staging import SCRATCH, staging_base
from data_bridge.storage.deleting import delete_all
from data_bridge.utils.files import disk_full

FORGOTTEN_S = 6 * 3600.0
"""What a measurement that was killed left behind is taken away by the next one after this time; none takes so long."""
_NAME = re.compile(r"bench-(?P<began>[0-9a-f]{8})-[0-9a-f]{8}")


class Scratch:
    """`folder` on the disk where the run would stage its shards; keys under `prefix` at the destination."""

    def __init__(self, settings: Settings, store: ObjectStore, *, use_store: bool) -> None:
        self.name = f"bench-{int(time.time()):08x}-{secrets.token_hex(4)}"
        self.prefix = f"_bridge/{self.name}"
        self._store = store if use_store else None
        root = store.local_root if use_store else None
        self._base = root / "_bridge" if root is not None else staging_base(settings.pipeline)
        self.folder = self._base / self.name

    def clean(self) -> None:
        """Take away the folder and the keys, and those of measurements that were killed long ago."""
        for folder in [self.folder, *(f for f in self._base.glob("bench-*") if _forgotten(f.name))]:
            shutil.rmtree(folder, ignore_errors=True)
        if self._store is not None and self._store.local_root is None:
            delete_all(self._store, [key for key in self._store.list_keys(SCRATCH) if self._ours(key)])

    def _ours(self, key: str) -> bool:
        name = key.split("/")[1]
        return name == self.name or _forgotten(name)


def _forgotten(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and time.time() - int(match["began"], 16) > FORGOTTEN_S


@contextmanager
def scratch(settings: Settings, store: ObjectStore, *, use_store: bool) -> Generator[Scratch]:
    """A scratch for the length of the block; folders that were made for it go with it."""
    made = Scratch(settings, store, use_store=use_store)
    missing = [f for f in (made.folder, *made.folder.parents) if not f.exists()]
    try:
        with disk_full(f"making {made.folder}"):
            made.folder.mkdir(parents=True)
        yield made
    finally:
        made.clean()
        for folder in missing[1:]:
            with suppress(OSError):  # somebody else has put something there meanwhile
                folder.rmdir()
