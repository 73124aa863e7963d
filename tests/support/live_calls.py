"""Functions for `map` and `filter` whose arguments are changed while they run."""

from pathlib import Path
from typing import Any

from pydantic import field_validator
from support.engine_works import wait_for

from data_bridge.errors import ConfigError
from data_bridge.runtime.stage import Result, Stage, StageBatch, StageOptions, option


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
