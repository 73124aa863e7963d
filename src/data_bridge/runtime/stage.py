"""What the author of a stage sees: some rows in, some rows out, and where each came from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data_bridge.errors import BridgeError, FatalError
from data_bridge.model import source
from data_bridge.model.batch import DictRows, Row, RowFailure, Rows
from data_bridge.model.metrics import Metric
from data_bridge.rows.decoding import BadRow, decode
from data_bridge.rows.picking import take
from data_bridge.runtime.context import Context, RunTotals
from data_bridge.runtime.measuring import Measured, RowMetrics, parted
from data_bridge.runtime.queue import Overflow
from data_bridge.runtime.schemas import report_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from data_bridge.runtime.control import Request

IN = "in"
"""The name of an input that is the only one."""
OUT = "out"
"""The name of an output that is the only one."""

PLACE_BITS = 20
"""Of an identity, those below the source index: a sample may become a million."""

Live = Literal["never", "paused", "any"]
Fields: TypeAlias = tuple[source.Field, ...]
RowSchema: TypeAlias = "type[BaseModel] | pa.Schema | None"
"""Fields of a sample that somebody counts on, there may be others; None where nothing is said of them."""
T = TypeVar("T")


class Skip(Exception):
    """Raised by a stage's function for a sample it cannot use: the message is the reason in the failure records."""


class StageOptions(BaseModel):
    """Base of a kind's options: closed, frozen, checked when the plan is made and when one is changed in a running stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)


def option(default: Any = ..., *, live: Live = "never", description: str, **limits: Any) -> Any:
    """An option and whether it may change in a running stage: never, while the run is paused, or at any time."""
    return Field(default, description=description, json_schema_extra={"live": live}, **limits)


class StageBatch(msgspec.Struct, frozen=True):
    """Some consecutive samples on their way. `indices[i]` is the source index of row i (int64, shape (n,)), in the key
    space that `prefix` names: together they are the same in every run, whatever the number of workers."""

    rows: Rows
    indices: NDArray[np.int64]
    prefix: str = ""
    mine: frozenset[str] = frozenset()
    """Fields whose numbers the stage may overwrite in place: the stage before it made that memory (`Result.made`), and
    nobody else reads it."""
    inputs: tuple[str, ...] = ()
    """Names of the inputs of a stage that tells them apart."""
    origins: NDArray[np.int64] | None = None
    """By which of those each row came: their numbers, shape (n,)."""

    def __len__(self) -> int:
        return len(self.rows)

    def same(self, rows: Rows) -> "Result":
        """Every row became the one at its place in `rows`."""
        return Result(rows, np.arange(len(self.rows), dtype=np.int64))

    def only(self, positions: NDArray[np.int64]) -> "Result":
        """The rows at `positions` as they are; the others were dropped on purpose."""
        return Result(take(self.rows, positions), positions)

    def apply(self, function: Callable[[Row], T]) -> "tuple[list[T], NDArray[np.int64], list[RowFailure]]":
        """What a function says of every row, the positions of those rows, and the failures of the others.

        The one boundary around foreign code: an exception is the failure of its sample, and the others go on; what is a
        `BridgeError` concerns more than the sample and passes.
        """
        rows, positions, failures = decode(self.rows)
        if isinstance(self.rows, DictRows):
            rows = [dict(row) for row in rows]  # others may hold the same: what a function changes in place is its own
        found: list[T] = []
        raised: dict[int, RowFailure] = {}
        for at, row in enumerate(rows):
            try:
                found.append(function(row))
            except BridgeError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything: the failure of this sample
                raised[at] = RowFailure(int(positions[at]), reason(error))
        good = np.delete(positions, list(raised)) if raised else positions
        return found, good, sorted((*failures, *raised.values()), key=lambda f: f.offset)

    def each(self, function: "Callable[[Row], Row | Measured[Row]]") -> "Result":
        """Every row as a function of it says; see `apply`."""
        found, positions, failures = self.apply(function)
        rows, metrics = parted(found, positions)
        return Result(DictRows(rows), positions, tuple(failures), metrics=metrics)

    def several(self, function: "Callable[[Row], Sequence[Row] | Measured[Sequence[Row]]]") -> "Result":
        """Every row as the rows, maybe none, that a function of it gives; see `apply`."""
        found, positions, failures = self.apply(function)
        made, metrics = parted(found, positions)
        counts = [len(rows) for rows in made]
        return Result(
            DictRows([row for rows in made for row in rows]),
            np.repeat(positions, counts),
            tuple(failures),
            metrics=metrics,
        )


def reason(error: BaseException) -> str:
    """An exception as the reason of a failure."""
    if isinstance(error, (Skip, BadRow)):
        return str(error)
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


class Result(msgspec.Struct, frozen=True):
    """What a stage made of a batch. Row i came from the batch's row `positions[i]` (int64, shape (n,), ascending unless
    the stage takes whole blocks; a row may have become several). `failures` are rows it could not use, by `offset` = row
    of the batch. A row in neither was dropped on purpose, and is counted."""

    rows: Rows
    positions: NDArray[np.int64]
    failures: tuple[RowFailure, ...] = ()
    used: NDArray[np.int64] | None = None
    """Rows of the batch that are part of `rows`, where that are more than those in `positions`; int64, shape (n,)."""
    made: frozenset[str] = frozenset()
    """Fields whose numbers, in arrays or columns, stand in memory that the stage took for this result alone, or was given
    as `StageBatch.mine`: whoever reads them may overwrite them if nobody else does."""
    metrics: RowMetrics = ()
    """What was measured of rows of the batch: the row, and values by the names of `metrics_schema`."""

    def measuring(self, metrics: Mapping[int, Mapping[str, Any]]) -> "Result":
        """With what was measured of rows of the batch, also of such that failed or were dropped."""
        return replace(self, metrics=(*self.metrics, *metrics.items()))

    def failing(self, failures: Sequence[RowFailure]) -> "Result":
        """With further failures, whose rows are not in `rows`."""
        both = sorted([*self.failures, *failures], key=lambda f: f.offset)
        return replace(self, failures=tuple(both))

    def owning(self, *fields: str) -> "Result":
        """The same, with these fields in `made`."""
        return replace(self, made=frozenset(fields))


O = TypeVar("O", bound=StageOptions)  # noqa: E741 - the usual letter


class Outlet(msgspec.Struct, frozen=True):
    """One output as the config names it."""

    name: str = OUT
    weight: float | None = None


class Stage(ABC, Generic[O]):
    """One transform. A pure function of a batch: the same rows and indices always give the same result, whichever process
    applies it and however the source is cut into batches. What it needs is in its options; queues, workers, retries,
    metrics and resume are none of its business.

    Made once per process. The constructor starts and opens nothing; `setup` does, before the first batch.
    """

    kind: ClassVar[str]
    """The key that names it in a config."""
    Options: ClassVar[type[StageOptions]] = StageOptions
    executor: ClassVar[Literal["inline", "thread", "process", "llm"]] = "inline"
    """Where it runs unless the config says otherwise. `thread`: it waits (for a network) more than it computes. `llm`: that
    of a `PaidStage`."""
    bypassable: ClassVar[bool] = True
    """Whether samples may pass it unchanged: not where what follows needs what it makes."""
    divides: ClassVar[bool] = False
    """Whether its outputs hold different samples. Else every output that the config names holds the same."""
    input_schema: ClassVar[RowSchema] = None
    """What it needs of a sample: fields that cannot fit are told in the plan, a sample that does not is a failure and is not
    given to it. Values are taken as they are (`"5"` is no number), files as bytes, arrays as lists, times as text."""
    output_schema: ClassVar[RowSchema] = None
    """What every sample has that it gives: one that does not have it is the failure of the sample it was made of."""
    metrics_schema: ClassVar[RowSchema] = None
    """What it measures of a sample, besides what is known of each: its `index` and `key`, the `seconds` it took, and
    `cost_usd` where the stage tells one."""
    report_schema: ClassVar[RowSchema] = None
    """Those of its metrics that tell of quality: the columns of its report. None = it has no report."""
    reported: bool = False
    """Whether the user wants its report: what only that needs may be left unmeasured where it is False."""

    commands: ClassVar[Mapping[str, str]] = {}
    """Commands of its own that change what it makes, each with what it does: `control` answers them."""
    questions: ClassVar[Mapping[str, str]] = {}
    """Commands of its own that change nothing, each with what is asked."""

    def __init__(self, options: O, outlets: Sequence[Outlet] = ()) -> None:
        report_columns(type(self))  # refuses one that shows what is not measured
        self.options = options
        self.outlets = tuple(outlets) or (Outlet(),)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs."""
        return tuple(outlet.name for outlet in self.outlets)

    @property
    def drops(self) -> bool:
        """Whether it may leave out samples."""
        return False

    @property
    def multiplies(self) -> bool:
        """Whether it may make several of one."""
        return False

    @property
    def block(self) -> int:
        """Source samples it must see together, counted from the start of a partition; 0 = any batch will do."""
        return 0

    @property
    def row_bytes(self) -> int:
        """What it may add to one row, where that is so much that few rows must be held at a time; 0 = it is not."""
        return 0

    def source_order(self, runs: int) -> "NDArray[np.int64] | None":
        """The order in which the runs of rows that the source is made of (row groups, files) are to be read, where it
        wants another than theirs: their numbers, int64 of shape (runs,). Asked once, for the plan."""
        del runs
        return None

    def check(self) -> None:
        """What only looking outside can tell (a function that cannot be imported). Raises ConfigError; before any work."""

    def before(self, context: Context) -> None:
        """Look whether the run can be; raises ConfigError, which says what to do, where it cannot. Called by a run, not by
        `plan`, on an instance of its own: once the plan stands, for all stages, before any of them gets a sample; again by a
        run that goes on."""

    def after(self, context: Context, totals: RunTotals) -> None:
        """Once the dataset is complete: a report, say. On an instance of its own, that has seen no sample. What it raises
        ends the run with an error that says that the dataset is complete, and the next run calls it again; so does one
        after a crash at this moment."""

    def fields(self, fields: Fields) -> Fields | None:
        """The fields at its output for those at its input; None where only running it over the first rows can tell.

        Raises ConfigError naming the option and the field where they do not go together.
        """
        del fields
        return None

    def libraries(self) -> Mapping[str, str]:
        """Name and version of all that its bytes depend on besides the options: libraries, models."""
        return {}

    def code(self) -> Mapping[str, str]:
        """Name and digest of the user's code that it calls: it may be mended before failed samples are tried again."""
        return {}

    def control(self, request: "Request") -> dict[str, Any] | None:
        """Do one of its `commands`, or answer one of its `questions`: what it says, as plain JSON values; None = it does not
        understand. An exception refuses, with its message, and nothing may have changed then.

        Between two batches, and before `setup`. Every instance that is made later is told the same commands in the same
        order, so what it does must follow from the options, the commands before it and the request alone.
        """
        del request
        return None

    def setup(self) -> None:
        """Open what it needs, once per process."""

    def flush_metrics(self) -> Sequence[Metric]:
        """What it counted of its own since the last call, after each batch; counting starts anew. Rows, failures and
        seconds are counted for it. A name of its own needs nothing else: it is shown and exported as it is."""
        return ()

    def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    def process(self, batch: StageBatch) -> "Result | Mapping[str, Result]":
        """What becomes of a batch: a `Result`, or one for each output of a stage that divides.

        A sample it cannot use is a failure in the result; an exception concerns the whole run.
        """


def by_output(stage: Stage[Any], made: Result | Mapping[str, Result]) -> Mapping[str, Result]:
    """What a stage made, by output; of one that only looks at samples, what it has seen under the usual name."""
    if isinstance(made, Mapping):
        return made
    return {stage.outputs[0]: made} if stage.divides else dict.fromkeys(stage.outputs or (OUT,), made)


class SideStage(Stage[O]):
    """A stage that only looks at samples, beside their way to the writers: it has no output, and decides no byte. Made in
    each slot for each partition, in a thread of its own, behind a queue. After a crash it sees some samples again.

    What goes wrong in it ends it, not the run.
    """

    overflow: ClassVar[Overflow] = "BLOCK"
    """What a full queue before it does, unless the config says otherwise: the run waits for it, or it misses some."""
    folder: Path | None = None
    """Where it may leave files for a person: `stages/<name>` in the run's folder on this machine, which it has to make and
    which it shares with other slots. None where there is no run."""

    @property
    def outputs(self) -> tuple[str, ...]:
        return ()

    @property
    def most(self) -> int:
        """Samples of a packet that it looks at, the last ones; the others are not even sent to it. 0 = all."""
        return 0

    @abstractmethod
    def look(self, batch: StageBatch) -> Sequence[RowFailure]:
        """Look at some samples. Those it could not use are counted, and are failures of nothing else."""

    def process(self, batch: StageBatch) -> Result:
        """What it has seen; nobody gets it."""
        failures = tuple(self.look(batch))
        seen = batch.same(batch.rows)
        if failures:
            every = np.arange(len(batch), dtype=np.int64)
            seen = batch.only(np.delete(every, [f.offset for f in failures]))
        return seen.failing(failures)


class StatefulStage(Stage[O]):
    """A stage for which the samples before it matter. It gets all samples of a partition in source order, in the slot's own
    process; with each partition one begins anew. What it makes must follow from its state and the samples alone.

    Its state is kept with every shard, so that whoever goes on behind that shard makes what would have been made.
    """

    @abstractmethod
    def save_state(self) -> Any:
        """All that it needs to go on behind the samples it was given: plain JSON values, few KiB."""

    @abstractmethod
    def load_state(self, state: Any) -> None:
        """Go on as the one that saved this would; before the first batch."""


class Surveying(Stage[O]):
    """A stage that must know all samples before it can judge one. A run looks at the whole source twice: first `survey`
    gives a few digests of each sample, and a sample with a digest that an earlier one has (in source order, over all
    partitions) is marked; then `process` is told by `marked` which those are."""

    digests: int = 1
    """How many digests a sample has."""
    marked: NDArray[np.int64] | None = None
    """Samples of the partition in work that are marked, by `identities`, ascending; None where nobody has looked yet."""

    @abstractmethod
    def survey(self, batch: StageBatch) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Digests, uint64 of shape (n, digests, 2), and the rows they are of, int64 of shape (n,); a row that cannot be
        judged has none, and `process` says why."""


def identities(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for every row that no other of its partition has, int64 of shape (n,): of its source index and of its
    place among the rows with that index. All of those must be given together."""
    order = np.argsort(indices, kind="stable")
    sorted_ = indices[order]
    first = np.searchsorted(sorted_, sorted_)
    places = np.empty(len(indices), dtype=np.int64)
    places[order] = np.arange(len(indices), dtype=np.int64) - first
    if len(places) and int(places.max()) >= 1 << PLACE_BITS:
        raise FatalError(f"a sample became more than {1 << PLACE_BITS:,} rows")
    return (indices << PLACE_BITS) + places
