"""Keys of many samples at once, made of their numbers: no text per sample where only its bytes are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class IndexKeys(Sequence[str]):
    """`<prefix><number, zero-padded to digits>` for each number (int64, shape (n,), ascending, none twice, none negative)."""

    prefix: str
    numbers: NDArray[np.int64]
    digits: int

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> "IndexKeys": ...
    def __getitem__(self, at: int | slice) -> "str | IndexKeys":
        if isinstance(at, slice):
            return IndexKeys(self.prefix, self.numbers[at], self.digits)
        return f"{self.prefix}{int(self.numbers[at]):0{self.digits}d}"

    @property
    def width(self) -> int:
        """Characters of the longest key."""
        return len(self.prefix) + max(self.digits, len(str(int(self.numbers[-1]))) if len(self.numbers) else 0)

    def characters(self) -> NDArray[np.uint8] | None:
        """The keys in ASCII, one a row: uint8 of shape (n, width); None where their lengths differ."""
        if self.width != len(self.prefix) + self.digits:
            return None
        found = np.empty((len(self), self.width), dtype=np.uint8)
        found[:, : len(self.prefix)] = np.frombuffer(self.prefix.encode("ascii"), dtype=np.uint8)
        rest = self.numbers
        for place in range(self.width - 1, len(self.prefix) - 1, -1):
            rest, digit = np.divmod(rest, 10)
            found[:, place] = digit + ord("0")
        return found
