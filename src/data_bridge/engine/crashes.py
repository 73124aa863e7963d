"""Partitions that lose their worker again and again are given up."""

from collections import Counter

from data_bridge.engine.base import Outcome, Poison, committed
from data_bridge.errors import FatalError
from data_bridge.events import Event


class Crashes:
    """Where each partition in work stands, and how often it lost its worker there."""

    def __init__(self, limit: int, poison: Poison) -> None:
        self.limit = limit
        self._poison = poison
        self._index: dict[int, int] = {}
        self._deaths: dict[int, Counter[int]] = {}

    def follow(self, partition: int, event: Event) -> None:
        self._index[partition] = committed(self.index(partition), event)

    def index(self, partition: int) -> int:
        """Samples committed, as far as the driver was told."""
        return self._index.get(partition, 0)

    def death(self, partition: int, why: str) -> Outcome | None:
        """Count one; an outcome when the partition is to be given up."""
        index = self.index(partition)
        deaths = self._deaths.setdefault(partition, Counter())
        deaths[index] += 1
        if deaths[index] < self.limit:
            return None
        where = self._poison(partition)
        error = FatalError(
            f"partition {partition} killed its worker {self.limit} times at sample {index}"
            f"{f' ({where})' if where else ''}; the last one {why}",
            hint="all samples before it are committed; look at those that follow. SIGKILL from outside usually means "
            "that memory ran out: use fewer workers",
        )
        return Outcome(partition, "failed", error, index)

    def forget(self, partition: int) -> None:
        """The partition has ended."""
        self._index.pop(partition, None)
        self._deaths.pop(partition, None)
