"""What an engine is: it hands partition numbers to slots and tells how each one ended."""

import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias

import msgspec

from data_bridge.errors import (
    BridgeError,
    BusyError,
    ConfigError,
    DataError,
    FatalError,
    Fenced,
    Interrupted,
    RetryableError,
    StoreError,
)
from data_bridge.events import Event, Observer, PartitionClaimed, PartitionFailed, ShardCommitted
from data_bridge.pipelines.commit import Control
from data_bridge.runtime.process import keep_freed_memory

PERMANENT = (ConfigError, DataError, RetryableError, StoreError)
"""Errors that end the handing out of work: every partition would meet them alike (a store that is down or refuses, a
full disk), or the user asked to stop at the first (a bad sample under `on_error: fail`)."""


class SlotControl(Control, Protocol):
    """What the work may ask of the slot it runs in: all that a partition's `Control` has. Any thread may call it."""

    @property
    def slots(self) -> int:
        """How many slots share what the run may use; 0 = as many as there were at the start."""
        ...


class Outcome(msgspec.Struct, frozen=True):
    """How one partition ended.

    `failed` concerns this partition, `permanent` would meet every partition and stops the run, `fenced` = taken
    over by another attempt, `busy` = claimed by another live run, `stopped` = not finished because the run ended.
    """

    partition: int
    kind: Literal["done", "failed", "fenced", "busy", "stopped", "permanent"]
    error: BridgeError | None = None
    index: int = 0
    """Samples committed when it ended."""
    trace: str = ""
    """Traceback text, when the exception was not one of ours."""


class Work(Protocol):
    """The work of one slot, made once in the slot's process, called with one partition after another.

    It sends the partition's events, but no `PartitionFailed`: it returns or raises, and the engine tells.
    """

    def __call__(self, partition: int, control: SlotControl, /) -> Outcome: ...


WorkFactory: TypeAlias = Callable[[], Work]
"""Makes the work inside a slot. Picklable for every engine that leaves this process."""

Poison: TypeAlias = Callable[[int], str]
"""Words for where a partition stands in the source; asked when it is given up as a crash loop ("" = unknown)."""


def nowhere(_partition: int, /) -> str:
    """The `Poison` that knows nothing."""
    return ""


class EngineReport(msgspec.Struct, frozen=True):
    """How a run of an engine ended: an outcome for every partition it was given."""

    outcomes: Mapping[int, Outcome]
    interrupted: bool = False
    """A signal ended the run (it may have been complete all the same)."""
    error: BridgeError | None = None
    """What ended the run early, else the error of the first partition that failed."""
    trace: str = ""
    """Traceback text of `error`, when the exception was not one of ours."""
    peak_bytes: int = 0
    """Largest resident memory of any one slot; 0 = not known."""


class Engine(Protocol):
    """Runs the work over partitions. Trusted with speed and survival, never with exactly-once."""

    def ready(self, factory: WorkFactory, partitions: Sequence[int]) -> AbstractContextManager[None]:
        """Start what the next `run` of the same needs; what was not used is ended with the block.

        For a process that is about to start threads: before that, a worker is started at a tenth of the cost.
        """
        ...

    def run(
        self, factory: WorkFactory, partitions: Sequence[int], observer: Observer, *, poison: Poison = nowhere
    ) -> EngineReport:
        """Give every partition to a slot, in the order given, and return when none is in work.

        The observer is called in this process, one event at a time; when it raises, slots are told to stop
        and its exception leaves `run`. The first SIGINT or SIGTERM stops with a report, the second raises
        Interrupted at once. Raises ConfigError for a factory that cannot reach the slots.
        """
        ...


def committed(index: int, event: Event) -> int:
    """The committed samples of a partition after one of its events."""
    if isinstance(event, PartitionClaimed):
        return event.index
    if isinstance(event, ShardCommitted):
        return index + event.samples + event.failed
    return index


def last_line(error: BaseException) -> str:
    """`ValueError: what it said`."""
    return traceback.format_exception_only(error)[-1].strip()


def make(factory: WorkFactory) -> Work:
    """Make the work of a slot; whatever goes wrong is a BridgeError that every slot would meet."""
    keep_freed_memory()
    try:
        return factory()
    except BridgeError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"a worker cannot start: {last_line(error)}", hint="install what is missing, or correct its name"
        ) from error
    except Exception as error:
        raise FatalError(f"a worker cannot start: {last_line(error)}") from error


class CountingControl(SlotControl, Protocol):
    """A control that knows from the events how far its partition is."""

    index: int


def attempt(work: Work, partition: int, control: CountingControl) -> Outcome:
    """Call the work once; what it raises becomes an outcome."""
    control.index = 0
    try:
        return work(partition, control)
    except BridgeError as error:
        return Outcome(partition, _kind(error), error, control.index)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - stages run foreign code: one boundary for all of it
        fatal = FatalError(f"partition {partition} failed: {last_line(error)}")
        return Outcome(partition, "failed", fatal, control.index, traceback.format_exc())


def _kind(error: BridgeError) -> Literal["failed", "fenced", "busy", "stopped", "permanent"]:
    if isinstance(error, Fenced):
        return "fenced"
    if isinstance(error, BusyError):
        return "busy"
    if isinstance(error, PERMANENT):
        return "permanent"
    return "stopped" if isinstance(error, Interrupted) else "failed"


class Audience:
    """The observer behind a guard: one event at a time, and silence after its first exception.

    An exception of the observer must neither be taken for a failure of the work nor leave slots running:
    it is kept in `error`, and the engine raises it when the slots have ended.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def __call__(self, event: Event, /) -> None:
        with self._lock:
            if self.error is None:
                try:
                    self._observer(event)
                except Exception as error:  # noqa: BLE001 - raised again once the slots have ended
                    self.error = error


class Results:
    """Outcomes as they come in; tells the audience of failures, of a permanent one only once."""

    def __init__(self, partitions: Iterable[int], audience: Audience) -> None:
        self._partitions = tuple(partitions)
        self._audience = audience
        self._outcomes: dict[int, Outcome] = {}
        self._stopper: tuple[BridgeError, str] | None = None
        self._first: tuple[BridgeError, str] | None = None

    @property
    def ended_early(self) -> bool:
        """Whether something happened that every further partition would meet as well."""
        return self._stopper is not None

    def add(self, outcome: Outcome) -> None:
        self._outcomes[outcome.partition] = outcome
        if outcome.kind not in ("failed", "permanent"):
            return
        error = outcome.error or FatalError(f"partition {outcome.partition} failed without saying why")
        if self._first is None:
            self._first = (error, outcome.trace)
        if outcome.kind == "permanent":
            if self._stopper is not None:
                return
            self._stopper = (error, outcome.trace)
        self._audience(PartitionFailed(outcome.partition, error.message, error.hint))

    def end_early(self, error: BridgeError, trace: str = "") -> None:
        """Something outside any partition ends the run; the first such error counts."""
        self._stopper = self._stopper or (error, trace)

    def report(self, *, interrupted: bool, drained: bool = False, peak_bytes: int = 0) -> EngineReport:
        """Everything known; partitions that never ended are `stopped`. One that was told to drain and failed on the way
        has failed."""
        error, trace = self._stopper or self._first or (None, "")
        interrupted = interrupted or (drained and error is None)
        outcomes = {p: self._outcomes.get(p) or Outcome(p, "stopped") for p in self._partitions}
        return EngineReport(outcomes, interrupted, error, trace, peak_bytes)
