"""What stages measured of the samples of one shard range: lines that are committed with its record.

The file is JSON lines, gzipped: first a header with the columns of each stage, then for each sample and stage
`[stage, index, key, metrics]`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Self

import msgspec
import orjson

from data_bridge.config import redacted
from data_bridge.errors import FatalError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.shards import ReportPart
from data_bridge.pipelines.linelog import LineLog
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import dump
from data_bridge.runtime.graph import Graph
from data_bridge.runtime.measuring import NANO, ItemMetrics
from data_bridge.runtime.schemas import report_columns
from data_bridge.utils.files import disk_full, sha256_of

REPORT = "report.csv"
"""What is made of them in the end, for a person."""
Columns = Mapping[str, tuple[str, ...]]
"""By stage that has a report, the columns of it."""


class Note(msgspec.Struct, frozen=True):
    """What a stage measured of a sample, as it is kept. `line` is b"" where only its cost counts."""

    offset: int
    stage: str
    line: bytes
    nano_usd: int


def columns_of(graph: Graph) -> Columns:
    """Of the stages on the way to writers whose report is wanted."""
    return {node.name: report_columns(type(node.stage)) for node in graph.nodes if node.stage.reported}


def note_of(found: ItemMetrics, prefix: str, digits: int, secrets: Set[str]) -> Note:
    """What is kept of it, without secrets; keys are those that writers give. Raises FatalError for what JSON cannot hold."""
    if found.values is None:
        return Note(found.offset, found.stage, b"", found.nano_usd)
    key = f"{prefix}{found.index:0{digits}d}" + ("" if found.number is None else f"-{found.number}")
    values = {name: _clean(value, secrets) for name, value in found.values.items()}
    try:
        line = dump([found.stage, found.index, key, values])
    except BadRow as error:
        raise FatalError(f"stage {found.stage} measured what cannot be written down: {error}") from None
    return Note(found.offset, found.stage, line, found.nano_usd)


def _clean(value: Any, secrets: Set[str]) -> Any:
    if isinstance(value, str):
        return redacted(value, secrets)
    if isinstance(value, dict):
        return {_clean(name, secrets): _clean(inner, secrets) for name, inner in value.items()}
    return [_clean(inner, secrets) for inner in value] if isinstance(value, (list, tuple)) else value


class NoteLog(LineLog):
    """Notes in source order."""

    what = "writing down what stages measured"

    def __init__(self, new_path: Callable[[], Path], columns: Columns) -> None:
        super().__init__(new_path)
        self._columns = columns

    def another(self) -> Self:
        return type(self)(self._new_path, self._columns)

    def add(self, note: Note) -> None:
        """Append one."""
        if note.line:
            self.write(note.line)
            self.sums["rows", note.stage] += 1
        if note.nano_usd:
            self.sums["paid", note.stage] += note.nano_usd

    def part(self) -> tuple[ReportPart | None, Path | None]:
        """Finish it: what the record has to say, and the file that has the lines. None where there is nothing."""
        path = self.close()
        paid = {stage: nano / NANO for (what, stage), nano in self.sums.items() if what == "paid"}
        if not self._columns and not paid:
            return None, None
        rows = {stage: self.sums["rows", stage] for stage in self._columns}
        if path is None:
            return ReportPart(rows=rows, cost_usd=paid), None
        import gzip
        import shutil

        packed = path.with_name(f"{path.name}.gz")
        with disk_full(self.what):
            with (
                path.open("rb") as lines,
                packed.open("xb") as file,
                # without a name and a time: the same lines are the same bytes
                gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as zipped,
            ):
                zipped.write(orjson.dumps({"columns": self._columns}) + b"\n")
                shutil.copyfileobj(lines, zipped)
            path.unlink()
        return ReportPart(sha256=sha256_of(packed), rows=rows, cost_usd=paid), packed


def costs_by_stage(logs: Iterable[PartitionLog]) -> dict[str, float]:
    """What was paid for samples that are committed, by stage; the same in whatever pieces it was recorded."""
    found: dict[str, list[float]] = {}
    for part in _parts(logs):
        for stage, paid in part.cost_usd.items():
            found.setdefault(stage, []).append(paid)
    return {stage: round(math.fsum(paid), 9) for stage, paid in found.items()}


def rows_by_stage(logs: Iterable[PartitionLog]) -> Counter[str]:
    """How many rows the reports of stages have."""
    found: Counter[str] = Counter()
    for part in _parts(logs):
        found.update(part.rows)
    return found


def _parts(logs: Iterable[PartitionLog]) -> Iterator[ReportPart]:
    for log in logs:
        for record in (*log.shards, log.done):
            if record is not None and record.report is not None:
                yield record.report
