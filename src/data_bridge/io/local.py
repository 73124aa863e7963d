"""Local files: their identity, and their bytes as long as they are the recorded ones."""
# names are strings here as in plans: a Path is neither needed nor cheap for each of a million files
# ruff: noqa: PTH116, PTH123

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_bridge.errors import ConfigError, SourceError
from data_bridge.model.source import SourceFile
from data_bridge.utils import files

TAIL_BYTES = 64 << 10
READ_BYTES = 512 << 10
"""Bytes of one read: the allocator gives blocks of this size out again, larger ones are new memory each time."""
HASHED_BYTES = 64 << 20
"""A source of local files is hashed whole up to this many bytes together."""


def look(path: str) -> SourceFile | None:
    """Size and modification time, None when there is no such file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check the permissions") from error
    return SourceFile(uri=path, size=status.st_size, mtime_ns=status.st_mtime_ns)


def check_usable(path: str) -> None:
    """Raises ConfigError for a file that may not be read, or whose name no plan could hold."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path!r}: the name is not valid UTF-8", hint="rename the file") from error
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path} may not be read", hint="check the permissions of the file")


def sha256_of(path: str) -> str:
    """Hex digest of the whole file. Raises SourceError when it cannot be read."""
    try:
        return files.sha256_of(Path(path))
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror}", hint="restore the file or its permissions"
        ) from error


def open_source(path: str, buffering: int = -1) -> BinaryIO:
    try:
        return open(path, "rb", buffering=buffering)
    except OSError as error:
        raise SourceError(
            f"{path} cannot be opened: {error.strerror}", hint="restore the file or its permissions"
        ) from error


def blocks(path: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes [start, end) in blocks of READ_BYTES. Raises SourceError when there are fewer, or they change meanwhile."""
    with open_source(path, buffering=0) as stream:
        before = os.fstat(stream.fileno())
        stream.seek(start)
        at = start
        while at < end:
            try:
                block = stream.read(min(READ_BYTES, end - at))
            except OSError as error:
                raise SourceError(
                    f"{path} cannot be read at byte {at}: {error.strerror}", hint="check the disk"
                ) from error
            if not block:
                raise SourceError(
                    f"{path} ends at byte {at}, it had at least {end} bytes",
                    hint="restore the file, or start over with --fresh",
                )
            at += len(block)
            yield block
        after = os.fstat(stream.fileno())
    # appending leaves the bytes read alone; any other write may not have
    if after.st_mtime_ns != before.st_mtime_ns and after.st_size <= before.st_size:
        raise SourceError(
            f"{path} changed while being read", hint="leave source files alone during a run; a rerun resumes"
        )
