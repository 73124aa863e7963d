"""`map`: a function of one sample."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from data_bridge.config.calls import check_arguments, code_version, load
from data_bridge.runtime.stage import Result, Stage, StageBatch, StageOptions, option


class MapOptions(StageOptions):
    call: str = option(description="the function: `package.module:name` or `file.py:name`")
    arguments: dict[str, Any] = option({}, live="any", description="keyword arguments it gets besides the row")


class Map(Stage[MapOptions]):
    """Replaces every sample by what a function of it returns: a dictionary. What it raises is the sample's failure."""

    kind = "map"
    Options = MapOptions

    def check(self) -> None:
        check_arguments(self.options.call, self.options.arguments)

    def code(self) -> Mapping[str, str]:
        return {self.options.call: code_version(self.options.call)}

    def process(self, batch: StageBatch) -> Result:
        function = load(self.options.call)
        if self.options.arguments:
            function = partial(function, **self.options.arguments)

        def mapped(row: dict[str, Any]) -> dict[str, Any]:
            made = function(row)
            if not isinstance(made, dict):
                raise TypeError(f"{self.options.call} returned {type(made).__name__}, not a dictionary")
            return made

        return batch.each(mapped)
