"""Stages whose results are bought: each answer is kept before it is used, and nobody asks for it twice."""

import copy
import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, ClassVar, Literal, Protocol

import msgspec
from msgspec.structs import force_setattr

from data_bridge.errors import FatalError, Interrupted
from data_bridge.model.answers import AnswerRecord
from data_bridge.model.batch import Media, Row
from data_bridge.rows.values import dump
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.pace import Pace
from data_bridge.runtime.stage import PLACE_BITS, O, Result, Stage, StageBatch

CALLS = 30
"""Calls at a time, unless told otherwise."""


class Answer(msgspec.Struct, frozen=True):
    """What came back for a sample, and what it cost, in numbers of any type. `value` is plain JSON values: `use` is given
    what a reader of that JSON gets. Raises ValueError for what is no cost."""

    value: Any
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    def __post_init__(self) -> None:
        cost, *tokens = found = [_number(each) for each in (self.cost_usd, self.tokens_in, self.tokens_out)]
        if not all(map(math.isfinite, found)) or min(found) < 0 or not all(each.is_integer() for each in tokens):
            raise ValueError(
                f"{self.cost_usd!r} dollars, {self.tokens_in!r} and {self.tokens_out!r} tokens are no cost"
            )
        # a journal with numbers of other types could not be read again
        force_setattr(self, "cost_usd", cost)
        force_setattr(self, "tokens_in", int(tokens[0]))
        force_setattr(self, "tokens_out", int(tokens[1]))


def _number(value: object) -> float:
    """A number of any type; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return math.nan
    try:
        return float(value)
    except (OverflowError, ValueError):  # too large, or a Decimal that signals
        return math.nan


class PaidStage(Stage[O]):
    """A stage that asks somebody who is paid for it, takes long, and never says the same twice (a language model).

    It is divided where the money is: `ask` is called once for a sample; what it returns is in a journal before `use` makes
    a sample of it, and every later run gets it from there. So shards follow from the source, the config and the journal.
    """

    executor: ClassVar[Literal["inline", "thread", "process", "llm"]] = "llm"

    @abstractmethod
    def ask(self, row: Row) -> Answer:
        """Ask for a sample, from any number of threads at a time. An exception is the failure of the sample: nothing is
        kept, and the next run asks again. What came back and was paid for but is of no use is an answer all the same:
        `use` refuses it."""

    @abstractmethod
    def use(self, row: Row, value: Any) -> Row | Measured[Row]:
        """The sample with the value of its answer: a function of both alone. An exception is the failure of the sample."""

    @abstractmethod
    def example(self, row: Row) -> Any:
        """A value such as an answer might have: with it the plan, and tests, see what samples will look like. Asks nobody."""

    def interrupt(self) -> None:
        """The run is to end. Calls under way are paid for: unless this makes them give up, their answers are waited for and kept."""

    def process(self, batch: StageBatch) -> Result:
        """What would become of a batch if the answers were those of `example`: a rehearsal, for which nobody pays."""
        return batch.each(lambda row: self.use(row, _plain(_encoded(self.kind, self.example(copy.deepcopy(row))))))


class Book(Protocol):
    """Where answers are kept."""

    def recall(self, key: str) -> bytes | None:
        """The value of an answer that was paid for, as JSON."""
        ...

    def keep(self, record: AnswerRecord) -> None:
        """Keep an answer. It is on disk when this returns."""
        ...


class Asking:
    """A paid stage that asks for what is not in the journal, and at its pace. `digest` is of the options that decide bytes,
    `commands` are those of its own that it was told."""

    def __init__(
        self,
        stage: PaidStage[Any],
        name: str,
        digest: str,
        book: Book,
        pace: Pace,
        commands: Sequence[Any] = (),
    ) -> None:
        self._stage = stage
        self._name = name
        self._asked = [name, digest, *commands]
        self._book = book
        self._pace = pace

    def one(self, row: Row, identity: int) -> Row | Measured[Row]:
        """What becomes of a row; `identity` is its number among all rows of the partition."""
        key = self._key(row, identity)
        value = self._book.recall(key)
        if value is None:
            if not self._pace.wait():
                raise Interrupted("the stage was stopped before it asked")
            answer = self._stage.ask(copy.deepcopy(row))
            value = _encoded(self._name, answer.value)
            self._book.keep(
                AnswerRecord(
                    stage=self._name,
                    key=key,
                    index=identity >> PLACE_BITS,
                    value=msgspec.Raw(value),
                    cost_usd=answer.cost_usd,
                    tokens_in=answer.tokens_in,
                    tokens_out=answer.tokens_out,
                )
            )
        return self._stage.use(row, _plain(value))

    def interrupt(self) -> None:
        """No further call begins."""
        self._pace.stop()
        self._stage.interrupt()

    def _key(self, row: Row, identity: int) -> str:
        said = [self._asked, identity, *((name, _content(value)) for name, value in row.items())]
        return hashlib.blake2b(dump(said), digest_size=16).hexdigest()


def options_digest(kind: str, options: Mapping[str, Any]) -> str:
    """Of what a stage's answers depend on besides the sample. `options` hold no secrets."""
    return hashlib.blake2b(dump([kind, dict(sorted(options.items()))]), digest_size=16).hexdigest()


def _content(value: Any) -> Any:
    """A field's value, or for a file its digest: files are large, and JSON makes them larger."""
    if isinstance(value, Media):
        return [value.path, hashlib.blake2b(value.data, digest_size=16).hexdigest()]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return hashlib.blake2b(value, digest_size=16).hexdigest()
    return value


def _encoded(name: str, value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FatalError(
            f"stage {name}: the value of an answer cannot be kept: {error}",
            hint="an Answer holds plain JSON values; let `use` make more of them",
        ) from error


def _plain(value: bytes) -> Any:
    return msgspec.json.decode(value)
