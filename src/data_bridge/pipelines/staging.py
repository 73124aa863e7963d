"""Where shards stand between being packed and being committed: one folder per attempt.

An attempt's folder is its own, so two attempts never share a file. A finished shard gets a sidecar with the
record that would commit it; a later attempt uploads such leftovers first instead of packing them again.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from data_bridge.config import PipelineSettings
from data_bridge.model.plan import Partition
from data_bridge.model.shards import ShardRecord
from data_bridge.model.source import Document
from data_bridge.utils.files import disk_full, replacing, sha256_of
from data_bridge.utils.progress import dump, parsed

PROBES = "_bridge/probe"
"""Where the store is asked, before anything else stands there, whether it keeps what it is given."""
SCRATCH = "_bridge/bench-"
"""Keys that begin so belong to measurements: they go as they came, and no dataset begins with them."""


def staging_base(pipeline: PipelineSettings) -> Path:
    """The folder on this machine under which shards wait for a destination that is none."""
    return (pipeline.staging_dir or Path.home() / ".cache" / "data-bridge").expanduser()


class Closed(msgspec.Struct, frozen=True):
    """A shard (or a range whose samples all failed) that waits for its commit."""

    record: ShardRecord
    path: Path | None
    failures: Path | None
    report: Path | None = None
    start: int = 0
    """Index in the partition where its range begins: where the sink's cursor stood before it."""
    out: int = 0
    """Outputs of the sample there that came before."""
    changes: tuple[str, ...] = ()
    """Live changes that it was made with, and all before it."""
    sidecar: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All that there is of it on this machine."""
        return [path for path in (self.path, self.failures, self.report, self.sidecar) if path is not None]

    def remove(self) -> None:
        """Delete the local files: only after the record exists."""
        for path in self.files:
            path.unlink(missing_ok=True)


class _Sidecar(Document, frozen=True, kw_only=True):
    """What a later attempt must know of a finished shard: names of the files in the folder, and the record."""

    shard: str | None
    failures: str | None
    report: str | None = None
    start: int
    out: int = 0
    changes: tuple[str, ...] = ()
    record: ShardRecord


class Staging:
    """The folder of one attempt on one partition, and those its predecessors left."""

    def __init__(self, root: Path, partition: Partition, token: str) -> None:
        self._root = root
        self._partition = partition
        self._token = token
        self.folder = root / f"{partition.name}-{token}"
        self._count = 0

    def __enter__(self) -> "Staging":
        with disk_full(f"making {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=False)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self.folder.exists():
            return  # a later attempt took over and swept it away
        # after an error, finished shards stay for the next attempt; what is not finished is useless
        keep = {p for closed in _closed_in(self.folder) for p in closed.files}
        for path in self.folder.iterdir():
            if path not in keep:
                path.unlink()
        if not keep:
            self.folder.rmdir()

    def shard_path(self, name: str) -> Path:
        return self.folder / name

    def failures_path(self) -> Path:
        self._count += 1
        return self.folder / f"failures-{self._count:06d}.jsonl"

    def report_path(self) -> Path:
        self._count += 1
        return self.folder / f"report-{self._count:06d}.jsonl"

    def ready(self, closed: Closed) -> Closed:
        """Mark a shard as finished: from here on a later attempt may adopt it."""
        self._count += 1
        sidecar = self.folder / f"ready-{self._count:06d}.json"
        names = {
            "shard": closed.path.name if closed.path else None,
            "failures": closed.failures.name if closed.failures else None,
            "report": closed.report.name if closed.report else None,
        }
        with replacing(sidecar, self._token) as part:
            known = _Sidecar(**names, start=closed.start, out=closed.out, changes=closed.changes, record=closed.record)
            part.write(dump(known))
        return replace(closed, sidecar=sidecar)

    def leftovers(self) -> list[Closed]:
        """Finished shards of earlier attempts of this partition on this machine, whose bytes are whole, in order."""
        found = [closed for folder in self._others() for closed in _closed_in(folder) if _whole(closed)]
        return sorted(found, key=lambda closed: (closed.record.cursor.index, closed.record.cursor.out))

    def sweep(self) -> None:
        """Remove the folders of earlier attempts of this partition."""
        for folder in self._others():
            shutil.rmtree(folder, ignore_errors=True)

    def _others(self) -> Iterator[Path]:
        yield from (f for f in sorted(self._root.glob(f"{self._partition.name}-*")) if f != self.folder)


def _closed_in(folder: Path) -> Iterator[Closed]:
    for sidecar in sorted(folder.glob("ready-*.json")):
        data = parsed(_Sidecar, sidecar.read_bytes(), str(sidecar))
        yield Closed(
            data.record,
            folder / data.shard if data.shard else None,
            folder / data.failures if data.failures else None,
            folder / data.report if data.report else None,
            data.start,
            data.out,
            data.changes,
            sidecar,
        )


def _whole(closed: Closed) -> bool:
    """Whether the files of a leftover are there with the content its record names."""
    record = closed.record
    wanted = [
        (closed.path, record.sha256),
        (closed.failures, record.failures_sha256),
        (closed.report, record.report.sha256 if record.report else ""),
    ]
    return all(path is None or (path.exists() and sha256_of(path) == digest) for path, digest in wanted)
