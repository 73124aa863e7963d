"""Rows of a report, asked for by whoever looks: also while the run goes on, and from any machine."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data_bridge.errors import ConfigError
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.looking import plan_at
from data_bridge.pipelines.reports import Report, Row, report_of
from data_bridge.runtime.schemas import KEYS
from data_bridge.runtime.stage import Skip
from data_bridge.stages.comparing import compared
from data_bridge.stages.conditions import Test, tests_of
from data_bridge.utils.progress import Ledger


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a report. `rows` may be gone through once; each has `index`, `key` and all that was measured."""

    stage: str
    columns: tuple[str, ...]
    """What the report shows of a sample, `index` and `key` first."""
    complete: bool
    """Whether all samples are committed, and each has its row."""
    count: int
    """Rows of the whole report until now."""
    rows: Iterator[Row]


def select(store: ObjectStore, stage: str, filters: Sequence[str] = (), limit: int | None = None) -> Selection:
    """The rows of a stage's report that meet all conditions (`words > 100`), the first `limit` of them. Raises ConfigError."""
    plan = plan_at(store)
    names = [s["name"] for s in plan.first.config.get("stages", [])]
    if stage not in names:
        raise ConfigError(
            f"there is no stage {stage!r}{_guess(stage, names)}", hint=f"it has: {', '.join(names) or 'none'}"
        )
    report = report_of(store, plan, Ledger(store, plan.run).load_all(plan.partitions), stage)
    if not any(stage in part.rows for part in report.parts):
        raise ConfigError(
            f"nothing was kept of what {stage} measures",
            hint=f"set `report: true` at {stage}, where its kind has a report",
        )
    wanted = [compared(text) for text in filters]
    tests = [(name, test) for name, condition in wanted for test in tests_of(condition)]
    rows = _meeting(report, tests) if tests else report.rows()
    return Selection(stage, (*KEYS, *report.columns()), report.complete, report.count, islice(rows, limit))


def _meeting(report: Report, tests: Sequence[tuple[str, Test]]) -> Iterator[Row]:
    for number, row in enumerate(report.rows()):
        if number == 0:
            known = dict.fromkeys([*row, *report.columns()])
            _refuse_unknown([*known], [name for name, _ in tests])
        if all(_meets(row, name, test) for name, test in tests):
            yield row


def _meets(row: Row, name: str, test: Test) -> bool:
    try:
        return test(row.get(name))
    except Skip as error:
        raise ConfigError(f"`{name}` of {row['key']} is {error}") from None


def _refuse_unknown(known: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in known and name != "cost_usd":
            raise ConfigError(f"there is no column {name!r}{_guess(name, known)}", hint=f"it has: {', '.join(known)}")


def _guess(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f", did you mean `{close[0]}`?" if close else ""
