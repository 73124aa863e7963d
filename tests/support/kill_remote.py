"""Killing runs whose destination is a bucket."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.kill import ShootingDestination, ShootingStore, Shot, manifest_essence

from data_bridge.config import Settings
from data_bridge.model.store import ObjectStore
from data_bridge.storage.r2 import R2Client


class KnownStore(ShootingStore):
    """A store that need not be probed again before every run: probing waits for more than a second."""

    def probe(self, scratch: str) -> None:
        pass


class StoreShotInUploads(KnownStore):
    """Dies some milliseconds into the `shot.number`-th upload of a file, at the latest when it ends."""

    def __init__(self, inner: ObjectStore, shot: Shot, delay_s: float) -> None:
        super().__init__(inner, None)
        self._gun = shot
        self._delay_s = delay_s
        self._uploads = 0

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        number, self._uploads = self._uploads, self._uploads + 1
        if number != self._gun.number:
            super().put_file(key, path, sha256=sha256)
            return
        timer = threading.Timer(self._delay_s, self._gun.fire)
        timer.start()
        super().put_file(key, path, sha256=sha256)
        self._gun.fire()


@dataclass(frozen=True)
class Bucket(ShootingDestination):
    """Opens a place in a bucket in any process of a run, with a gun at its head; parts are as small as can be."""

    in_upload_s: float | None = None
    """Fire this long after the start of the upload whose number `shot` has, counting uploads alone."""

    def __call__(self, settings: Settings) -> KnownStore:
        name, _, prefix = self.uri.removeprefix("s3://").partition("/")
        client = R2Client(settings.s3, name, prefix, single_put_bytes=6 << 20, part_bytes=5 << 20)
        if self.shot is not None and self.in_upload_s is not None:
            return StoreShotInUploads(client, self.shot, self.in_upload_s)
        return KnownStore(client, self.shot)


def bucket_tree(store: ObjectStore) -> dict[str, bytes]:
    """Everything of a dataset that must be the same however often the run died."""
    found: dict[str, Any] = {
        item.key: b"".join(store.read(item.key)) for item in store.list() if not item.key.startswith("_bridge/")
    }
    if "manifest.json" in found:
        found["manifest.json"] = manifest_essence(found["manifest.json"])
    return found
