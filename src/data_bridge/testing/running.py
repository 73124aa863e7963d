"""A stage on a few samples, as a run would use it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray
from pydantic import ValidationError

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Row, RowFailure, Rows
from data_bridge.rows.decoding import decode
from data_bridge.rows.values import dump
from data_bridge.runtime.fitting import entering, fitted
from data_bridge.runtime.measuring import SECONDS, measured
from data_bridge.runtime.multistage import MultiStage, Sample
from data_bridge.runtime.schemas import report_columns
from data_bridge.runtime.stage import OUT, Result, Stage, StageBatch, Surveying, by_output, identities
from data_bridge.stages.build import build
from data_bridge.stages.registry import stage_class

Given = Stage[Any] | Mapping[str, Any]
"""A stage, or one as a config writes it: `{"filter": {…}, "outputs": […]}`."""


@dataclass(frozen=True)
class StageRun:
    """What a stage made of some samples."""

    outputs: dict[str, list[Row]]
    """Samples by the name of the output they left by."""
    origins: dict[str, list[int]]
    """For each of them, which of the given samples it was made of."""
    failures: list[RowFailure] = field(default_factory=list)
    """Those it could not use; `offset` is the place among the given samples."""
    metrics: list[Row] = field(default_factory=list)
    """What it measured of samples, in their order, as a run would keep it: `index`, `cost_usd` where it told one, and its own;
    without the `seconds`, which are others each time."""
    columns: tuple[str, ...] = ()
    """Those of its report."""

    @property
    def report(self) -> list[Row]:
        """The rows of its report: `index` and the columns of `report_schema`."""
        return [{name: row.get(name) for name in ("index", *self.columns)} for row in self.metrics]

    @property
    def samples(self) -> list[Row]:
        """Those of the only output, or of the first."""
        return next(iter(self.outputs.values()))

    @property
    def reasons(self) -> dict[int, str]:
        """Why, by the place of the sample that could not be used."""
        return {failure.offset: failure.reason for failure in self.failures}


def stage_of(given: Given) -> Stage[Any]:
    """The stage, made as a run would make it. Raises ConfigError for options its kind refuses."""
    if isinstance(given, Stage):
        return given
    try:
        settings = PipelineSettings.model_validate({"name": "webdataset", "input_uri": "samples", "stages": [given]})
        kind = stage_class(settings.stages[0].kind)
        if issubclass(kind, MultiStage):  # there is nothing that its inputs could be
            stage = kind(kind.Options.model_validate(settings.stages[0].options))
            stage.check()
            return stage
    except ValidationError as error:
        raise ConfigError(str(error)) from error
    return build(settings, check=True).every[0].stage


def run_stage(
    given: Given, samples: Sequence[Row] | Rows, *, batch: int | None = None, first_index: int = 0, prefix: str = ""
) -> StageRun:
    """What a stage makes of samples, given as dictionaries or as rows of any form, `batch` at a time (default: all at once).

    Their source indices begin at `first_index`, in the key space of `prefix`. Samples come back as dictionaries of
    plain values: arrays are lists. What the stage measures is kept as with `report: true`. Raises FatalError for what it
    does not declare.
    """
    stage = stage_of(given)
    if isinstance(stage, MultiStage):
        raise TypeError("a stage that tells its inputs apart is run by `run_multistage`")
    stage.reported = True
    rows = samples if isinstance(samples, (LineRows, ArrowRows, DictRows)) else DictRows(copy.deepcopy(list(samples)))
    size = batch or max(len(rows), 1)
    names = stage.outputs or (OUT,)
    run = StageRun({name: [] for name in names}, {name: [] for name in names}, columns=report_columns(type(stage)))
    indices = np.arange(len(rows), dtype=np.int64) + first_index
    batches = {
        start: StageBatch(rows.slice(start, min(start + size, len(rows))), indices[start : start + size], prefix)
        for start in range(0, len(rows), size)
    }
    stage.setup()
    try:
        if isinstance(stage, Surveying):
            stage.marked = _marked(stage, list(batches.values()))
        for start, part in batches.items():
            made = by_output(stage, fitted(stage, part))
            _add(run, made, start)
            run.metrics.extend(_kept(stage, part, list(made.values())))
    finally:
        stage.close()
    run.failures.sort(key=lambda failure: failure.offset)
    return run


def run_multistage(given: Given, samples: Sequence[Sample], *, batch: int | None = None) -> StageRun:
    """What a stage that tells its inputs apart makes of samples, each given as the rows it became at every input, `batch` at a
    time (default: all at once). Origins and failures speak of these samples."""
    stage = stage_of(given)
    size = batch or max(len(samples), 1)
    run = StageRun({name: [] for name in stage.outputs}, {name: [] for name in stage.outputs})
    stage.setup()
    try:
        for start in range(0, len(samples), size):
            part = multibatch(stage, copy.deepcopy(samples[start : start + size]), start)
            found = StageRun({name: [] for name in stage.outputs}, {name: [] for name in stage.outputs})
            _add(found, by_output(stage, fitted(stage, part)), 0)
            for name, rows in found.outputs.items():
                run.outputs[name].extend(rows)
                run.origins[name].extend(part.indices[found.origins[name]].tolist())
            run.failures.extend(replace(each, offset=int(part.indices[each.offset])) for each in found.failures)
    finally:
        stage.close()
    return run


def multibatch(stage: Stage[Any], samples: Sequence[Sample], first_index: int = 0) -> StageBatch:
    """Samples, each given as the rows it became at every input of the stage, as a run gives them to it."""
    assert isinstance(stage, MultiStage), f"{type(stage).__name__} is no MultiStage"
    names = tuple(stage.takes)
    places = [
        (n, at, row) for n, one in enumerate(samples) for at, name in enumerate(names) for row in one.get(name, ())
    ]
    indices = np.array([n for n, _, _ in places], dtype=np.int64) + first_index
    origins = np.array([at for _, at, _ in places], dtype=np.int64)
    return StageBatch(DictRows([row for *_, row in places]), indices, inputs=names, origins=origins)


def _marked(stage: Surveying[Any], batches: Sequence[StageBatch]) -> NDArray[np.int64]:
    """What a run tells the stage of samples that have a digest which an earlier one has."""
    seen: set[tuple[int, int]] = set()
    marked: list[int] = []
    for batch in batches:
        entered = entering(stage, batch)
        digests, rows = stage.survey(entered.batch)
        for identity, found in zip(
            identities(batch.indices)[entered.whole(rows)].tolist(), digests.tolist(), strict=True
        ):
            its = {(high, low) for high, low in found}
            if its & seen:
                marked.append(identity)
            seen |= its
    return np.array(sorted(marked), dtype=np.int64)


def _add(run: StageRun, made: Mapping[str, Result], start: int) -> None:
    for name, result in made.items():
        assert name in run.outputs, f"it gave samples to an output {name!r}, which it does not have"
        rows, kept, undecoded = decode(result.rows)
        positions = result.positions[kept]
        run.outputs[name] += [plain(row) for row in rows]
        run.origins[name] += [start + int(position) for position in positions]
        run.failures.extend(
            RowFailure(start + failure.offset, failure.reason, failure.where, failure.raw, failure.stage)
            for failure in (
                *result.failures,
                *(RowFailure(int(result.positions[f.offset]), f.reason) for f in undecoded),
            )
        )


def _kept(stage: Stage[Any], part: StageBatch, made: Sequence[Result]) -> Iterator[Row]:
    """What a run would keep of what a stage measured."""
    once = list({id(one): one for one in made}.values())
    failures = [failure for one in once for failure in one.failures]
    for found in measured(stage.kind, stage, part, part.indices, once, failures, 0.0, several=False):
        if found.values is not None:
            yield {"index": found.index, **plain({k: v for k, v in found.values.items() if k != SECONDS})}


def plain(value: Any) -> Any:
    """A value without arrays and numpy's own numbers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def forms(samples: Sequence[Row]) -> Iterator[tuple[str, Rows]]:
    """The samples in each form rows have that can hold them: dictionaries, JSON lines, Arrow columns."""
    yield "dictionaries", DictRows(copy.deepcopy(list(samples)))
    wanted = [dump(row) for row in samples]
    ends = np.cumsum([len(line) + 1 for line in wanted], dtype=np.int64) - 1
    lines = LineRows(
        b"".join(line + b"\n" for line in wanted), ends - np.array([len(x) for x in wanted], np.int64), ends
    )
    columns = _columns(samples)
    for name, rows in (("lines", lines), ("columns", columns)):
        if rows is not None and [(dump(r), _kinds(r)) for r in decode(rows)[0]] == [
            (line, _kinds(row)) for line, row in zip(wanted, samples, strict=True)
        ]:
            yield name, rows


def _columns(samples: Sequence[Row]) -> ArrowRows | None:
    try:
        return ArrowRows(pa.RecordBatch.from_pylist([plain(row) for row in samples])) if samples else None
    except (pa.ArrowException, TypeError, OverflowError):
        return None


def _kinds(row: Row) -> list[type]:
    return [type(plain(value)) for value in row.values()]


def assert_same_however_cut(given: Given, samples: Sequence[Row]) -> None:
    """A stage makes the same of the samples one at a time, a few at a time and all at once, in every form of rows, and
    measures the same of them."""
    expected = None
    for form, rows in forms(samples):
        for batch in (len(samples) or 1, 1, 2, 3, 7):
            run = run_stage(given, rows, batch=batch)
            found = {
                "samples": {
                    name: list(zip(run.origins[name], [dump(row) for row in made], strict=True))
                    for name, made in run.outputs.items()
                },
                "failed": [failure.offset for failure in run.failures],
                "measured": run.metrics,
            }
            expected = expected or found
            assert found == expected, f"{form}, {batch} at a time: {found}\nat first: {expected}"
