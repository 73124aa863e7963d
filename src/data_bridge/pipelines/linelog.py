"""Lines about the samples of one shard range, spooled to a file so that any number of them fits in memory."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from data_bridge.utils.files import disk_full


class LineLog:
    """Lines in source order, and sums of what they say. `mark` remembers a point; `split` moves what came after it to another
    log."""

    what = "writing down what became of samples"

    def __init__(self, new_path: Callable[[], Path]) -> None:
        self._new_path = new_path
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self.sums: Counter[Any] = Counter()
        self._marked: tuple[int, Counter[Any]] = (0, Counter())

    def write(self, line: bytes) -> None:
        """Append a line."""
        with disk_full(self.what):
            self._open().write(line + b"\n")

    def mark(self) -> None:
        """Everything so far stays here when the log is split."""
        self._marked = (self._file.tell() if self._file else 0, self.sums.copy())

    def split(self) -> Self:
        """Move what came after the mark to a new log."""
        rest = self.another()
        position, before = self._marked
        if self._file is not None and self._file.tell() > position:
            self._file.seek(position)
            for line in self._file:
                rest._open().write(line)  # noqa: SLF001 - of its own kind
            self._file.truncate(position)
            self._file.seek(position)
        rest.sums = self.sums - before
        self.sums = before
        return rest

    def another(self) -> Self:
        """An empty one of its kind."""
        return type(self)(self._new_path)

    def close(self) -> Path | None:
        """The finished file, or None when there is no line."""
        if self._file is None or self._path is None:
            return None
        empty = self._file.tell() == 0
        with disk_full(self.what):
            self._file.close()
        self._file = None
        if empty:
            self._path.unlink()
            return None
        return self._path

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk closing fails as well, and nobody needs the file
                self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._path = self._new_path()
            self._file = self._path.open("x+b")
        return self._file
