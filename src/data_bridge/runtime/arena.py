"""Memory shared with child processes: values travel through it as pickles, and large buffers in them are not copied out.

It is one anonymous file that every process maps: nothing has a name, so nothing is left behind by a kill.
"""

import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any, TypeAlias

import numpy as np

KEPT_BYTES = 4 << 20
"""What a box may keep of its memory while nobody uses it: fresh pages cost more than kept ones."""
_ALIGNMENT = 64  # what Arrow and numpy like

Spans: TypeAlias = tuple[tuple[int, int], ...]
"""Where a value lies in a box: its pickle, then its buffers, as (start, end)."""


class Arena:
    """Boxes of equal size. Only touched pages take memory, so a box may be far larger than what it usually holds.

    The process that made the arena alone gives out boxes; it sends one to a child together with a value in it.
    """

    def __init__(self, boxes: int, box_bytes: int, fd: int | None = None) -> None:
        self._boxes = boxes
        self._box_bytes = box_bytes
        self._fd = _anonymous_file(boxes * box_bytes) if fd is None else fd
        self._map = mmap.mmap(self._fd, boxes * box_bytes)
        self._free = list(range(boxes))

    def take(self) -> int | None:
        """A box that nobody uses; None when there is none."""
        return self._free.pop() if self._free else None

    def give_back(self, box: int) -> None:
        """The box may be used for something else."""
        if hasattr(mmap, "MADV_REMOVE") and self._box_bytes > KEPT_BYTES:
            # pages behind what is kept go back to the system; this costs little where there are none
            start = box * self._box_bytes + KEPT_BYTES
            self._map.madvise(mmap.MADV_REMOVE, start, self._box_bytes - KEPT_BYTES)
        self._free.append(box)

    def put(self, box: int, value: object, at: int = 0) -> Spans | None:
        """Write a value into a box behind `at`; None when it does not fit. Raises what pickling it raises."""
        target = _Writer(self._view(box), _aligned(at))
        buffers: list[pickle.PickleBuffer] = []
        try:
            pickle.Pickler(target, 5, buffer_callback=buffers.append).dump(value)
            spans = [(_aligned(at), target.at)]
            for buffer in buffers:
                raw = buffer.raw()
                target.at = _aligned(target.at)
                target.write(raw)
                spans.append((target.at - raw.nbytes, target.at))
        except _FullError:
            return None
        return tuple(spans)

    def get(self, box: int, spans: Spans) -> Any:
        """The value. Its buffers are views of the box: it must be gone before the box is used again."""
        return _loaded(self._view(box), spans)

    def lease(self, box: int, spans: Spans, gone: Callable[[int], None]) -> Any:
        """The value; `gone(box)` is called when no view of the box is left in this process."""
        owner = np.frombuffer(self._map, np.uint8, self._box_bytes, box * self._box_bytes)
        weakref.finalize(owner, gone, box).atexit = False
        return _loaded(owner.data, spans)

    def close(self) -> None:
        """No further process can be given the arena; its memory goes when its last view does."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _view(self, box: int) -> memoryview:
        return memoryview(self._map)[box * self._box_bytes : (box + 1) * self._box_bytes]

    def __reduce__(self) -> tuple[Any, ...]:
        """How a child that is being spawned gets at it."""
        return _opened, (self._boxes, self._box_bytes, reduction.DupFd(self._fd))


def _opened(boxes: int, box_bytes: int, handle: Any) -> Arena:
    return Arena(boxes, box_bytes, handle.detach())


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("data-bridge", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _loaded(view: memoryview, spans: Spans) -> Any:
    parts = [view[start:end] for start, end in spans]
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - written by ourselves or our child


class _FullError(Exception):
    """The value is larger than the box."""


class _Writer:
    """A file as the pickler wants it, in a box: large bytes are copied only once."""

    def __init__(self, view: memoryview, at: int) -> None:
        self._view = view
        self.at = at

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.at + size > len(self._view):
            raise _FullError
        self._view[self.at : self.at + size] = data
        self.at += size
        return size
