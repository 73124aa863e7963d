"""Killing a run with SIGKILL at an exact point: before or after the k-th operation on its store.

Every commit point is one of those operations (identity, plan, claim, upload, failures file, record, index, manifest),
so walking through k walks through all of them. A fuse file makes sure that only one process dies, once.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.errors import BridgeError
from data_bridge.events import Event, SamplesPacked, ignore
from data_bridge.model.report import RunReport
from data_bridge.model.store import ObjectInfo, ObjectStore
from data_bridge.storage import open_store

MUTATIONS = ("put_file", "put_bytes", "put_if_absent", "delete")


@dataclass(frozen=True)
class Shot:
    """Die at the `number`-th store mutation of a process (from 0), before or after it takes effect."""

    number: int
    when: Literal["before", "after"]
    fuse: str
    group: bool = True
    """Kill the whole process group, else only the process that got there."""
    in_slot: bool = False
    """Only a worker process may fire, not the driver."""

    def fire(self) -> None:
        try:
            os.close(os.open(self.fuse, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.group:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class ShootingStore:
    """Passes everything on to a real store; counts mutations and dies when told."""

    def __init__(self, inner: ObjectStore, shot: Shot | None) -> None:
        self._inner = inner
        self._shot = shot
        self.count = 0

    @property
    def uri(self) -> str:
        return self._inner.uri

    @property
    def local_root(self) -> Path | None:
        return self._inner.local_root

    @property
    def conditional(self) -> bool:
        return self._inner.conditional

    def probe(self, scratch: str) -> None:
        self._inner.probe(scratch)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        self._mutate("put_file", key, path, sha256=sha256)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._mutate("put_bytes", key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return bool(self._mutate("put_if_absent", key, data))

    def delete(self, key: str) -> None:
        self._mutate("delete", key)

    def get(self, key: str) -> bytes | None:
        return self._inner.get(key)

    def read(self, key: str) -> Iterator[bytes]:
        return self._inner.read(key)

    def head(self, key: str) -> ObjectInfo | None:
        return self._inner.head(key)

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, without=without)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return self._inner.list_keys(prefix)

    def presign(self, key: str, expires_s: int) -> str:
        return self._inner.presign(key, expires_s)

    def __getstate__(self) -> dict[str, Any]:
        # every process counts for itself
        return {**self.__dict__, "count": 0}

    def _mutate(self, name: str, *args: Any, **more: Any) -> Any:
        number, self.count = self.count, self.count + 1
        self._aim(number, "before")
        result = getattr(self._inner, name)(*args, **more)
        self._aim(number, "after")
        return result

    def _aim(self, number: int, when: str) -> None:
        shot = self._shot
        if shot is None or (shot.in_slot and multiprocessing.parent_process() is None):
            return
        if shot.number == number and shot.when == when:
            shot.fire()


@dataclass(frozen=True)
class ShootingDestination:
    """Opens the destination with a gun at its head, in every process of the run."""

    uri: str
    shot: Shot | None = None

    def __call__(self, settings: Settings) -> ObjectStore:
        return ShootingStore(open_store(self.uri, settings), self.shot)


@dataclass
class DyingObserver:
    """Kills the whole group when the n-th batch was packed: in the middle of a shard."""

    number: int
    fuse: str

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, SamplesPacked):
            if self.number == 0:
                Shot(0, "before", self.fuse).fire()
            self.number -= 1


def run_in_child(
    settings: Settings,
    destination: ShootingDestination,
    *,
    workers: int,
    batch: int | None = None,
    run: Callable[..., RunReport] = run_pipeline,
) -> int:
    """Run in a forked child with a process group of its own; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            observer = (
                ignore if batch is None or destination.shot is None else DyingObserver(batch, destination.shot.fuse)
            )
            code = run(settings, observer=observer, workers=workers, open_destination=destination).exit_code
        except BridgeError as error:
            os.write(2, f"{error}\n".encode())
            code = error.exit_code
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def tree(root: Path) -> dict[str, bytes]:
    """Everything of a dataset that must be the same however often the run died."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "_bridge"
    }
    if "manifest.json" in found:
        found["manifest.json"] = manifest_essence(found["manifest.json"])
    return found


def manifest_essence(manifest: bytes) -> bytes:
    """What of a manifest must be the same, however the run went."""
    import orjson

    values = orjson.loads(manifest)
    for key in ("run", "created"):
        values.pop(key)
    values["provenance"].pop("versions")
    values["provenance"]["config"].pop("output_uri", None)
    values["failures"] = len(values["failures"])
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
