"""Looking at the whole source before packing it, for stages that must know all samples before they judge one.

Slots write the digests of each partition, `_bridge/<run>/survey/<stage>/p00012.digests`; the driver finds those that repeat
an earlier one and writes which samples those are, `….marked`, and last that it is done. All of it is a function of source
and config, so that whoever does it again writes the same.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_bridge.model.plan import Part, Partition
from data_bridge.model.shards import Cursor
from data_bridge.model.source import Document
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.commit import Control
from data_bridge.pipelines.packing import Packing, Piece
from data_bridge.pipelines.pieces import Pieces
from data_bridge.runtime.fitting import entering
from data_bridge.runtime.graph import Graph
from data_bridge.runtime.lanes import Lanes
from data_bridge.runtime.stage import Surveying, identities
from data_bridge.utils.files import disk_full, sha256_of
from data_bridge.utils.progress import dump, parsed

BUCKET_BYTES = 64_000_000
"""Records that are sorted in memory at a time, at most."""
LEAST_BUCKET_BYTES = 1_000_000
SORTING = 8
"""Sorting takes less than so many times the memory of what is sorted."""
MOST_BUCKETS = 256

_RECORD = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("sample", "<i8")])
_PLACED = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("partition", "<i8"), ("sample", "<i8")])
_MARK = np.dtype([("partition", "<i8"), ("sample", "<i8")])
Records = NDArray[Any]


class Surveyed(Document, frozen=True, kw_only=True):
    """The end of a survey: of how many partitions, and how many samples repeat an earlier one."""

    v: int = 1
    partitions: int
    marked: int


def surveyors(graph: Graph) -> list[str]:
    """Stages that need a survey, each behind those whose verdicts it builds on."""
    return [node.name for node in graph.nodes if node.enabled and isinstance(node.stage, Surveying)]


class Survey(msgspec.Struct, frozen=True):
    """The files of one stage's survey."""

    store: ObjectStore
    run: str
    stage: str

    @property
    def prefix(self) -> str:
        return f"_bridge/{self.run}/survey/{self.stage}/"

    def digests_key(self, partition: Partition) -> str:
        return f"{self.prefix}{partition.name}.digests"

    def marked(self, partition: Partition) -> NDArray[np.int64]:
        """The samples of a partition that repeat an earlier one, ascending."""
        data = self.store.get(f"{self.prefix}{partition.name}.marked")
        return np.frombuffer(data or b"", dtype="<i8")

    def result(self, partitions: int) -> Surveyed | None:
        """How the survey of so many partitions ended; None while it has not."""
        key = self._result_key(partitions)
        data = self.store.get(key)
        return parsed(Surveyed, data, key) if data is not None else None

    def missing(self, partitions: Sequence[Partition]) -> list[int]:
        """Partitions nobody has looked at yet."""
        there = set(self.store.list_keys(self.prefix))
        return [p.index for p in partitions if self.digests_key(p) not in there]

    def resolve(self, partitions: Sequence[Partition], folder: Path, memory_bytes: int) -> Surveyed:
        """Find the samples that repeat an earlier one, with `folder` for what does not fit in so much memory, and write
        them down."""
        with ExitStack() as stack:
            size = self._size(partitions)
            each = max(LEAST_BUCKET_BYTES, min(BUCKET_BYTES, memory_bytes // SORTING))
            placed = _Buckets(stack, folder, _PLACED, _count(size, each), lambda r: r["hi"])
            marks = _Buckets(stack, folder, _MARK, _count(size // 2, each), lambda r: r["partition"])
            for partition in partitions:
                for records in self._records(partition):
                    # at once, so that one value in most samples does not fill a bucket by itself
                    firsts, repeats = _divided(_placed(records, partition.index))
                    placed.add(firsts)
                    marks.add(repeats)
            for records in placed:
                marks.add(_divided(records)[1])
            total = 0
            for records in marks:
                every = np.unique(records)
                total += len(every)
                for index in np.unique(every["partition"]).tolist():
                    samples = every["sample"][every["partition"] == index]
                    self.store.put_bytes(f"{self.prefix}{partitions[index].name}.marked", np.sort(samples).tobytes())
        found = Surveyed(partitions=len(partitions), marked=total)
        self.store.put_bytes(self._result_key(len(partitions)), dump(found))
        return found

    def _result_key(self, partitions: int) -> str:
        return f"{self.prefix}{partitions:06d}.json"

    def _size(self, partitions: Sequence[Partition]) -> int:
        sizes = {found.key: found.size for found in self.store.list(self.prefix)}
        return sum(sizes.get(self.digests_key(p), 0) for p in partitions)

    def _records(self, partition: Partition) -> Iterator[Records]:
        rest = b""
        for block in self.store.read(self.digests_key(partition)):
            data = rest + block
            whole = len(data) // _RECORD.itemsize * _RECORD.itemsize
            rest = data[whole:]
            yield np.frombuffer(data[:whole], dtype=_RECORD)


class _Buckets:
    """Records divided among files, those of one key in one file, each of which fits in memory."""

    def __init__(
        self, stack: ExitStack, folder: Path, kind: "np.dtype[Any]", count: int, key: Callable[[Records], Any]
    ) -> None:
        self._kind = kind
        self._key = key
        with disk_full(f"sorting in {folder}"):
            files = [tempfile.TemporaryFile(dir=folder) for _ in range(count)]  # noqa: SIM115 - the stack closes them
        self._files: list[IO[bytes]] = [stack.enter_context(file) for file in files]
        self.bytes = 0

    def add(self, records: Records) -> None:
        self.bytes += records.nbytes
        if len(self._files) == 1:
            parts = [(0, records)]
        else:
            numbers = (self._key(records).astype(np.uint64) % np.uint64(len(self._files))).astype(np.int64)
            order = np.argsort(numbers, kind="stable")
            edges = np.flatnonzero(np.diff(numbers[order])) + 1
            parts = [(int(numbers[rows[0]]), records[rows]) for rows in np.split(order, edges) if len(rows)]
        with disk_full("sorting what a survey found"):
            for number, part in parts:
                self._files[number].write(part.tobytes())

    def __iter__(self) -> Iterator[Records]:
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), dtype=self._kind)


def _count(size: int, each: int) -> int:
    return max(1, min(MOST_BUCKETS, -(-size // each)))


def _placed(records: Records, partition: int) -> Records:
    placed = np.empty(len(records), dtype=_PLACED)
    for name in ("hi", "lo", "sample"):
        placed[name] = records[name]
    placed["partition"] = partition
    return placed


def _divided(records: Records) -> tuple[Records, Records]:
    """The first record of each digest, and where a digest stands that stands at an earlier sample too."""
    ordered = records[np.lexsort((records["sample"], records["partition"], records["lo"], records["hi"]))]
    same = np.zeros(len(ordered), dtype=bool)
    before, behind = ordered[:-1], ordered[1:]
    same[1:] = (before["hi"] == behind["hi"]) & (before["lo"] == behind["lo"])
    # the same digest twice at one sample is no repeat of another
    starts = np.flatnonzero(~same)
    first = ordered[np.repeat(starts, np.diff([*starts, len(ordered)]))]
    same &= (first["partition"] != ordered["partition"]) | (first["sample"] != ordered["sample"])
    marks = np.empty(int(same.sum()), dtype=_MARK)
    for name in ("partition", "sample"):
        marks[name] = ordered[name][same]
    return ordered[starts], marks


class Look(msgspec.Struct, frozen=True):
    """Makes, from values alone, what gives the digests of a piece as bytes."""

    packing: Packing
    stage: str

    def __call__(self) -> Callable[[Piece], bytes]:
        packer = self.packing.packer()

        def look(piece: Piece) -> bytes:
            flow = packer.flow(piece.changes)
            transit = packer.begin(piece)
            place = flow.place(self.stage)
            flow.advance(transit, place)
            batch = flow.given(transit)
            stage = flow.node(place).stage
            assert isinstance(stage, Surveying), "only such stages are surveyed"
            entered = entering(stage, batch)
            digests, rows = stage.survey(entered.batch)
            records = np.empty((len(rows), stage.digests), dtype=_RECORD)
            records["hi"], records["lo"] = digests[:, :, 0], digests[:, :, 1]
            records["sample"] = identities(batch.indices)[entered.whole(rows)][:, None]
            return records.tobytes()

        return look


def look_at(
    part: Part, survey: Survey, look: Look, batches: Any, *, block: int, control: Control, folder: Path
) -> bool:
    """Write down the digests of one partition; False when told to stop on the way."""
    pieces = Pieces(batches, Cursor(), part.partition.limit, block, control)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=f"survey-{part.partition.name}-"))
        path = Path(own) / "digests"
        lanes = stack.enter_context(Lanes(look, cores=lambda: control.cores, alive=control.beat))
        with path.open("wb") as file:
            for _, found in lanes.map(pieces, Piece.size):
                with disk_full("writing down what a survey found"):
                    file.write(found)
                control.beat()
                while control.paused:
                    control.rest()
                if control.stopping or control.draining:
                    return False
        if pieces.end is None:
            return False
        survey.store.put_file(survey.digests_key(part.partition), path, sha256=sha256_of(path))
    return True
