"""A folder as destination."""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from data_bridge.errors import BridgeError, ConfigError, IntegrityError, StoreError
from data_bridge.model.store import ObjectInfo
from data_bridge.storage.base import checked_key, checked_prefix
from data_bridge.utils.files import (
    NO_LINKS,
    Link,
    disk_full,
    is_partial,
    link_if_absent,
    make_folder,
    own_token,
    publish,
    replacing,
    uncache,
)

BLOCK_BYTES = 1 << 20
CACHED_BYTES = 1 << 30
"""Of the files put through one store, so much stays in the page cache for who reads it next. More would push out what others have
there, and on a virtual machine memory that was never touched costs several times the copy into it."""
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """An ObjectStore on a folder: every write is flushed, renamed into place and durable before it returns.

    Put-if-absent is a hard link. A filesystem without them gets a lock on the root and `conditional` False.
    Picklable; nothing is created before the first write. `link` stands in for the filesystem's own.
    """

    def __init__(self, root: Path, *, link: Link = os.link) -> None:
        self._root = root.absolute()
        self._link = link
        self._links = True
        self._written = 0

    @property
    def uri(self) -> str:
        return self._root.as_uri()

    @property
    def local_root(self) -> Path | None:
        return self._root

    @property
    def conditional(self) -> bool:
        return self._links

    def probe(self, scratch: str) -> None:
        # in no folder of its own: that could only be removed while another run makes its file there
        key = f"{scratch.rstrip('/')}-{secrets.token_hex(8)}"
        try:
            self.put_if_absent(key, b"first")
            found = self.get(key) == b"first" and [*self.list_keys(key)] == [key]
            if not found or self.put_if_absent(key, b"second"):
                raise StoreError(f"{self._root} does not give back what was written to it")
            self.delete(key)
        except StoreError as error:
            raise ConfigError(f"cannot use {self._root}: {error.message}", hint=error.hint) from error

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        target = self._path(key)
        with _guarded(f"put {target}"):
            size = path.stat().st_size
            _flush(path)
            make_folder(target.parent)
            try:
                publish(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(path, target, sha256)
                path.unlink()
            stored = target.stat().st_size
            self._written += stored
            if self._written > CACHED_BYTES:
                uncache(target)
        if stored != size:
            raise IntegrityError(f"{target} has {stored} bytes, {size} were written")

    def put_bytes(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with _guarded(f"put {target}"), replacing(target, own_token()) as file:
            file.write(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with _guarded(f"put {target}"):
            if self._links:
                try:
                    return link_if_absent(target, data, own_token(), link=self._link) or self.get(key) == data
                except OSError as error:
                    if error.errno not in NO_LINKS:
                        raise
                    self._links = False
            with self._locked():
                if target.exists():
                    return target.read_bytes() == data
                self.put_bytes(key, data)
                return True

    def get(self, key: str) -> bytes | None:
        with _guarded(f"read {key}"):
            try:
                return self._path(key).read_bytes()
            except ABSENT:
                return None

    def read(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with _guarded(f"read {path}"):
            file = path.open("rb")
        with file:
            while True:
                with _guarded(f"read {path}"):
                    block = file.read(BLOCK_BYTES)
                if not block:
                    return
                yield block

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with _guarded(f"look up {path}"):
            return ObjectInfo(key, path.stat().st_size) if path.is_file() else None

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        for folder, names in self._runs(_folder_of(prefix), prefix, without):
            yield from self._sized(folder, names)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        for folder, names in self._runs(_folder_of(prefix), prefix):
            yield from map(folder.__add__, names)

    def _runs(self, folder: str, prefix: str, without: str = "") -> Iterator[tuple[str, Sequence[str]]]:
        """Names of files, run by run of one folder, sorted as the whole keys sort: other folders come between them.

        A folder is what its keys begin with: empty, or with its slash.
        """
        # one guard for the folder: what raises at a `yield` is thrown to the reader, never in here
        with _guarded(f"list {self._root / folder}"), suppress(*ABSENT):
            with os.scandir(self._root / folder) as entries:
                found = sorted([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries])
            run: list[str] = []
            for name in found:
                key = folder + name
                if not name.endswith("/"):
                    if key.startswith(prefix) and not is_partial(name):
                        run.append(name)
                elif key != without and (key.startswith(prefix) or prefix.startswith(key)):
                    yield folder, run
                    yield from self._runs(key, prefix, without)
                    run = []
            yield folder, run

    def _sized(self, folder: str, names: Sequence[str]) -> Iterator[ObjectInfo]:
        """Files of a folder with their sizes, less those that are gone."""
        if not names:
            return
        place = self._root / folder
        with _guarded(f"list {place}"), suppress(*ABSENT):
            # looked up from the folder: from the root, each would cost the way down to it
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name in names:
                    with suppress(*ABSENT):
                        yield ObjectInfo(folder + name, os.stat(name, dir_fd=descriptor).st_size)
            finally:
                os.close(descriptor)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _guarded(f"delete {path}"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def presign(self, key: str, expires_s: int) -> str:  # noqa: ARG002 - a file does not expire
        return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Alone among the processes of this machine that write here."""
        make_folder(self._root)
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            # where even locks are missing the caller has been told to be the only writer
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _folder_of(prefix: str) -> str:
    """The deepest folder that has all keys of a prefix."""
    folder = checked_prefix(prefix).rpartition("/")[0]
    return f"{folder}/" if folder else ""


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path, sha256: str) -> None:
    """Copy to another filesystem, whole or not at all, checking the content on its way."""
    digest = hashlib.sha256()
    with source.open("rb") as file, replacing(target, own_token()) as copy:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
        if digest.hexdigest() != sha256:
            raise IntegrityError(f"{source} is not the file that was recorded: its SHA-256 differs")


@contextmanager
def _guarded(what: str) -> Generator[None]:
    """The boundary to the filesystem: its errors become StoreError or DiskFullError."""
    try:
        with disk_full(what):
            yield
    except BridgeError:
        raise
    except OSError as error:
        raise StoreError(
            f"{what}: {error.strerror or error}", hint="check the path, its permissions and the disk"
        ) from error
