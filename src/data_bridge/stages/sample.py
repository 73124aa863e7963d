"""`sample`: a part of the samples, by chance that is the same in every run, or every n-th."""

from typing import Annotated, Self

import numpy as np
from pydantic import BeforeValidator, model_validator

from data_bridge.config.fields import Count, refuse_bool
from data_bridge.runtime.stage import Fields, Result, Stage, StageBatch, StageOptions, option
from data_bridge.stages import seeding


class SampleOptions(StageOptions):
    fraction: Annotated[float, BeforeValidator(refuse_bool)] | None = option(
        None, live="any", gt=0, le=1, description="the part of the samples to keep"
    )
    every: Count | None = option(
        None, live="any", ge=1, description="instead: keep those whose source index it divides"
    )
    seed: Count = option(0, ge=0, lt=2**63, description="another seed keeps others; two `sample` stages need two seeds")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.fraction is None) == (self.every is None):
            raise ValueError("give exactly one of `fraction` and `every`")
        return self


class Sample(Stage[SampleOptions]):
    """Keeps a part of the samples, chosen by their source indices alone.

    So what was made of one source sample stays together, a larger fraction keeps all that a smaller one keeps, and a
    source that grows keeps what it kept.
    """

    kind = "sample"
    Options = SampleOptions

    @property
    def drops(self) -> bool:
        return self.options.fraction != 1 and self.options.every != 1

    def fields(self, fields: Fields) -> Fields:
        return fields

    def process(self, batch: StageBatch) -> Result:
        if not self.drops:
            return batch.same(batch.rows)
        if self.options.every is not None:
            kept = batch.indices % self.options.every == 0
        else:
            chance = seeding.of_indices("sample", self.options.seed, batch.prefix, batch.indices)
            kept = chance < np.uint64(int(self.options.fraction * seeding.SIZE))  # type: ignore[operator] # not None
        return batch.only(np.flatnonzero(kept).astype(np.int64))
