"""`split`: each sample goes to one of several outputs: by chance that is the same in every run, or by a field."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, model_validator

from data_bridge.config.fields import Count
from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, RowFailure
from data_bridge.rows.arrow import column_values
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import text
from data_bridge.runtime.stage import Fields, Outlet, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages import seeding
from data_bridge.stages.named import column_of, look_up


def _named(value: Any) -> Any:
    """Keys of a mapping as the text that values are compared as."""
    return {text(key): output for key, output in value.items()} if isinstance(value, dict) else value


class SplitOptions(StageOptions):
    by: Literal["hash", "weight", "field"] = option(
        "hash",
        description="`hash` (or `weight`): by chance, in the shares the outputs' weights say; `field`: by a value",
    )
    field: str | None = option(
        None,
        description="`hash`: samples of one value stay together (default: one source index); `field`: what decides",
    )
    values: Annotated[dict[str, str], BeforeValidator(_named)] = option(
        {}, description="`field`: the output by value; any other value names its output itself"
    )
    default: str | None = option(
        None, description="`field`: the output of null and of all other values; without one they are failures"
    )
    seed: Count = option(0, ge=0, lt=2**63, description="another seed divides in another way")

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        if self.by == "field" and self.field is None:
            raise ValueError("`by: field` needs `field`")
        if self.by != "field" and (self.values or self.default):
            raise ValueError("`values` and `default` go with `by: field`")
        return self


class Split(Stage[SplitOptions]):
    """Sends every sample to exactly one output.

    By chance: a sample keeps its output as the source grows. By the value of a field it also keeps it when the source
    is put in another order, and samples of one value never part.
    """

    kind = "split"
    Options = SplitOptions
    bypassable = False
    divides = True

    def __init__(self, options: SplitOptions, outlets: Sequence[Outlet] = ()) -> None:
        super().__init__(options, outlets)
        _refuse(options, self.outlets)
        self._ends = _ends(self.outlets) if options.by != "field" else []
        self._place = {name: at for at, name in enumerate(self.outputs)}

    @property
    def drops(self) -> bool:
        return True  # from each output the samples of the others are missing

    def fields(self, fields: Fields) -> Fields:
        if self.options.field is not None:
            look_up(fields, [self.options.field], "field")
        return fields

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        failures: list[RowFailure] = []
        if self.options.field is None:
            chance = seeding.of_indices("split", self.options.seed, batch.prefix, batch.indices)
            places = np.searchsorted(np.array(self._ends, dtype=np.uint64), chance, side="right")
        else:
            places = self._by_value(batch, self.options.field, failures)
        made = {name: batch.only(np.flatnonzero(places == at).astype(np.int64)) for name, at in self._place.items()}
        first = self.outputs[0]
        return made | {first: made[first].failing(failures)}

    def _by_value(self, batch: StageBatch, name: str, failures: list[RowFailure]) -> NDArray[np.int64]:
        """Number of the output of every row, -1 for those that fail: int64 of shape (n,)."""
        places = np.full(len(batch), -1, dtype=np.int64)
        choose = self._named_by if self.options.by == "field" else self._hashed
        if not isinstance(batch.rows, ArrowRows):
            found, positions, bad = batch.apply(lambda row: choose(row.get(name)))
            places[positions] = found
            failures += bad
            return places
        column = column_of(batch.rows.batch, name)
        values, unreadable = ([None] * len(batch), {}) if column is None else column_values(column)
        for at, value in enumerate(values):
            try:
                places[at] = -1 if at in unreadable else choose(value)
            except (Skip, BadRow) as error:
                failures.append(RowFailure(at, str(error)))
        failures += [RowFailure(at, f"field {name!r}: {reason}") for at, reason in unreadable.items()]
        return places

    def _hashed(self, value: Any) -> int:
        if value is None:
            raise Skip(f"field {self.options.field!r} is null or missing: there is nothing to divide by")
        return bisect_right(self._ends, seeding.of_value("split", self.options.seed, value))

    def _named_by(self, value: Any) -> int:
        if value is not None:
            try:
                written = text(value)
            except BadRow as error:
                raise Skip(f"field {self.options.field!r}: {error}") from None
            place = self._place.get(self.options.values.get(written, written))
            if place is not None:
                return place
        if self.options.default is None:
            shown = "null or missing" if value is None else repr(text(value))[:80]
            raise Skip(f"field {self.options.field!r} is {shown}: no output is for that, and there is no `default`")
        return self._place[self.options.default]


def _ends(outlets: Sequence[Outlet]) -> list[int]:
    """Where the share of each output ends, but the last one's."""
    weights = [Fraction(outlet.weight or 0) for outlet in outlets]
    total = sum(weights)
    return [int(sum(weights[: at + 1]) * seeding.SIZE / total) for at in range(len(weights) - 1)]


def _refuse(options: SplitOptions, outlets: Sequence[Outlet]) -> None:
    """Raises ConfigError for outputs that do not go with the options."""
    names = [outlet.name for outlet in outlets]
    if len(outlets) < 2:
        raise ConfigError(
            "split needs two outputs or more", hint="outputs: [{name: train, weight: 0.9}, {name: val, weight: 0.1}]"
        )
    if options.by == "field":
        unknown = sorted({*options.values.values(), *filter(None, [options.default])} - set(names))
        if unknown:
            raise ConfigError(f"split: there is no output {unknown[0]!r}", hint=f"its outputs are {', '.join(names)}")
        if weighted := [outlet.name for outlet in outlets if outlet.weight is not None]:
            raise ConfigError(f"split: the output {weighted[0]!r} has a weight, which `by: field` does not use")
    elif bare := [outlet.name for outlet in outlets if outlet.weight is None]:
        raise ConfigError(f"split: the output {bare[0]!r} has no weight", hint="give every output a weight: its share")
