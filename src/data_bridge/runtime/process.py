"""How a process of ours is set up for work on batches."""

import atexit
import ctypes
import gc
import os
import sys

KEPT_BYTES = 64 << 20
"""Freed memory that a process keeps for itself."""
LARGEST_KEPT_BYTES = 32 << 20
"""Larger blocks go back to the system at once: glibc allows no more."""
COLLECT_AFTER = 100_000
"""New containers between two looks for cycles; Python's own number is 700."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


_ours: list[bool] = []


def begin_a_run() -> None:
    """Set up a process that is a run and nothing else, before it imports numpy: few collections, no threads of numpy's, and
    children that may be copies of it."""
    collect_rarely()
    one_blas_thread()
    own_process()


def own_process() -> None:
    """Say that this process is a run and nothing else, so that its children may be copies of it.

    Somebody else's process may hold what no copy must touch: connections, a GPU, a hundred GB.
    """
    _ours.append(True)


def process_is_ours() -> bool:
    """Whether `own_process` was called."""
    return bool(_ours)


def keep_freed_memory() -> None:
    """Have the allocator give freed memory out again instead of to the system.

    Batches of the same megabytes come and go thousands of times, and glibc would return each and fault in fresh pages
    for the next: a sixth of the CPU time on text. Other allocators are left alone.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


def one_blas_thread() -> None:
    """Keep numpy from starting a thread per core in this process and its children, unless the user has chosen.

    Slots are one per core already, and nobody multiplies matrices here. Must come before numpy is imported.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def no_tokenizer_threads() -> None:
    """Keep the tokenizers library from starting a thread per core, unless the user has chosen: slots share the cores."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def collect_rarely() -> None:
    """Have Python look for cycles of dead objects a hundred times less often, and not once more at its end.

    Modules make tens of thousands of objects that live as long as the process, and batches of rows as many that hold
    no cycle: looking through them again and again was a quarter of the CPU time of a small run.
    """
    gc.set_threshold(COLLECT_AFTER)
    atexit.register(gc.freeze)
