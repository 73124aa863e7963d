"""Local files that a path, glob or folder stands for."""
# names are strings here as in plans: a Path is neither needed nor cheap for each of a million files
# ruff: noqa: PTH100, PTH111, PTH112, PTH116, PTH118, PTH208

import os
import re
import stat
from collections.abc import Iterator
from urllib.parse import unquote

from data_bridge.errors import ConfigError
from data_bridge.io.locations import braces, glob_pattern, is_glob, is_marked, missing_names, shown


def local_path(uri: str) -> str:
    """Absolute path of a bare path or `file://` URI, whether or not it exists.

    A `file://` URI is first taken as it is written and, if nothing is there, with its percent escapes undone.
    """
    if not uri.lower().startswith("file://"):
        return os.path.abspath(os.path.expanduser(uri) if uri.startswith("~") and not os.path.lexists(uri) else uri)
    path = re.sub(r"^file://(localhost(?=/))?", "", uri, flags=re.IGNORECASE)
    if not path.startswith("/"):
        raise ConfigError(
            f"{shown(uri)} names a host or a relative path", hint="write file:///absolute/path or a bare path"
        )
    return os.path.abspath(path if os.path.lexists(path) or "%" not in path else unquote(path))


def local_files(uri: str) -> list[str]:
    """Absolute paths of the files one URI stands for.

    A name that exists is taken literally, whatever characters are in it; then braces are written out, then globs.
    """
    whole = local_path(uri)
    if os.path.lexists(whole):
        return _file_or_folder(whole, uri)
    found: list[str] = []
    missing: list[str] = []
    for name in braces(uri):
        path = local_path(name)
        if os.path.lexists(path):
            found.extend(_file_or_folder(path, uri))
        elif is_glob(path):
            matches = sorted(glob_local(path), key=os.fsencode)
            found.extend(matches)
            missing.extend([] if matches else [name])
        else:
            missing.append(name)
    if missing:
        raise missing_names(uri, missing)
    return found


def _file_or_folder(path: str, uri: str) -> list[str]:
    if _kind(path) == "folder":
        files = sorted(_walk(path), key=os.fsencode)
        if not files:
            raise ConfigError(
                f"{uri}: no files below this folder",
                hint="names starting with `.` or `_` are left out; a glob can name them",
            )
        return files
    if uri.endswith("/"):
        raise ConfigError(f"{uri} is a file, not a folder", hint="leave out the last `/`")
    return [path]


def _kind(path: str) -> str:
    """`file` or `folder`. Raises ConfigError for anything that cannot be read as one of them."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="mend the link or permissions") from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise ConfigError(
            f"{path} is neither a file nor a folder", hint="name plain files; pipes and devices have no size"
        )
    return "file"


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be listed: {error.strerror}", hint="check the permissions") from error


def _walk(folder: str, wanted: re.Pattern[str] | None = None) -> Iterator[str]:
    """Every file below a folder, links followed: those matching a glob relative to it, or all but the marked ones.

    A folder reached twice is an error, for its files would count twice.
    """
    seen: dict[tuple[int, int], str] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        status = os.stat(here)
        twin = seen.setdefault((status.st_dev, status.st_ino), here)
        if twin != here:
            raise ConfigError(
                f"{folder}: {here} and {twin} are the same folder, so its files would be read twice",
                hint="remove the link, or name the folders to read in a list",
            )
        for name in _entries(here):
            path = os.path.join(here, name)
            if name.startswith(".") if wanted else is_marked(name):
                continue
            if os.path.isdir(path):
                waiting.append(path)
            elif wanted is None or wanted.fullmatch(os.path.relpath(path, folder)):
                _kind(path)
                yield path


def glob_local(pattern: str) -> Iterator[str]:
    """Files matching an absolute glob. `**` is any number of folders; a wildcard matches no leading dot."""
    parts = pattern.strip("/").split("/")
    return _match_below("/", parts)


def _match_below(folder: str, parts: list[str]) -> Iterator[str]:
    fixed = 0
    while fixed < len(parts) and not is_glob(parts[fixed]):
        fixed += 1
    folder = os.path.join(folder, *parts[:fixed])
    parts = parts[fixed:]
    if not parts:
        if os.path.lexists(folder) and _kind(folder) == "file":
            yield folder
        return
    if not os.path.isdir(folder):
        return
    if parts[0] == "**":
        yield from _walk(folder, glob_pattern("/".join(parts)))
        return
    component = glob_pattern(parts[0])
    for name in _entries(folder):
        path = os.path.join(folder, name)
        if not component.fullmatch(name):
            continue
        if len(parts) > 1:
            if os.path.isdir(path):
                yield from _match_below(path, parts[1:])
        elif _kind(path) == "file":
            yield path
