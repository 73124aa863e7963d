"""`preview`: the newest samples as files, for a person to look at."""

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_bridge.config.fields import Count
from data_bridge.model.batch import Media, Row, RowFailure, Rows
from data_bridge.rows.decoding import decode
from data_bridge.rows.magic import file_kind
from data_bridge.rows.values import dump
from data_bridge.runtime.stage import Fields, SideStage, StageBatch, StageOptions, option

EVERY_S = 1.0
"""Files are written at most that often: nobody looks at more."""


class PreviewOptions(StageOptions):
    samples: Count = option(16, live="any", ge=1, le=1000, description="how many of the newest samples to keep")


class Preview(SideStage[PreviewOptions]):
    """Keeps the newest samples as files in the run's folder on this machine: `<index>.json` for each, with its images, sounds
    and other bytes beside it.

    It misses samples rather than hold up the run, and changes no byte of the dataset: it may come and go between runs.
    """

    kind = "preview"
    Options = PreviewOptions
    overflow = "KEEP_NEWEST"

    def __init__(self, options: PreviewOptions, outlets: Sequence[Any] = ()) -> None:
        super().__init__(options, outlets)
        self._newest: deque[tuple[str, Rows]] = deque(maxlen=options.samples)
        self._written_s = 0.0

    @property
    def most(self) -> int:
        return self.options.samples

    def fields(self, fields: Fields) -> Fields:
        return fields

    def look(self, batch: StageBatch) -> Sequence[RowFailure]:
        for at in range(max(0, len(batch) - self.options.samples), len(batch)):
            self._newest.append((f"{batch.prefix}{batch.indices[at]:010d}", batch.rows.slice(at, at + 1)))
        if time.monotonic() - self._written_s >= EVERY_S:
            self._write()
        return ()

    def close(self) -> None:
        self._write()

    def _write(self) -> None:
        if self.folder is None or not self._newest:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        places: dict[str, int] = {}
        for name, rows in self._newest:
            places[name] = places.get(name, -1) + 1  # several may have come of one sample
            _keep(self.folder, f"{name}-{places[name]}" if places[name] else name, rows)
        self._newest.clear()
        self._written_s = time.monotonic()
        _forget_old_ones(self.folder, self.options.samples)


def _keep(folder: Path, name: str, rows: Rows) -> None:
    decoded, _, failures = decode(rows)
    shown: Row = {"unreadable": failures[0].reason} if failures else dict(decoded[0])
    taken: set[str] = set()
    for key, value in shown.items():
        data = value.data if isinstance(value, Media) else value
        if isinstance(data, (bytes, bytearray, memoryview)):
            path = value.path if isinstance(value, Media) else ""
            extension = Path(path).suffix.lstrip(".") or file_kind(bytes(data)) or "bin"
            field = _tame(key)
            while field in taken:
                field += "_"
            taken.add(field)
            file = f"{name}.{field}.{_tame(extension)}"
            (folder / file).write_bytes(data)
            shown[key] = {"file": file, "bytes": len(data)}
    (folder / f"{name}.json").write_bytes(dump(shown) + b"\n")


def _tame(name: str) -> str:
    """A field's name as part of a file's."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:64] or "_"


def _forget_old_ones(folder: Path, most: int) -> None:
    """Keep the files of the newest samples, whichever slot wrote them."""
    by_sample: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        by_sample.setdefault(path.name.partition(".")[0], []).append(path)
    for name in sorted(by_sample, key=lambda n: (max(_written_at(p) for p in by_sample[n]), n))[:-most]:
        for path in by_sample[name]:
            path.unlink(missing_ok=True)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another slot was faster
        return 0.0
