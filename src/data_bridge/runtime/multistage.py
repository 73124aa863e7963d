"""Stages with several inputs that they tell apart by name, and outputs of their own naming."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_bridge.errors import FatalError
from data_bridge.model.batch import DictRows, Row, RowFailure
from data_bridge.rows.decoding import decode
from data_bridge.runtime.stage import OUT, Fields, O, Result, RowSchema, Stage, StageBatch

Sample = Mapping[str, Sequence[Row]]
"""What one sample of the source became, by input or output: none, one or several rows each."""


class MultiStage(Stage[O]):
    """A stage that is told by which input a sample came, and what else came of the same sample of the source.

    All that a sample of the source became arrives together, whatever the number of workers, so what `combine` makes of it
    depends on that sample alone. `process` may be written instead where columns are to stay columns: `batch.origins` says of every
    row by which of `batch.inputs` it came, and rows of one sample have one index.
    """

    takes: ClassVar[Mapping[str, RowSchema]]
    """Its inputs by name, each with what it needs of a sample there, or None: a config wires them as `input: {name: stage.output}`."""
    gives: ClassVar[Sequence[str]] = (OUT,)
    """Names of its outputs, which hold different samples."""
    divides = True
    bypassable = False

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.gives)

    @property
    def drops(self) -> bool:
        return True

    @property
    def multiplies(self) -> bool:
        return True

    def fields_of(self, inputs: Mapping[str, Fields]) -> Mapping[str, Fields] | None:
        """The fields at each output for those at each input; None where only running it over the first rows can tell.
        Raises ConfigError, as `fields` does."""
        del inputs
        return None

    @abstractmethod
    def combine(self, sample: Sample) -> Sample:
        """What becomes of a sample of the source: rows for any of its outputs, for what is there at its inputs. An exception is the
        sample's failure."""

    def process(self, batch: StageBatch) -> Mapping[str, Result]:
        samples, places, failures = _samples(batch)
        whole = StageBatch(
            DictRows([{"sample": sample} for sample in samples]), np.arange(len(samples), dtype=np.int64)
        )
        made, good, raised = whole.apply(lambda row: self._combined(row["sample"]))
        failures += [RowFailure(int(places[f.offset][0]), f.reason) for f in raised]
        failures.sort(key=lambda failure: failure.offset)
        used = [places[at] for at in good.tolist()]
        return {
            name: self._result([each.get(name, ()) for each in made], used, failures if number == 0 else ())
            for number, name in enumerate(self.outputs)
        }

    def _combined(self, sample: Sample) -> Sample:
        made = self.combine(sample)
        if strange := made.keys() - set(self.outputs):
            raise FatalError(
                f"a {self.kind} gave samples to {', '.join(sorted(strange))}, and its outputs are {', '.join(self.outputs)}",
                hint="name every output of the stage in `gives`",
            )
        return made

    def _result(
        self, made: Sequence[Sequence[Row]], used: Sequence[NDArray[np.int64]], failures: Sequence[RowFailure]
    ) -> Result:
        counts = [len(rows) for rows in made]
        firsts = np.array([places[0] for places in used], dtype=np.int64)
        parts = [places for places, count in zip(used, counts, strict=True) if count]
        return Result(
            DictRows([row for rows in made for row in rows]),
            np.repeat(firsts, counts),
            tuple(failures),
            np.concatenate(parts) if parts else np.empty(0, dtype=np.int64),
        )


def _samples(batch: StageBatch) -> tuple[list[dict[str, list[Row]]], list[NDArray[np.int64]], list[RowFailure]]:
    """The samples of the source in a batch, which rows each one became, and why some cannot be read at all."""
    assert batch.origins is not None, "only such a stage is asked"
    rows, positions, unread = decode(batch.rows)
    by_place: dict[int, Row] = dict(zip(positions.tolist(), rows, strict=True))
    starts = np.flatnonzero(np.diff(batch.indices, prepend=-1))  # rows of one sample are neighbours
    reasons = {failure.offset: failure for failure in unread}
    samples, places, failures = [], [], []
    for group in np.split(np.arange(len(batch), dtype=np.int64), starts[1:]):
        bad = [reasons[at] for at in group.tolist() if at in reasons]
        if bad or not len(group):
            failures += bad[:1]
            continue
        sample: dict[str, list[Row]] = {name: [] for name in batch.inputs}
        for at in group.tolist():
            sample[batch.inputs[int(batch.origins[at])]].append(dict(by_place[at]))
        samples.append(sample)
        places.append(group)
    return samples, places, failures


def given_by(stage: Stage[Any], fields: Sequence[Fields], names: Sequence[str]) -> Mapping[str, Fields] | None:
    """The fields at each output of a stage for those at its inputs, as it tells."""
    if isinstance(stage, MultiStage):
        return stage.fields_of(dict(zip(names, fields, strict=True)))
    told = stage.fields(fields[0])
    return None if told is None else dict.fromkeys(stage.outputs, told)
