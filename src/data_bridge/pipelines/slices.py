"""A run divided among processes that know nothing of each other: each brings its slice of the plan's partitions to
their end, and one `finalize` publishes what all of them made.

Which partitions a slice has follows from the plan alone, so no process hands them out. The ledger decides as ever: slices
that overlap (another number of them, the same one twice) meet at the partitions' claims.
"""

import heapq
import re
from collections.abc import Iterable, Mapping

import msgspec

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, ConflictError, RetryableError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Plan
from data_bridge.model.report import SliceStatus
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines import planning

MOST = 10_000


class Slice(msgspec.Struct, frozen=True):
    """Number `number` of `of`, counted from 1."""

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """`2/3`. Raises ConfigError for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        found = cls(int(match[2]), int(match[1])) if match else None
        if found is None or not 1 <= found.number <= found.of <= MOST:
            raise ConfigError(
                f"{text!r} is no slice", hint="name one of N as 1/N to N/N: `--slice 2/3` is the second of three"
            )
        return found

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def of_run(self, run: str) -> str:
        """What it is called on a machine where several may work."""
        return f"{run}-{self.number}of{self.of}"

    def partitions(self, plan: Plan) -> frozenset[int]:
        """Those it has to bring to their end."""
        homes = divided(plan, self.of)
        return frozenset(p.index for p, home in zip(plan.partitions, homes, strict=True) if home == self.number)

    def note(self, store: ObjectStore, run: str) -> None:
        """Leave word at the destination that it is made in so many slices: `finalize` can then name those that are missing."""
        store.put_if_absent(f"{_folder(run)}{self.number:05d}-of-{self.of:05d}.json", b'{"v":1}\n')


def named(run: str, part: str | None) -> str:
    """What a run, or a slice of it, is called on the machine where it works."""
    return Slice.parse(part).of_run(run) if part is not None else run


def divided(plan: Plan, of: int) -> list[int]:
    """The slice of each partition: the largest first, each to the slice that has least. What a generation adds to the plan
    moves none of the partitions before it."""
    homes: list[int] = []
    for generation in plan.generations:
        found: dict[int, int] = {}
        heap = [(0, 0, number) for number in range(1, of + 1)]
        for partition in sorted(generation.partitions, key=lambda p: (-(p.bytes or 0), p.index)):
            size, count, number = heap[0]
            found[partition.index] = number
            heapq.heapreplace(heap, (size + (partition.bytes or 0), count + 1, number))
        homes += [found[partition.index] for partition in generation.partitions]
    return homes


def noted(store: ObjectStore, run: str) -> list[int]:
    """Into how many slices the run was divided, by the words they left; several where that was changed on the way."""
    found = (re.fullmatch(r".*/\d+-of-(\d+)\.json", key) for key in store.list_keys(_folder(run)))
    return sorted({int(match[1]) for match in found if match})


def _folder(run: str) -> str:
    return f"_bridge/{run}/slices/"


def slice_statuses(plan: Plan, logs: Mapping[int, PartitionLog], of: int) -> tuple[SliceStatus, ...]:
    """How each of so many slices stands, by the ledger."""
    made: list[list[PartitionLog]] = [[] for _ in range(of)]
    for partition, home in zip(plan.partitions, divided(plan, of), strict=True):
        made[home - 1].append(logs[partition.index])
    return tuple(
        SliceStatus(
            slice=str(Slice(of, number)),
            partitions=len(mine),
            partitions_done=sum(log.done is not None for log in mine),
            partitions_held=sum(log.claim is not None for log in mine),
            samples=sum(log.samples for log in mine),
            shards=sum(s.key is not None for log in mine for s in log.shards),
        )
        for number, mine in enumerate(made, 1)
    )


def recorded_plan(settings: Settings, store: ObjectStore) -> Plan:
    """The plan at the destination, which must be that of these settings; what the source is like now does not matter any
    more. Raises ConfigError when there is none, ConflictError when it is another config's."""
    identity = planning.read_identity(store)
    plan = planning.read_plan(store, identity.run) if identity else None
    if plan is None:
        raise ConfigError(f"no dataset at {store.uri}", hint="data-bridge run CONFIG --slice 1/N begins one")
    planning.check_config(settings, plan)
    return plan


def refuse_unfinished(store: ObjectStore, plan: Plan, logs: Mapping[int, PartitionLog], called: str) -> None:
    """Raise RetryableError that names what is missing, and the commands that do it, with the config as it is `called`."""
    undone = [p.index for p in plan.partitions if logs[p.index].done is None]
    if not undone:
        return
    held = sum(logs[i].claim is not None for i in undone)
    begun = f", {held} of them begun" if held else ""
    raise RetryableError(
        f"{len(undone)} of {len(plan.partitions)} partitions are not finished{begun}: {ranges(undone)}",
        hint=_missing(store, plan, logs, called)
        + f"data-bridge run {called}  does all that is left, and finishes the dataset",
    )


def _missing(store: ObjectStore, plan: Plan, logs: Mapping[int, PartitionLog], called: str) -> str:
    counts = noted(store, plan.run)
    if len(counts) != 1:  # which of several divisions is meant, nobody knows
        return ""
    left = [s for s in slice_statuses(plan, logs, counts[0]) if s.partitions_done < s.partitions]
    lines = (
        f"data-bridge run {called} --slice {s.slice}  ({s.partitions - s.partitions_done} of {s.partitions} partitions left)"
        for s in left
    )
    return "what is missing, unless it is at work:\n" + "\n".join(lines) + "\n"


def refuse_fresh(*, fresh: bool) -> None:
    """Raise ConflictError where a slice is to start over: it would take away what the others made."""
    if fresh:
        raise ConflictError(
            "a slice cannot start over: it would delete what the other slices made",
            hint="name a new destination (--prefix, or pipeline.output_uri), or give --fresh without --slice",
        )


def ranges(numbers: Iterable[int], most: int = 12) -> str:
    """`0-3, 7, 9-11`: ascending numbers for people."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    return shown + (f" and {len(runs) - most} ranges more" if len(runs) > most else "")
