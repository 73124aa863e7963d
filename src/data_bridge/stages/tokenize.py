"""`tokenize`: texts as arrays of token numbers, each for itself or packed into blocks of one length."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, model_validator

from data_bridge.config.fields import Count
from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Row, RowFailure
from data_bridge.model.source import Field
from data_bridge.rows.arrow import is_text
from data_bridge.rows.buffers import bounds, buffer_of, valid
from data_bridge.rows.picking import take
from data_bridge.runtime.stage import Fields, Result, Skip, Stage, StageBatch, StageOptions, option
from data_bridge.stages import tokenizing
from data_bridge.stages.columns import TEXT_TYPES, demand, with_fields
from data_bridge.stages.named import column_of, with_columns


class TokenizeOptions(StageOptions):
    tokenizer: str = option(description="path of a `tokenizer.json` or its folder, or `hf://org/name@commit`")
    field: str = option("text", description="field with the text")
    to: str = option("tokens", description="field that gets the token numbers")
    dtype: Literal["int32", "uint16"] = option(
        "int32", description="type of the numbers; `uint16` where the vocabulary fits"
    )
    special_tokens: bool = option(True, description="let the tokenizer add the special tokens it is made to add")
    append: str | None = option(None, description="token behind every text, such as `<|endoftext|>`")
    max_length: Count | None = option(
        None, gt=0, description="cut longer texts to so many tokens, `append` not counted"
    )
    block: Count | None = option(
        None, gt=0, description="pack the tokens of all texts into blocks of this length; other fields are left out"
    )
    together: Count = option(1000, gt=0, description="source samples that are packed together (with `block`)")
    tail: Literal["pad", "drop"] = option(
        "pad", description="what is left at the end of those: fill the block up, or leave it out"
    )
    pad_token: str | None = option(None, description="token that fills up; default: as the tokenizer says")

    @model_validator(mode="after")
    def _packing(self) -> Self:
        given = self.model_fields_set & {"together", "tail", "pad_token"}
        if self.block is None and given:
            raise ValueError(f"`{min(given)}` has no meaning without `block`")
        return self


class TokenizeMetrics(BaseModel):
    tokens: int


class Tokenize(Stage[TokenizeOptions]):
    """Adds the token numbers of a text to its sample, or makes samples of one field that all hold `block` tokens.

    Blocks are packed from `together` source samples at a time, counted from the start of a partition, so that they are
    the same in every run. Each has the key of the sample its first token is from; samples of which no token is in a block
    count as left out.

    Its report has the number of tokens of each text.
    """

    kind = "tokenize"
    Options = TokenizeOptions
    metrics_schema = report_schema = TokenizeMetrics
    bypassable = False

    @property
    def drops(self) -> bool:
        return self.options.block is not None

    @property
    def multiplies(self) -> bool:
        return self.options.block is not None

    @property
    def block(self) -> int:
        return self.options.together if self.options.block is not None else 0

    def check(self) -> None:
        tokenizing.demand_tokenizers()
        self.setup()

    def fields(self, fields: Fields) -> Fields:
        demand(fields, self.options.field, "field", TEXT_TYPES)
        made = Field(name=self.options.to, type=f"list<{self.options.dtype}>", nullable=False)
        return with_fields(fields, made) if self.options.block is None else (made,)

    def libraries(self) -> Mapping[str, str]:
        return tokenizing.versions(self.options.tokenizer)

    def setup(self) -> None:
        options = self.options
        self._dtype: Any = np.dtype(options.dtype)
        self._tokens = tokenizing.Tokens(
            options.tokenizer, special_tokens=options.special_tokens, max_length=options.max_length
        )
        if (largest := self._tokens.largest) > np.iinfo(self._dtype).max:
            raise ConfigError(f"dtype: the tokenizer has numbers up to {largest}", hint="use dtype: int32")
        end = [] if options.append is None else [self._tokens.number(options.append, "append")]
        self._end = np.array(end, dtype=self._dtype)
        self._fill = 0
        if options.block is not None and options.tail == "pad":
            given = options.pad_token
            fill = self._tokens.padding if given is None else self._tokens.number(given, "pad_token")
            if fill is None:
                raise ConfigError(
                    "the tokenizer does not say which token fills up", hint="set pad_token, or tail: drop"
                )
            self._fill = fill

    def process(self, batch: StageBatch) -> Result:
        if self.options.block is not None:
            texts, positions, failures = batch.apply(self._text)
            numbers, good, bad = self._numbers(texts, positions.tolist())
            return self._packed(numbers, good).failing([*failures, *bad]).measuring(self._counts(numbers, good))
        if isinstance(batch.rows, ArrowRows):
            found = self._column(batch.rows)
            if found is not None:
                return found
        pairs, positions, failures = batch.apply(lambda row: (self._text(row), row))
        numbers, good, bad = self._numbers([text for text, _ in pairs], positions.tolist())
        by_position = dict(zip(positions.tolist(), (row for _, row in pairs), strict=True))
        rows: list[Row] = [{**by_position[at], self.options.to: each} for at, each in zip(good, numbers, strict=True)]
        made = Result(DictRows(rows), np.array(good, dtype=np.int64)).failing([*failures, *bad])
        return made.measuring(self._counts(numbers, good))

    def _counts(self, numbers: Sequence[NDArray[Any]], good: Sequence[int]) -> dict[int, dict[str, int]]:
        """What is measured of the texts at these positions."""
        return {at: {"tokens": len(each)} for at, each in zip(good, numbers, strict=True)} if self.reported else {}

    def _text(self, row: Row) -> str:
        text = row.get(self.options.field)
        if not isinstance(text, str):
            how = "missing or null" if text is None else f"{type(text).__name__}, not text"
            raise Skip(f"field {self.options.field!r} is {how}")
        return text

    def _numbers(
        self, texts: Sequence[str], positions: Sequence[int]
    ) -> tuple[list[NDArray[Any]], list[int], list[RowFailure]]:
        """Tokens of the texts, the positions of those that have some, and the failures of the others."""
        try:
            found = self._tokens(texts, self._dtype)
            return [self._ended(each) for each in found], list(positions), []
        except Exception:  # noqa: BLE001 - one bad text fails them all: see which
            numbers, good, bad = [], [], []
        for text, position in zip(texts, positions, strict=True):
            try:
                numbers.append(self._ended(self._tokens([text], self._dtype)[0]))
                good.append(position)
            except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
                bad.append(RowFailure(position, f"the tokenizer refuses the text: {str(error)[:200]}"))
        return numbers, good, bad

    def _ended(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate((numbers, self._end)) if len(self._end) else numbers

    def _column(self, rows: ArrowRows) -> Result | None:
        """The rows with a column more; the others are not looked at. None where the text is no column of text."""
        texts = column_of(rows.batch, self.options.field)
        if texts is None or not is_text(texts.type):
            return None
        present = valid(texts) if texts.null_count else np.ones(len(texts), dtype=bool)
        positions = np.flatnonzero(present).tolist()
        numbers, good, bad = self._numbers(texts.drop_null().to_pylist(), positions)
        bad += [
            RowFailure(at, f"field {self.options.field!r} is missing or null")
            for at in np.flatnonzero(~present).tolist()
        ]
        kept = np.array(good, dtype=np.int64)
        left = rows if len(good) == len(rows) else take(rows, kept)
        assert isinstance(left, ArrowRows), "taken from Arrow columns"
        made = with_columns(left.batch, {self.options.to: self._lists(numbers)})
        return Result(ArrowRows(made), kept).failing(bad).measuring(self._counts(numbers, good))

    def _lists(self, numbers: Sequence[NDArray[Any]]) -> Any:
        import pyarrow as pa

        ends = bounds(np.fromiter(map(len, numbers), np.int64, len(numbers)))
        joined = np.concatenate(numbers) if numbers else np.zeros(0, dtype=self._dtype)
        items = pa.array(joined)
        return pa.Array.from_buffers(pa.large_list(items.type), len(numbers), [None, buffer_of(ends)], children=[items])

    def _packed(self, numbers: Sequence[NDArray[Any]], positions: Sequence[int]) -> Result:
        """All tokens in blocks of one length, each from the sample of its first token."""
        size = self.options.block or 1
        lengths = np.fromiter(map(len, numbers), np.int64, len(numbers))
        total = int(lengths.sum())
        whole, rest = divmod(total, size)
        count = whole + bool(rest and self.options.tail == "pad")
        tokens = np.full(max(count * size, total), self._fill, dtype=self._dtype)
        if total:
            tokens[:total] = np.concatenate(numbers)
        ends = np.cumsum(lengths)
        first = np.searchsorted(ends, np.arange(count, dtype=np.int64) * size, side="right")
        rows = DictRows([{self.options.to: tokens[n * size : (n + 1) * size]} for n in range(count)])
        places = np.array(positions, dtype=np.int64)
        begun = (lengths > 0) & (ends - lengths < count * size)
        return Result(rows, places[first], used=places[begun])
