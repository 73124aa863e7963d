"""What stages measured, put together again from the parts that were committed with the records: in the order of the source,
each row once, in the memory of one part."""

import csv
import gzip
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson

from data_bridge.errors import IntegrityError
from data_bridge.model import spread
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Plan
from data_bridge.model.shards import Done, ReportPart, ShardRecord
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.notes import REPORT
from data_bridge.rows.values import dump
from data_bridge.runtime.schemas import KEYS
from data_bridge.utils.files import replacing

PARTIAL, SUMMARY = "report.partial.csv", "summary.json"
QUANTILES = (50, 95)
"""Of each column of numbers, in percent."""

_EXACT = 2**63
"""Whole numbers from here on are summed up as numbers with a point."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a stage has measured of the samples that are committed. Rows of samples that were tried again later are not in it."""

    store: ObjectStore
    stage: str
    parts: tuple[ReportPart, ...]
    """In the order of the source."""
    finished: bool
    """Whether the whole source is committed."""
    missing: int
    """Samples that were committed while nobody wanted this report, about."""

    @property
    def complete(self) -> bool:
        """Whether every sample that the stage has processed is in it."""
        return self.finished and not self.missing

    @property
    def count(self) -> int:
        """How many rows it has."""
        return sum(part.rows.get(self.stage, 0) for part in self.parts)

    @property
    def identity(self) -> str:
        """Changes with what the rows are made of."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    def columns(self) -> tuple[str, ...]:
        """What it shows of each sample besides `index` and `key`; () while there is no row."""
        for part in self._with_rows():
            header, _ = _opened(self.store, part)
            return tuple(header["columns"][self.stage])
        return ()

    def rows(self) -> Iterator[Row]:
        """All that was measured: `index` and `key` of the sample, `seconds`, `cost_usd` where there is one, and the stage's
        own metrics. Raises IntegrityError for a part that is gone or damaged."""
        ours = orjson.dumps([self.stage])[:-1] + b","
        for part in self._with_rows():
            _, lines = _opened(self.store, part)
            for line in lines:
                if line.startswith(ours):
                    _, index, key, values = msgspec.json.decode(line)  # whole numbers of any size keep their digits
                    known = {"index": index, "key": key}
                    yield {**known, **values, **known}  # of which sample it is, no stage says

    def _with_rows(self) -> Iterator[ReportPart]:
        return (part for part in self.parts if part.key is not None and part.rows.get(self.stage))


def _opened(store: ObjectStore, part: ReportPart) -> tuple[Mapping[str, Any], Iterator[bytes]]:
    """The header of a part and its lines."""
    data = store.get(part.key or "")
    if data is None or hashlib.sha256(data).hexdigest() != part.sha256:
        state = "is missing" if data is None else "is not as it was recorded"
        raise IntegrityError(
            f"{part.key} at {store.uri} {state}",
            hint="only reports need it: restore it, or set `report: false` for the stages that have one",
        )
    lines = gzip.GzipFile(fileobj=io.BytesIO(data))
    return orjson.loads(lines.readline()), iter(lines)


def report_of(store: ObjectStore, plan: Plan, logs: Mapping[int, PartitionLog], stage: str) -> Report:
    """The report of a stage, as far as samples are committed."""
    parts: list[ReportPart] = []
    finished, missing = True, 0
    for partition in plan.from_source:
        log = logs[partition.index]
        finished = finished and log.done is not None
        records = list(_noted(log))
        parts += [r.report for r in records if r.report is not None]
        missing += sum(_samples(r, log) for r in records if r.report is None or stage not in r.report.rows)
    return Report(store, stage, tuple(parts), finished, missing)


def _noted(log: PartitionLog) -> Iterator[ShardRecord | Done]:
    """The records that have rows where any are wanted: those of the first writer."""
    first = next((s.sink for s in log.shards if s.report is not None), log.shards[0].sink if log.shards else "")
    yield from log.shards_of(first)
    if log.done is not None:
        yield log.done


def _samples(record: ShardRecord | Done, log: PartitionLog) -> int:
    if isinstance(record, ShardRecord):
        return record.end_index - record.first_index
    return record.cursor.index - max((s.cursor.index for s in log.shards), default=0)


def cell(value: Any) -> str:
    """A value as a table has it: text as it is, everything else as JSON, nothing for null."""
    if value is None or isinstance(value, str):
        return value or ""
    return dump(value).decode()


class Writable(Protocol):
    def write(self, text: str, /) -> object: ...


def write_csv(file: Writable, names: Sequence[str], rows: Iterable[Row]) -> None:
    """These columns of rows as CSV, with a header; each row is one `write`."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(names)
    table.writerows([cell(row.get(name)) for name in names] for row in rows)


def is_written(report: Report, folder: Path) -> bool:
    """Whether the folder has this very report already."""
    path = folder / (REPORT if report.complete else PARTIAL)
    summary = folder / SUMMARY
    return path.exists() and summary.exists() and _said(summary).get("parts") == report.identity


def _said(summary: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = orjson.loads(summary.read_bytes())
    except orjson.JSONDecodeError:
        return {}
    return found


def write_report(
    report: Report, folder: Path, columns: tuple[str, ...] = (), tick: Callable[[], None] = lambda: None
) -> Path:
    """Write `report.csv`, or `report.partial.csv` as long as it is not complete, and `summary.json`; the other one of the two
    goes. `columns` are those of a report without a row. `tick` is called with every row, and may raise."""
    path, other = folder / REPORT, folder / PARTIAL
    if not report.complete:
        path, other = other, path
    summary = Summary()
    token = str(os.getpid())

    def seen() -> Iterator[Row]:
        for row in report.rows():
            tick()
            summary.add(row)
            yield row

    with replacing(path, token) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        write_csv(text, (*KEYS, *(report.columns() or columns)), seen())
        text.flush()
        text.detach()
    told = {
        "stage": report.stage,
        "complete": report.complete,
        "rows": report.count,
        "samples_without_rows": report.missing,
        "columns": summary.told(),
        "parts": report.identity,
    }
    with replacing(folder / SUMMARY, token) as file:
        file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    other.unlink(missing_ok=True)
    return path


@dataclass(slots=True)
class _Column:
    least: float
    most: float
    count: int = 0
    total: float = 0.0
    buckets: spread.Buckets = field(default_factory=dict)


class Summary:
    """How the numbers of each column are spread, in bounded memory."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        for name, found in row.items():
            if name in KEYS or isinstance(found, bool) or not isinstance(found, (int, float)):
                continue
            if abs(found) > sys.float_info.max:  # nothing can be said of it here
                continue
            value = float(found) if abs(found) >= _EXACT else found
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column(value, value)
            column.least, column.most = min(column.least, value), max(column.most, value)
            column.count += 1
            column.total += value
            spread.add(column.buckets, value)

    def told(self) -> dict[str, dict[str, float]]:
        """By column, `count`, `mean`, `min`, `max`, `p50` and `p95`; quantiles within 2 %."""
        return {name: _spread_of(column) for name, column in self._columns.items()}


def _spread_of(column: _Column) -> dict[str, float]:
    found = {"count": column.count, "mean": column.total / column.count, "min": column.least, "max": column.most}
    for share in QUANTILES:
        at = spread.quantile(column.buckets, share / 100)
        if at is not None:
            found[f"p{share}"] = min(max(at, column.least), column.most)
    return found
