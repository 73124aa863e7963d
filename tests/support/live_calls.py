"""Functions for `map` and `filter` whose arguments are changed while they run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import field_validator
from support.engine_works import wait_for

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, Row, RowFailure, Rows
from data_bridge.rows.buffers import numbers
from data_bridge.rows.decoding import decode
from data_bridge.runtime.control import Request
from data_bridge.runtime.stage import Result, SideStage, Stage, StageBatch, StageOptions, StatefulStage, option
from data_bridge.stages.signal import Signal


def times(row: dict[str, Any], factor: int = 1, gate: str = "") -> dict[str, Any]:
    """The number times a factor. With a gate, sample 1500 waits until there is that file: it is behind what is looked at for a plan."""
    if gate and row["id"] == 1500:
        wait_for(Path(gate).exists, "the gate to open")
    return {**row, "number": row["id"] * factor}


def even(row: dict[str, Any], remainder: int = 0) -> bool:
    return bool(row["id"] % 2 == remainder)


class WindowOptions(StageOptions):
    width: int = option(3, live="any", description="samples on each side", gt=0)
    coeffs: tuple[float, ...] = option((1.0,), live="any", description="of the filter")
    strict: bool = option(False, live="any", description="whether edges fail")
    depth: int = option(1, live="paused", description="of the window")
    mode: str = option("full", description="how edges are treated")
    headers: dict[str, str] = option({}, live="any", description="what is sent")
    extra: dict[str, str] = option({}, live="any", description="anything")

    @field_validator("coeffs")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value:
            raise ValueError("a filter has coefficients")
        return value


class Window(Stage[WindowOptions]):
    """A stage of every kind of option."""

    kind = "window"
    Options = WindowOptions
    bypassable = False

    def check(self) -> None:
        if self.options.width > 7:
            raise ConfigError("a window has at most 7 samples")

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


class AmplifierOptions(StageOptions):
    most: int = option(100, live="any", description="the largest gain")


class Amplifier(Stage[AmplifierOptions]):
    """Multiplies `id` by all gains it was told of."""

    kind = "amplifier"
    Options = AmplifierOptions
    commands = {
        "gain": "KEY is the channel `all`, VALUE a factor",
        "pause": "is the engine's",
        "odd": "VALUE to answer",
    }
    questions = {"gains": "the factors up to now"}

    def __init__(self, options: AmplifierOptions, outlets: Any = ()) -> None:
        super().__init__(options, outlets)
        self._gains: list[int] = []

    def control(self, request: Request) -> dict[str, Any] | None:
        match request.command:
            case "gains":
                return {"gains": self._gains}
            case "gain" if request.key in ("all", None):
                if not isinstance(request.value, int):
                    raise TypeError("a gain is a whole number")
                if request.value > self.options.most:
                    raise ConfigError(f"a gain is at most {self.options.most}")
                self._gains.append(request.value)
                return {}
            case "odd":
                return {"object": object()}
            case _:
                return None

    def process(self, batch: StageBatch) -> Result:
        def louder(row: Row) -> Row:
            number = row["id"]
            for gain in self._gains:
                number *= gain
            return {**row, "number": number}

        return batch.each(louder)


class Odometer(StatefulStage[StageOptions]):
    """Adds `total`, the sum of all `id`s since it was last `restart`ed, and `trip`, which of the restarts that was."""

    kind = "odometer"
    commands = {"restart": "count from 0 on", "add": "VALUE to the sum"}

    def __init__(self, options: StageOptions, outlets: Any = ()) -> None:
        super().__init__(options, outlets)
        self._total = 0
        self._trip = 0

    def save_state(self) -> Any:
        return {"total": self._total}

    def load_state(self, state: Any) -> None:
        self._total = state["total"]

    def control(self, request: Request) -> dict[str, Any] | None:
        if request.command == "restart":
            self._total = 0
            self._trip += 1
        else:
            self._total += request.value
        return {}

    def process(self, batch: StageBatch) -> Result:
        def counted(row: Row) -> Row:
            self._total += row["id"]
            return {**row, "total": self._total, "trip": self._trip}

        return batch.each(counted)


class Fickle(Stage[StageOptions]):
    """Takes a command once, and never again."""

    kind = "fickle"
    commands = {"once": "only once"}
    done = False

    def control(self, request: Request) -> dict[str, Any] | None:
        if Fickle.done:
            raise RuntimeError("not again")
        Fickle.done = True
        return {}

    def process(self, batch: StageBatch) -> Result:
        return batch.same(batch.rows)


class Watched(Signal):
    """Writes down at which addresses the numbers stand that it was given, and those that it made."""

    seen: ClassVar[list[tuple[list[int], list[int]]]] = []

    def process(self, batch: StageBatch) -> Result:
        given = addresses(batch.rows, self.options.field)
        made = super().process(batch)
        Watched.seen.append((given, addresses(made.rows, self.options.field)))
        return made


def addresses(rows: Rows, name: str) -> list[int]:
    """Where the numbers of a field stand in memory: of columns all, of arrays each channel's."""
    if isinstance(rows, ArrowRows):
        items: Any = rows.batch.column(name)
        while hasattr(items, "flatten") and items.type.num_fields:
            items = items.flatten()
        return [numbers(items).ctypes.data]
    found = [array for row in decode(rows)[0] for array in row[name]]
    return [array.ctypes.data for array in found if isinstance(array, np.ndarray)]


class Eavesdropper(SideStage[StageOptions]):
    """Writes down which samples it has seen since it was told a word."""

    kind = "eavesdropper"
    commands = {"listen": "VALUE is the word"}
    word: Any = None

    def control(self, request: Request) -> dict[str, Any] | None:
        self.word = request.value
        return {}

    def look(self, batch: StageBatch) -> Sequence[RowFailure]:
        if self.word and self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{self.word}.txt").open("a") as file:
                file.writelines(f"{index}\n" for index in batch.indices.tolist())
        return ()
