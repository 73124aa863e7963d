"""Child processes that are born without side effects and do not outlive their parent."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from data_bridge.runtime.process import process_is_ours

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal or a service manager sends to every process of a group, and only the first of them handles."""

KILLED_S = 5.0
"""How long a killed process may take to be gone; one stuck in the kernel is left behind."""

ORPHANED = 113
"""Exit code of a child whose parent is gone. Nobody is left to read it; it helps in a process trace."""

PR_SET_PDEATHSIG = 1

HARMLESS = frozenset({"jemalloc_bg_thd"})
"""Threads of libraries that see to it themselves that a fork without them works."""

_starting = threading.Lock()


class Closable(Protocol):
    """An end of a pipe or socket."""

    def close(self) -> None: ...


def spawn(
    target: Callable[..., None],
    args: tuple[Any, ...],
    *,
    name: str,
    needs_main: bool,
    mine: Sequence[Closable] = (),
) -> BaseProcess:
    """Start a process that calls `target(*args)` once it has settled in.

    It is a copy of this process, with all its imports, where this process is ours and has no other thread; else a new
    interpreter. That imports the main script again, which re-runs one without `if __name__ == "__main__"` and costs
    start-up time otherwise: `needs_main` says that the work was defined in the script. Start it from a thread
    that lives as long as this process: on Linux the kernel takes the end of that thread for the parent's.
    `mine` are the ends of pipes that must not stay open in a copy of this process.
    """
    what = (os.getpid(), target, args)
    if process_is_ours() and alone():
        process: BaseProcess = multiprocessing.get_context("fork").Process(
            target=_forked, args=(*what, mine), name=name
        )
        with deaf():
            process.start()
        return process
    process = multiprocessing.get_context("spawn").Process(target=_settled, args=what, name=name, daemon=False)
    with _quietly(needs_main=needs_main):
        process.start()
    return process


def alone() -> bool:
    """Whether this process has no other thread that a fork would cut off in the middle of something."""
    if sys.platform != "linux":
        return False
    threads = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != threading.get_native_id()]
    return all(_is_harmless(task) for task in threads)


def _is_harmless(task: Path) -> bool:
    try:
        return (task / "comm").read_text().strip() in HARMLESS
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return True


def _forked(parent: int, target: Callable[..., None], args: tuple[Any, ...], theirs: Sequence[Closable]) -> None:
    # what was here before the fork stays as it is: looking through it, or ending it, would copy its memory
    gc.freeze()
    for held in theirs:
        held.close()
    _settled(parent, target, args)


def _settled(parent: int, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    settle_in(parent)
    target(*args)


def settle_in(parent: int) -> None:
    """First thing in a child: deaf to SIGINT and SIGTERM, and killed when its parent dies.

    SIGINT and SIGTERM were blocked on entry; the first process of the group alone decides what they mean.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not SIG_IGN, which programs started by the work would inherit and then could not be terminated
    signal.signal(signal.SIGTERM, lambda _signum, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if sys.platform == "linux":
        # works even while the interpreter is stuck
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(ORPHANED)


@contextmanager
def _quietly(*, needs_main: bool) -> Generator[None]:
    """Start a process that meets no signal before it can handle it, and runs the user's script only if it must."""
    # the tracker of `multiprocessing` changes the signal mask when it is started
    resource_tracker.ensure_running()
    with _starting, deaf():
        main = vars(sys.modules["__main__"])
        hidden: dict[str, object] = (
            {} if needs_main else {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        )
        main.setdefault("__spec__", None)
        try:
            yield
        finally:
            main.update(hidden)


@contextmanager
def deaf() -> Generator[None]:
    """Let SIGINT and SIGTERM wait, also in a child that is started meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
