"""`text_normalize`: one spelling of each text."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, StringConstraints, model_validator

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, Row, RowFailure
from data_bridge.rows.arrow import column_values, is_text
from data_bridge.rows.picking import take
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.stage import Fields, Outlet, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages.made import text_column
from data_bridge.stages.named import ANYTHING, column_of, look_up, type_of, with_columns

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""The control characters (Cc) but tab, line feed, carriage return and next line, which are white space."""


class TextNormalizeOptions(StageOptions):
    fields: Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(min_length=1)] = option(
        description="names of text fields"
    )
    form: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = option(
        "NFC", description="Unicode form; NFKC and NFKD also replace ligatures, full-width letters and the like"
    )
    remove_control: bool = option(False, description="leave out control characters but tabs and line ends")
    lower: bool = option(False, description="in lower case")
    collapse_whitespace: bool = option(
        False, description="each run of white space, line ends too, becomes one space; none at the ends"
    )
    strip: bool = option(False, description="no white space at the ends")

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.form == "none" and not (self.remove_control or self.lower or self.collapse_whitespace or self.strip):
            raise ValueError("nothing is to be done")
        return self


class TextNormalizeMetrics(BaseModel):
    characters_before: int
    characters: int


class TextNormalize(Stage[TextNormalizeOptions]):
    """Gives texts one spelling: Unicode form, then control characters, lower case and white space, as asked for. What
    it has made it does not change again. Null and missing values stay; a value that is no text is its sample's failure.

    Its report has the characters of the sample's texts, before and behind it.
    """

    kind = "text_normalize"
    Options = TextNormalizeOptions
    metrics_schema = report_schema = TextNormalizeMetrics

    def __init__(self, options: TextNormalizeOptions, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(options, outlets)
        self._steps = tuple(_steps(options))

    def fields(self, fields: Fields) -> Fields:
        look_up(fields, self.options.fields, "fields")
        for name in self.options.fields:
            if (kind := type_of(fields, name)) != "string" and kind not in ANYTHING:
                raise ConfigError(f"fields: the field {name!r} is {kind}, not text")
        return fields

    def libraries(self) -> Mapping[str, str]:
        return {"Unicode": unicodedata.unidata_version}

    def process(self, batch: StageBatch) -> Result:
        if isinstance(batch.rows, ArrowRows):
            return self._columns(batch, batch.rows)
        return batch.each(self._row)

    def normal(self, text: str) -> str:
        """The text in its one spelling."""
        for step in self._steps:
            text = step(text)
        return text

    def _row(self, row: Row) -> Row | Measured[Row]:
        made = dict(row)
        for name in self.options.fields:
            value = row.get(name)
            if isinstance(value, str):
                made[name] = self.normal(value)
            elif value is not None:
                raise Skip(f"field {name!r} is of type {type(value).__name__}, not text")
        if not self.reported:
            return made
        names = self.options.fields
        return Measured(made, _measured([row.get(name) for name in names], [made.get(name) for name in names]))

    def _columns(self, batch: StageBatch, rows: ArrowRows) -> Result:
        made = {}
        bad: dict[int, str] = {}
        texts: list[tuple[Sequence[str | None], Sequence[str | None]]] = []
        for name in self.options.fields:
            column = column_of(rows.batch, name)
            if column is None:
                continue
            values, unreadable = column_values(column)
            bad = {at: f"field {name!r}: {reason}" for at, reason in unreadable.items()} | bad
            others = [at for at, value in enumerate(values) if value is not None and not isinstance(value, str)]
            bad = {at: f"field {name!r} is of type {type(values[at]).__name__}, not text" for at in others} | bad
            if is_text(column.type):
                normal = [None if value is None else self.normal(value) for value in values]
                made[name] = text_column(normal)
                texts.append((values, normal))
        result = batch.same(ArrowRows(with_columns(rows.batch, made)))
        if bad:
            good = np.delete(result.positions, sorted(bad))
            failures = tuple(RowFailure(at, bad[at]) for at in sorted(bad))
            result = Result(take(result.rows, good), good, failures)
        if not self.reported:
            return result
        return result.measuring(
            {
                at: _measured([came[at] for came, _ in texts], [made[at] for _, made in texts])
                for at in result.positions.tolist()
            }
        )


def _measured(came: Sequence[str | None], made: Sequence[str | None]) -> dict[str, int]:
    return {
        "characters_before": sum(len(text or "") for text in came),
        "characters": sum(len(text or "") for text in made),
    }


def _steps(options: TextNormalizeOptions) -> list[Callable[[str], str]]:
    steps: list[Callable[[str], str]] = []
    form = options.form
    if form != "none":
        steps.append(lambda text: unicodedata.normalize(form, text))
    if options.remove_control:
        steps.append(lambda text: _CONTROL.sub("", text))
    if options.lower:
        steps.append(str.lower)
    if form != "none" and (options.remove_control or options.lower):
        steps.append(lambda text: unicodedata.normalize(form, text))  # what stood apart may now be one letter
    if options.collapse_whitespace:
        steps.append(lambda text: " ".join(text.split()))
    elif options.strip:
        steps.append(str.strip)
    return steps
