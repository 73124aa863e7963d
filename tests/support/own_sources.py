"""Sources as a user writes them."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from data_bridge.io.own import SourceSettings, SourceStage
from data_bridge.model.batch import Row


def numbers(count: int = 10, start: int = 0) -> Iterator[Row]:
    for n in range(start, count):
        yield {"id": n, "text": f"number {n}"}


def letters(text: str = "abc") -> Iterator[Row]:
    """Knows no start."""
    for letter in text:
        yield {"letter": letter}


class FeedSettings(SourceSettings):
    parts: int = 3
    each: int = 70
    fails_at: int | None = None
    version: str = ""


class Feed(SourceStage):
    """Parts of numbers; every 17th sample is none."""

    Options = FeedSettings

    def parts(self) -> Sequence[str]:
        return [f"day/{n}" for n in range(self.options.parts)]

    def version(self) -> str:
        return str(self.options.version)

    def read(self, part: str, start: int) -> Iterator[Any]:
        first = int(part.partition("/")[2]) * self.options.each
        for n in range(start, self.options.each):
            if first + n == self.options.fails_at:
                raise OSError("the line is down")
            yield {"id": first + n, "text": "x" * (n % 30)} if (first + n) % 17 != 16 else None


def broken(**_: Any) -> Iterator[Row]:
    raise OSError("there is nothing")


def reused() -> Iterator[Row]:
    """Yields one dictionary again and again."""
    row: Row = {}
    for n in range(3):
        row["n"] = n
        yield row


def locked(token: str, start: int = 0) -> Iterator[Row]:
    """Tells its secret behind the samples that planning looks at."""
    for n in range(start, 5000):
        yield {"n": n}
    raise RuntimeError(f"login with {token} refused")


class Faulty(SourceStage):
    """Fails where its options say."""

    class Options(SourceSettings):
        at: str

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._fail("making")

    def _fail(self, at: str) -> None:
        if self.options.at == at:
            raise OSError("the line is down")

    def parts(self) -> Sequence[str]:
        self._fail("parts")
        return [1] if self.options.at == "numbers" else ["a"]  # type: ignore[list-item] # as a user may write it

    def version(self) -> str:
        self._fail("version")
        return ""

    def fields(self) -> None:
        self._fail("fields")

    def read(self, part: str, start: int) -> Iterator[Row]:
        del part, start
        yield {"n": 1}


class Generating(Faulty):
    def parts(self) -> Any:
        yield from ("a", "b")


five = partial(numbers, 5)


class AmplifierSettings(SourceSettings):
    parts: int = 6
    epochs: int = 200
    channels: int = 8
    frames: int = 16


class Amplifier(SourceStage):
    """Epochs of an EEG as an amplifier gives them: whole numbers, as arrays of the shape (channels, frames)."""

    Options = AmplifierSettings

    def parts(self) -> Sequence[str]:
        return [f"minute/{n}" for n in range(self.options.parts)]

    def read(self, part: str, start: int) -> Iterator[Row]:
        first = int(part.partition("/")[2]) * self.options.epochs
        for n in range(first + start, first + self.options.epochs):
            shape = self.options.channels, self.options.frames
            yield {"epoch": n, "eeg": np.random.default_rng(n).integers(-3000, 3000, shape, dtype=np.int16)}
