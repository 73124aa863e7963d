"""A user's own function or class, named in a config as `package.module:name` or `path/to/file.py:name`."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data_bridge.errors import ConfigError

_LOADING = threading.RLock()


@lru_cache(maxsize=64)
def load(call: str) -> Callable[..., Any]:
    """The function or class. Raises ConfigError that says what is missing."""
    where, _, name = call.rpartition(":")
    if not where or not name:
        raise ConfigError(
            f"{call!r} names no function or class", hint="write package.module:name, or path/to/file.py:name"
        )
    with _LOADING:  # another thread must not find the module half made
        module = _from_file(Path(where)) if where.endswith(".py") else _from_package(where, call)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{where} has no function or class {name!r}", hint="correct the name in the config")
    function: Callable[..., Any] = found
    return function


def check_arguments(call: str, arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError where a function of a row would refuse these keyword arguments."""
    try:
        signature = inspect.signature(load(call))
    except ValueError:  # one written in C may not say what it takes
        return
    try:
        signature.bind_partial({}, **arguments)
    except TypeError as error:
        raise ConfigError(f"arguments: {call} takes a row and {_taken(signature)}: {error}") from None


def _taken(signature: inspect.Signature) -> str:
    return ", ".join(str(one) for one in list(signature.parameters.values())[1:]) or "nothing else"


def code_version(call: str) -> str:
    """A digest of the file the function is written in: a run whose code has changed is not continued in silence."""
    written: Any = inspect.unwrap(load(call))
    while isinstance(written, functools.partial):
        written = inspect.unwrap(written.func)
    if not inspect.isroutine(written) and not inspect.isclass(written):
        written = type(written)
    try:
        file = inspect.getsourcefile(written)
    except TypeError:  # it is written in C
        file = None
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}" if file else "built in"


def _from_file(path: Path) -> ModuleType:
    full = path.expanduser().resolve()
    name = f"_data_bridge_{hashlib.sha256(str(full).encode()).hexdigest()[:12]}_{full.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full) if full.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"there is no Python file {path}", hint="the path is relative to where the command is run")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _from_package(name: str, call: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: modules beside the config are found
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{call}: the module {name} cannot be imported: {type(error).__name__}: {error}",
            hint="install its package, run the command where the module is, or name its file",
        ) from error
