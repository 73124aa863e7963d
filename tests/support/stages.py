"""Stages for tests: each does one of the things that are hard for resume."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from data_bridge.errors import ConfigError, FatalError
from data_bridge.model.batch import Row, RowFailure
from data_bridge.runtime.context import Context, RunTotals
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.multistage import MultiStage, Sample
from data_bridge.runtime.stage import Outlet, Result, SideStage, Stage, StageBatch, StageOptions, StatefulStage, option


class CopiesOptions(StageOptions):
    most: int = 4


class Copies(Stage[CopiesOptions]):
    """Sample n becomes n % `most` samples, none for some."""

    kind = "copies"
    Options = CopiesOptions
    drops = True
    multiplies = True

    def process(self, batch: StageBatch) -> Result:
        counts = batch.indices % self.options.most
        return batch.only(np.repeat(np.arange(len(batch), dtype=np.int64), counts))


class Parity(Stage[StageOptions]):
    """Sends samples to `even` or `odd`; every 50th to `rare` alone."""

    kind = "parity"
    divides = True
    drops = True

    def __init__(self, options: StageOptions, outlets: Any = ()) -> None:
        super().__init__(options, outlets or [Outlet("even"), Outlet("odd"), Outlet("rare")])

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        rare = batch.indices % 50 == 7
        even = (batch.indices % 2 == 0) & ~rare
        masks = {"even": even, "odd": ~even & ~rare, "rare": rare}
        return {name: batch.only(np.flatnonzero(mask)) for name, mask in masks.items()}


class Tally(StatefulStage[StageOptions]):
    """Gives every row the sum of all `id`s up to it; drops each with which the sum is divisible by 7; -1 is a failure."""

    kind = "tally"
    drops = True

    def __init__(self, options: StageOptions, outlets: Any = ()) -> None:
        super().__init__(options, outlets)
        self.sum = 0

    def save_state(self) -> Any:
        return {"sum": self.sum}

    def load_state(self, state: Any) -> None:
        self.sum = state["sum"]

    def process(self, batch: StageBatch) -> Result:
        def tallied(row: Row) -> list[Row]:
            if row["id"] == -1:
                raise ValueError("no id")
            self.sum += row["id"]
            return [{**row, "sum": self.sum}] if self.sum % 7 else []

        return batch.several(tallied)


class Score(BaseModel):
    score: float
    grade: str | None
    vowels: int


class Grade(BaseModel):
    score: float
    grade: str | None


class Scored(Stage[StageOptions]):
    """Measures each text; every 23rd sample fails, every 10th is dropped, both with a cost; the others become one or two."""

    kind = "scored"
    drops = True
    multiplies = True
    metrics_schema = Score
    report_schema = Grade

    def process(self, batch: StageBatch) -> Result:
        def scored(row: Row) -> Measured[list[Row]]:
            if row["id"] % 23 == 5:
                raise ValueError("no score")
            metrics = {
                "score": len(row["text"]) / 7,
                "grade": "ä, b"[: row["id"] % 5] or None,
                "vowels": row["text"].count("a"),
            }
            kept = [] if row["id"] % 10 == 4 else [row] * (1 + row["id"] % 2)
            return Measured(kept, {**metrics, "cost_usd": 0.0001 * (row["id"] % 3)})

        return batch.several(scored)


def stamped(row: Row) -> Row:
    """A row with something new in it; every 31st cannot be used."""
    if row["id"] % 31 == 5:
        raise ValueError(f"row {row['id']} cannot be stamped")
    return {**row, "stamp": row["id"] * 3}


def served(row: Row) -> Row:
    """What a service gives for a row, which is there once the file is that the row names; none for every 50th row."""
    if row["id"] % 50 == 9 or (row["id"] % 7 == 3 and not Path(row["service"]).exists()):
        raise ConnectionError(f"nothing for {row['id']}")
    return {"id": row["id"], "answer": row["id"] * 2}


def same(row: Row) -> Row:
    return row


def leaving_at_37(row: Row) -> Row:
    """Ends its process, as scripts do, instead of raising."""
    if row["id"] == 37:
        raise SystemExit(0)
    return row


def is_even(row: Row) -> bool:
    return bool(row["id"] % 2 == 0)


def is_small(row: Row) -> bool:
    """Raises for a row that is neither small nor large."""
    if row["n"] % 40 == 39:
        raise ValueError("neither small nor large")
    return bool(row["n"] % 4 != 1)


def is_even_too(row: Row) -> Row:
    return {**row, "even": is_even(row)}


def is_small_or_not(row: Row) -> Row:
    return {**row, "small": is_small(row)}


def own_key(row: Row) -> Row:
    """Changes its row in place, as many functions do."""
    row["text"] = row["text"].upper()
    return row


class LookOptions(StageOptions):
    fails_at: int | None = None
    """A source index."""


class Look(SideStage[LookOptions]):
    """Writes down the indices it has seen, in a file for each instance; may hang until `LOOK_GO` is set."""

    kind = "look"
    Options = LookOptions

    def look(self, batch: StageBatch) -> Sequence[RowFailure]:
        assert LOOK_GO.wait(30)
        if self.options.fails_at in batch.indices.tolist():
            raise ValueError("cannot look at it")
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{os.getpid()}-{id(self)}.txt").open("a") as file:
            file.writelines(f"{batch.prefix}{index}\n" for index in batch.indices.tolist())
        return [RowFailure(at, "odd") for at in np.flatnonzero(batch.indices % 2).tolist()]


class Glance(Look):
    """The same, missing some rather than hold anything up."""

    kind = "glance"
    overflow = "DROP_NEW"


LOOK_GO = threading.Event()
LOOK_GO.set()


def fatal_at_1500(row: Row) -> Row:
    """Ends the run."""
    if row["id"] == 1500:
        raise FatalError("this is the 1500th")
    return row


class Hoarder(Tally):
    """Knows too much."""

    kind = "hoarder"

    def save_state(self) -> Any:
        return ["x" * 1000] * 100


class Secretive(Tally):
    """Knows what cannot be written down."""

    kind = "secretive"

    def save_state(self) -> Any:
        return object()


class Page(BaseModel):
    """What `Numbered` needs."""

    id: int
    text: str


class Numbered(Stage[StageOptions]):
    """Gives `number`, which is no number for every 40th."""

    kind = "numbered"
    input_schema = Page
    output_schema = pa.schema([pa.field("number", pa.int8(), nullable=False)])

    def process(self, batch: StageBatch) -> Result:
        return batch.each(lambda row: {**row, "number": "x" if row["id"] % 40 == 39 else row["id"] % 100})


class MindingOptions(StageOptions):
    wants: str | None = None
    """A file that must be there before the run."""
    breaks: str | None = None
    """A file; while it is there, the end goes wrong."""
    exits: str = ""
    """The hook that ends the process as scripts do."""


class Minding(Stage[MindingOptions]):
    """Writes down what it was told of the run as a whole."""

    kind = "minding"
    Options = MindingOptions

    def before(self, context: Context) -> None:
        if self.options.exits == "before":
            raise SystemExit(0)
        if self.options.wants and not Path(self.options.wants).exists():
            raise ConfigError(f"{self.options.wants} is missing", hint="make the list first")
        if self.options.wants == "":
            raise ZeroDivisionError("no list")
        context.log(f"ready for {context.destination}")
        context.save_json("told.json", [*(context.load_json("told.json") or []), "before"])

    def after(self, context: Context, totals: RunTotals) -> None:
        if self.options.exits == "after":
            raise SystemExit(0)
        if self.options.breaks and Path(self.options.breaks).exists():
            raise OSError("no report")
        told = context.load_json("told.json")
        context.save_json("told.json", [*told, [context.stage, totals.samples, totals.failed, totals.failed_here]])

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


class WeighedOptions(StageOptions):
    weight: int = option(1, live="any", description="what every number is multiplied by")


class Weighed(StatefulStage[WeighedOptions]):
    """Gives every row the weighed sum of all `id`s up to it."""

    kind = "weighed"
    Options = WeighedOptions
    total = 0

    def save_state(self) -> Any:
        return self.total

    def load_state(self, state: Any) -> None:
        self.total = state

    def process(self, batch: StageBatch) -> Result:
        def weighed(row: Row) -> Row:
            self.total += row["id"] * self.options.weight
            return {**row, "total": self.total}

        return batch.each(weighed)


def refused(row: Row, token: str) -> Row:
    """Tells its secret of every other row."""
    if row["id"] % 2:
        raise ValueError(f"login with {token} refused")
    return row


class Leaving(Stage[StageOptions]):
    """Ends its process whatever it is given."""

    kind = "leaving"

    def process(self, _batch: StageBatch) -> Result:
        raise SystemExit(0)


class Captioned(MultiStage[StageOptions]):
    """Puts the texts of a sample to its picture; what has no text goes another way."""

    kind = "captioned"
    takes = {"pictures": None, "texts": Page}
    gives = ("both", "alone")

    def combine(self, sample: Sample) -> Sample:
        if not sample["pictures"]:
            return {}
        (picture,) = sample["pictures"]
        if picture["id"] % 31 == 5:
            raise ValueError(f"picture {picture['id']} is torn")
        texts = [text["text"] for text in sample["texts"]]
        return {"both": [{**picture, "texts": texts}]} if texts else {"alone": [picture]}
