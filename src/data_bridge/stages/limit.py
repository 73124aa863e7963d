"""`limit`: what the first samples of the source became."""

import numpy as np

from data_bridge.config.fields import Count
from data_bridge.errors import ConfigError
from data_bridge.runtime.stage import Fields, Result, Stage, StageBatch, StageOptions, option


class LimitOptions(StageOptions):
    count: Count = option(ge=1, description="how many samples of the source, counted before any stage")


class Limit(Stage[LimitOptions]):
    """Keeps what was made of the first `count` samples of the source.

    Which those are must not depend on what other workers do, so they are counted where they are numbered: in the
    source, before any stage. Where partitions number their samples apart there is no first of all, and it refuses.
    """

    kind = "limit"
    Options = LimitOptions

    @property
    def drops(self) -> bool:
        return True

    def fields(self, fields: Fields) -> Fields:
        return fields

    def process(self, batch: StageBatch) -> Result:
        if batch.prefix:
            raise ConfigError(
                f"limit: the samples of this source are numbered by partition ({batch.prefix}…), none is the first of all",
                hint="take the first ones of the source with --limit, or a part of all with `sample`",
            )
        return batch.only(np.flatnonzero(batch.indices < self.options.count).astype(np.int64))
