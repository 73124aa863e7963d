"""`dedupe`: one of all samples that are the same, or nearly the same, in the whole dataset."""

import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Row
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import dump
from data_bridge.runtime.stage import Fields, Result, StageBatch, StageOptions, Surveying, identities, option
from data_bridge.stages.named import look_up

_WORD = re.compile(r"\w+")
_SEED = 1


class DedupeOptions(StageOptions):
    fields: tuple[str, ...] = option((), description="fields that must be equal; default: all")
    near: str | None = option(None, description="instead: a text field that must be nearly the same")
    similarity: float = option(0.8, gt=0, lt=1, description="`near`: share of word sequences two texts have in common")
    words: int = option(5, gt=0, le=50, description="`near`: words in a sequence")
    missing: Literal["fail", "keep"] = option("fail", description="a sample without the field")

    @model_validator(mode="after")
    def _one_of_both(self) -> "DedupeOptions":
        if self.near is not None and self.fields:
            raise ValueError("`fields` and `near` exclude each other")
        return self


class Dedupe(Surveying[DedupeOptions]):
    """Keeps the first of equal samples, in the order of the source, over all its partitions.

    Equal are samples whose `fields` have the same JSON form (compared by 128 bits of BLAKE2), or whose text `near` has
    about `similarity` of its word sequences in common (MinHash; Broder 1997), found by locality-sensitive hashing: pairs
    just at the threshold are found or missed by chance, which is the same in every run.
    """

    kind = "dedupe"
    Options = DedupeOptions
    bypassable = True

    @property
    def drops(self) -> bool:
        return True

    @property
    def digests(self) -> int:  # type: ignore[override] # depends on the options
        return 1 if self.options.near is None else _bands(self.options.similarity)[0]

    def check(self) -> None:
        if self.options.near is not None:
            _minhash()

    def fields(self, fields: Fields) -> Fields:
        wanted = [self.options.near] if self.options.near is not None else list(self.options.fields)
        look_up(fields, wanted, "dedupe.near" if self.options.near else "dedupe.fields")
        return fields

    def libraries(self) -> Mapping[str, str]:
        return {} if self.options.near is None else {"datasketch": version("datasketch")}

    def survey(self, batch: StageBatch) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        found, rows, _ = batch.apply(self._digests_of())
        known = [(row, digest) for row, digest in zip(rows, found, strict=True) if digest is not None]
        digests = np.array([digest for _, digest in known], dtype=np.uint64).reshape(len(known), self.digests, 2)
        return digests, np.array([row for row, _ in known], dtype=np.int64)

    def process(self, batch: StageBatch) -> Result:
        look: Callable[[Row], Any] = self._exact if self.options.near is None else self._values
        _, kept, failures = batch.apply(look)
        if self.marked is not None and len(self.marked):
            mine = identities(batch.indices)[kept]
            at = np.minimum(np.searchsorted(self.marked, mine), len(self.marked) - 1)
            kept = kept[self.marked[at] != mine]
        return batch.only(kept).failing(failures)

    def _values(self, row: Row) -> Any:
        """What is compared; None where it is missing and may be."""
        options = self.options
        names = [options.near] if options.near is not None else options.fields
        for name in names:
            if row.get(name) is None:
                if options.missing == "keep":
                    return None
                raise BadRow(f"field {name!r} is {'null' if name in row else 'missing'}: it cannot be compared")
        if options.near is None:
            return {name: row[name] for name in names} if names else row
        if not isinstance(row[options.near], str):
            raise BadRow(f"field {options.near!r} is {type(row[options.near]).__name__}, not text")
        return row[options.near]

    def _digests_of(self) -> Callable[[Row], list[tuple[int, int]] | None]:
        if self.options.near is None:
            return self._exact
        count, rows = _bands(self.options.similarity)
        signature = _minhash()(count * rows, self.options.words)

        def near(row: Row) -> list[tuple[int, int]] | None:
            text = self._values(row)
            if text is None:
                return None
            values = signature(text).reshape(count, rows)
            return [_digest(number.to_bytes(2, "big") + band.tobytes()) for number, band in enumerate(values)]

        return near

    def _exact(self, row: Row) -> list[tuple[int, int]] | None:
        values = self._values(row)
        return None if values is None else [_digest(dump(values))]


def _digest(data: bytes) -> tuple[int, int]:
    found = hashlib.blake2b(data, digest_size=16).digest()
    return int.from_bytes(found[:8], "big"), int.from_bytes(found[8:], "big")


def _bands(similarity: float) -> tuple[int, int]:
    """Bands and rows of at most 128 hashes whose threshold (1/bands)^(1/rows) is nearest to the similarity."""
    choices = [(128 // rows, rows) for rows in range(1, 33)]
    return min(choices, key=lambda choice: abs((1 / choice[0]) ** (1 / choice[1]) - similarity))


def _minhash() -> Callable[[int, int], Callable[[str], NDArray[np.uint64]]]:
    """Makes what gives a text's signature. Raises ConfigError where the library is not installed."""
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ConfigError(
            "dedupe with `near` needs the library datasketch", hint="install train-data-bridge[dedupe]"
        ) from error

    def with_size(size: int, words: int) -> Callable[[str], NDArray[np.uint64]]:
        empty = MinHash(num_perm=size, seed=_SEED)

        def signature(text: str) -> NDArray[np.uint64]:
            found = _WORD.findall(text.lower()) or [text]  # without a word, only equal texts are alike
            sequences = {" ".join(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}
            sketch = empty.copy()
            sketch.update_batch([sequence.encode() for sequence in sorted(sequences)])
            values: NDArray[np.uint64] = sketch.hashvalues
            return values

        return signature

    return with_size
