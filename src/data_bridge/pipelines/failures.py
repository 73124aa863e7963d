"""Failed samples of one shard range, spooled to a file so that any number of them fits in memory."""

import base64
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import orjson

from data_bridge.model.batch import RowFailure
from data_bridge.utils.files import disk_full


class FailureLog:
    """Failures in source order. `mark` remembers a point; `split` moves what came after it to another log."""

    def __init__(self, new_path: Callable[[], Path]) -> None:
        self._new_path = new_path
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self.by_stage: Counter[str] = Counter()
        self._marked = (0, Counter[str]())

    @property
    def count(self) -> int:
        return self.by_stage.total()

    def add(self, index: int, key: str, failure: RowFailure) -> None:
        """Append one failure; `index` is the source index in the partition's key space."""
        line = {"index": index, "key": key, "stage": failure.stage, "where": failure.where, "reason": failure.reason}
        if failure.raw is not None:
            line |= _raw(failure.raw)
        with disk_full("writing down failed samples"):
            self._open().write(orjson.dumps(line) + b"\n")
        self.by_stage[failure.stage] += 1

    def mark(self) -> None:
        """Everything so far stays here when the log is split."""
        self._marked = (self._file.tell() if self._file else 0, self.by_stage.copy())

    def split(self) -> "FailureLog":
        """Move what came after the mark to a new log."""
        rest = FailureLog(self._new_path)
        position, before = self._marked
        if self._file is not None and self.count > before.total():
            self._file.seek(position)
            for line in self._file:
                rest._open().write(line)
            rest.by_stage = self.by_stage - before
            self._file.truncate(position)
            self._file.seek(position)
            self.by_stage = before
        return rest

    def close(self) -> Path | None:
        """The finished file, or None when nothing failed."""
        if self._file is None or self._path is None:
            return None
        with disk_full("writing down failed samples"):
            self._file.close()
        self._file = None
        if self.count == 0:
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


def _raw(raw: bytes) -> dict[str, str]:
    try:
        return {"raw": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(raw).decode("ascii")}
