"""`filter`: keeps the samples a function or simple conditions say yes to."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import model_validator

from data_bridge.config.calls import check_arguments, code_version, load
from data_bridge.model.batch import ArrowRows, Row, RowFailure
from data_bridge.rows.arrow import column_values
from data_bridge.runtime.stage import Fields, Outlet, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.conditions import Condition, quick_verdicts, tests_of
from data_bridge.stages.named import column_of, look_up, type_of


class FilterOptions(StageOptions):
    call: str | None = option(
        None, description="the function: `package.module:name` or `file.py:name`; true keeps the sample"
    )
    arguments: dict[str, Any] = option({}, live="any", description="keyword arguments it gets besides the row")
    where: dict[str, Condition] | None = option(
        None, live="any", description="instead of a function: conditions by field, all of which must hold"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.call is None) == (self.where is None):
            raise ValueError("give exactly one of `call` and `where`")
        if self.where is not None and not self.where:
            raise ValueError("`where` names no field")
        if self.arguments and self.call is None:
            raise ValueError("`arguments` go with `call`")
        return self


class Filter(Stage[FilterOptions]):
    """Keeps the samples that a function, or conditions on their fields, say yes to, as they are.

    What the function raises, and a value that a condition cannot be asked of, is the sample's failure.
    """

    kind = "filter"
    Options = FilterOptions

    def __init__(self, options: FilterOptions, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(options, outlets)
        self._where = options.where or {}
        self._tests = {name: tests_of(condition) for name, condition in self._where.items()}

    @property
    def drops(self) -> bool:
        return True

    def check(self) -> None:
        if self.options.call is not None:
            check_arguments(self.options.call, self.options.arguments)

    def fields(self, fields: Fields) -> Fields:
        look_up(fields, self._where, "where")
        for name, condition in self._where.items():
            condition.check(name, type_of(fields, name))
        return fields

    def code(self) -> Mapping[str, str]:
        return {} if self.options.call is None else {self.options.call: code_version(self.options.call)}

    def process(self, batch: StageBatch) -> Result:
        if isinstance(batch.rows, ArrowRows) and self._where:
            return self._of_columns(batch, batch.rows.batch)
        verdicts, positions, failures = batch.apply(self._verdict())
        kept = positions[np.array(verdicts, dtype=np.bool_)]
        return batch.only(kept).failing(failures)

    def _verdict(self) -> Any:
        if self.options.call is None:
            return self._holds
        function = load(self.options.call)
        arguments = self.options.arguments
        return lambda row: bool(function(row, **arguments))

    def _holds(self, row: Row) -> bool:
        for name, tests in self._tests.items():
            value = row.get(name)
            try:
                if not all(test(value) for test in tests):
                    return False
            except Skip as error:
                raise Skip(f"field {name!r} is {error}") from None
        return True

    def _of_columns(self, batch: StageBatch, columns: pa.RecordBatch) -> Result:
        """As `_holds` of every row, but a field at a time."""
        keep = np.ones(len(batch), dtype=np.bool_)
        failures: list[RowFailure] = []
        for name, condition in self._where.items():
            column = column_of(columns, name)
            verdicts = quick_verdicts(condition, column) if column is not None else None
            if verdicts is None:
                verdicts = self._row_by_row(name, column, keep, failures)
            keep &= verdicts
        return batch.only(np.flatnonzero(keep).astype(np.int64)).failing(failures)

    def _row_by_row(
        self, name: str, column: Any, keep: NDArray[np.bool_], failures: list[RowFailure]
    ) -> NDArray[np.bool_]:
        values, bad = ([None] * len(keep), {}) if column is None else column_values(column)
        tests = self._tests[name]
        verdicts = np.zeros(len(keep), dtype=np.bool_)
        for at in np.flatnonzero(keep).tolist():
            if at in bad:
                failures.append(RowFailure(at, f"field {name!r}: {bad[at]}"))
                continue
            try:
                verdicts[at] = all(test(values[at]) for test in tests)
            except Skip as error:
                failures.append(RowFailure(at, f"field {name!r} is {error}"))
        return verdicts
