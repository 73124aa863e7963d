"""Answers that were paid for, at the destination: `_bridge/<run>/answers/p00012/000000.jsonl` and on, the parts of one
partition's journal in order.

A part is put only if its number is free, so of two attempts that work on a partition at once one is told that it was
overtaken, before any shard of its can be sent: shards hold only answers that are here.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from data_bridge.errors import Fenced, IntegrityError
from data_bridge.model.answers import AnswerRecord, Paid, SegmentHead, together
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition
from data_bridge.model.store import ObjectStore
from data_bridge.utils.progress import dump, parsed

_AT_ONCE = 8
"""Parts that are fetched, and held, at a time."""
_RECORDS = msgspec.json.Decoder(AnswerRecord)


class Journal:
    """The parts of one partition's journal."""

    def __init__(self, store: ObjectStore, run: str, partition: str) -> None:
        self._store = store
        self._partition = partition
        self.prefix = f"{_root(run)}{partition}/"
        self._next = 0
        self.totals: Mapping[str, Paid] = {}
        """What was paid for, by stage, in the parts that were read or written."""

    def read(self) -> Iterator[AnswerRecord]:
        """All answers there are, in the order in which they were put down."""
        count = max((_number(key) + 1 for key in self._store.list_keys(self.prefix)), default=0)
        for key, data in self._parts([self._key(number) for number in range(count)]):
            if data is None:
                raise IntegrityError(f"{key} is missing at {self._store.uri}", hint=_HINT)
            first, _, rest = data.partition(b"\n")
            self.totals = parsed(SegmentHead, first, key, _HINT).totals
            for line in rest.splitlines():
                yield record(line, key)
        self._next = count

    def append(self, lines: bytes, paid: Mapping[str, Paid], token: str) -> None:
        """Put down a further part. Raises Fenced when another attempt has done that since."""
        key = self._key(self._next)
        totals = together([self.totals, paid])
        data = dump(SegmentHead(token=token, totals=totals)) + b"\n" + lines
        if not self._store.put_if_absent(key, data) and self._store.get(key) != data:
            raise Fenced(f"partition {self._partition} was taken over by another attempt")
        self._next += 1
        self.totals = totals

    def _parts(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Parts by key, a few of them fetched at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for first in range(0, len(keys), _AT_ONCE):
                some = keys[first : first + _AT_ONCE]
                yield from zip(some, pool.map(self._store.get, some), strict=True)

    def _key(self, number: int) -> str:
        return f"{self.prefix}{number:06d}.jsonl"


_HINT = "restore it from a copy, or start over with --fresh: everything is then paid again"


def record(line: bytes, where: str) -> AnswerRecord:
    """An answer from its line. Raises IntegrityError for a damaged one."""
    try:
        return _RECORDS.decode(line)
    except ValueError as error:
        raise IntegrityError(f"{where} is damaged: {error}", hint=_HINT) from None


def paid_for(store: ObjectStore, run: str, logs: Mapping[int, PartitionLog]) -> dict[str, Paid]:
    """What was paid for on partitions, by stage: as the ledger has it of finished ones, as their journals of the others."""
    told = [log.done.paid for log in logs.values() if log.done is not None]
    working = {Partition(index=index, pieces=()).name for index, log in logs.items() if log.done is None}
    newest: dict[str, str] = {}
    for key in store.list_keys(_root(run)) if working else ():
        name = key.removeprefix(_root(run)).partition("/")[0]
        if name in working and (name not in newest or _number(newest[name]) < _number(key)):
            newest[name] = key
    for key in newest.values():
        first = (store.get(key) or b"").partition(b"\n")[0]
        told.append(parsed(SegmentHead, first, key, _HINT).totals)
    return together(told)


def _root(run: str) -> str:
    return f"_bridge/{run}/answers/"


def _number(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".jsonl"))
