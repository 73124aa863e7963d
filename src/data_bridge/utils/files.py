"""Local files that are whole or absent: written beside their place under a private name, flushed, then renamed."""

import errno
import hashlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data_bridge.errors import DiskFullError, FatalError
from data_bridge.utils import claims

PARTIAL_NAME = re.compile(r"\.(?P<name>.+)\.(?P<token>[0-9A-Za-z_-]+)\.partial")
ABANDONED_S = 3600.0
"""No file is written for so long: a partial one of this age was left by a process that died."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

Link = Callable[[Path, Path], None]


def partial_path(path: Path, token: str) -> Path:
    """Where `path` is written before it gets its name; `token` belongs to one attempt alone."""
    return path.with_name(f".{path.name}.{token}.partial")


def own_token() -> str:
    """A token that nobody else has, and that tells whether its process is gone."""
    return f"{claims.process_mark()}-{secrets.token_hex(8)}"


def is_partial(name: str) -> bool:
    """Whether a file name is one that `partial_path` gives."""
    return name.startswith(".") and PARTIAL_NAME.fullmatch(name) is not None


@contextmanager
def disk_full(what: str) -> Generator[None]:
    """Turn "no space left" and "quota exceeded" into DiskFullError; `what` says what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DiskFullError(
            f"no space left: {what}",
            hint="free some space, or move pipeline.staging_dir elsewhere, and run the same command again: finished shards are kept",
        ) from error


@contextmanager
def writing(what: Path) -> Generator[None]:
    """As `disk_full`, and whatever else the operating system refuses is a FatalError; both name the file."""
    try:
        with disk_full(f"writing {what}"):
            yield
    except OSError as error:
        raise FatalError(f"cannot write {what}: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they survive a power cut."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        fsync_folder(new.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network filesystems know no fsync of folders, and need none
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def open_exclusively(path: Path) -> BinaryIO:
    """A new file for writing; FileExistsError when another attempt has it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb")


def publish(partial: Path, path: Path) -> None:
    """Give a complete, flushed file its name, replacing what is there, and make the name durable."""
    with disk_full(f"renaming to {path}"):
        partial.replace(path)
        fsync_folder(path.parent)


@contextmanager
def replacing(path: Path, token: str) -> Generator[BinaryIO]:
    """A new binary file that takes the name `path` when the block ends well, and vanishes when it does not.

    Folders on the way are made. Raises DiskFullError where there is no space.
    """
    partial = partial_path(path, token)
    with disk_full(f"writing {path}"):
        make_folder(path.parent)
        file = open_exclusively(partial)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            publish(partial, path)
        except BaseException:
            with suppress(FileNotFoundError):
                partial.unlink()
            raise


def link_if_absent(path: Path, data: bytes, token: str, *, link: Link = os.link) -> bool:
    """Write `path` unless it exists, atomically among any number of writers; False = it existed.

    Raises OSError with an errno of `NO_LINKS` where the filesystem has no hard links, DiskFullError without space.
    """
    partial = partial_path(path, token)
    with disk_full(f"writing {path}"):
        make_folder(path.parent)
        file = open_exclusively(partial)
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return _linked(partial, path, link)
        finally:
            partial.unlink(missing_ok=True)


def _linked(partial: Path, path: Path, link: Link) -> bool:
    try:
        link(partial, path)
    except FileExistsError:
        # a network filesystem may have done it and lost the answer: two names then share the file
        return partial.stat().st_nlink > 1
    fsync_folder(path.parent)
    return True


def uncache(path: Path) -> None:
    """Give the memory that holds a flushed file's content back to the system, where the system has a way."""
    if sys.platform == "linux":
        with suppress(OSError), path.open("rb") as file:  # only advice: what it does not reach is as good
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partials(folder: Path) -> Iterator[Path]:
    """Partial files under a folder, at any depth."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if is_partial(name))


def sweep_partials(folder: Path, *, older_than_s: float = ABANDONED_S) -> list[Path]:
    """Remove the partial files under `folder` whose process is gone, or that nobody has touched for so long; returns what was
    removed."""
    newest_s = time.time() - older_than_s
    swept = []
    for path in partials(folder):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime <= newest_s or _is_left(path.name):
                path.unlink()
                swept.append(path)
    return sorted(swept)


def _is_left(name: str) -> bool:
    """Whether a partial file was of a process of this machine that is gone."""
    found = PARTIAL_NAME.fullmatch(name)
    return found is not None and claims.is_gone(found["token"].rpartition("-")[0])
