"""An ObjectStore in memory for tests of what stands above storage. It passes the same contract as the real ones."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from data_bridge.errors import IntegrityError, StoreError
from data_bridge.model.store import ObjectInfo
from data_bridge.storage.base import checked_key, checked_prefix

Hook = Callable[[str, str], None]


def nothing(operation: str, key: str) -> None:
    """The hook that does nothing."""


class MemoryStore:
    """Objects in a dictionary.

    `before(operation, key)` and `after(operation, key)` are called around every operation (by its method's name)
    and may raise: an error from `before` is a request that never arrived, one from `after` is a lost answer.
    `calls` lists every operation in order, `left_out` the folder each list left out.
    """

    def __init__(self, *, conditional: bool = True, before: Hook = nothing, after: Hook = nothing) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.left_out: list[str] = []
        self.before = before
        self.after = after
        self._conditional = conditional
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return "memory://store"

    @property
    def local_root(self) -> Path | None:
        return None

    @property
    def conditional(self) -> bool:
        return self._conditional

    def probe(self, scratch: str) -> None:
        self._enter("probe", checked_key(scratch.rstrip("/")))
        self.after("probe", scratch)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        self._enter("put_file", key)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"{path} is not the file that was recorded: its SHA-256 differs")
        with self._lock:
            self.objects[key] = data
        self.after("put_file", key)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._enter("put_bytes", key)
        with self._lock:
            self.objects[key] = bytes(data)
        self.after("put_bytes", key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._enter("put_if_absent", key)
        with self._lock:
            ours = self.objects.setdefault(key, bytes(data)) == data
        self.after("put_if_absent", key)
        return ours

    def get(self, key: str) -> bytes | None:
        self._enter("get", key)
        data = self.objects.get(key)
        self.after("get", key)
        return data

    def read(self, key: str) -> Iterator[bytes]:
        self._enter("read", key)
        if key not in self.objects:
            raise StoreError(f"read {key}: no such object")
        data = self.objects[key]
        for at in range(0, len(data), 1 << 20):
            yield data[at : at + (1 << 20)]
        self.after("read", key)

    def head(self, key: str) -> ObjectInfo | None:
        self._enter("head", key)
        data = self.objects.get(key)
        self.after("head", key)
        return None if data is None else ObjectInfo(key, len(data))

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        self.calls.append(("list", checked_prefix(prefix)))
        self.left_out.append(without)
        self.before("list", prefix)
        with self._lock:
            found = sorted((key, len(data)) for key, data in self.objects.items() if key.startswith(prefix))
        self.after("list", prefix)
        return iter([ObjectInfo(key, size) for key, size in found if not without or not key.startswith(without)])

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return (found.key for found in self.list(prefix))

    def delete(self, key: str) -> None:
        self._enter("delete", key)
        with self._lock:
            self.objects.pop(key, None)
        self.after("delete", key)

    def presign(self, key: str, expires_s: int) -> str:
        self._enter("presign", key)
        return f"memory://store/{key}?expires={expires_s}"

    def _enter(self, operation: str, key: str) -> None:
        self.calls.append((operation, checked_key(key)))
        self.before(operation, key)
