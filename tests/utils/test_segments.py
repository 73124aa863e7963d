"""Segments make a long ledger cheap to read, and decide nothing."""

from collections import Counter
from pathlib import Path

import pytest
from support.memory_store import MemoryStore

from data_bridge.errors import IntegrityError, RetryableError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition
from data_bridge.model.shards import Cursor, ShardRecord
from data_bridge.model.store import ObjectStore
from data_bridge.storage.local import LocalStore
from data_bridge.utils import progress, segments
from data_bridge.utils.progress import FEW_PARTITIONS, Ledger, ProgressTracker

PARTITION = Partition(index=3, pieces=())
SEGMENTS = "_bridge/run/segments/p00003/"


def begun(store: ObjectStore, partition: Partition = PARTITION) -> ProgressTracker:
    tracker = ProgressTracker(Ledger(store, "run"), partition)
    tracker.claim()
    tracker.release()
    return tracker


def commit(tracker: ProgressTracker, count: int) -> None:
    for _ in range(count):
        at = tracker.log.cursor.index + 1
        key = f"{tracker.partition.index}-{at:06d}.tar"
        tracker.append(ShardRecord(token=tracker.token, key=key, samples=1, cursor=Cursor(pos=at, index=at)))


def loaded(store: ObjectStore, partition: Partition = PARTITION) -> PartitionLog:
    return Ledger(store, "run").load_all([partition])[partition.index]


def held(store: ObjectStore, prefix: str = SEGMENTS) -> list[str]:
    return [item.key.removeprefix(prefix) for item in store.list(prefix)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four records, which a partition of fewer than a page is not asked for alone."""
    monkeypatch.setattr(segments, "RECORDS", 4)
    monkeypatch.setattr(progress, "FEW_PARTITIONS", 0)


def test_a_resume_far_into_a_partition_asks_for_as_much_as_one_at_its_start() -> None:
    store = MemoryStore()
    tracker = begun(store)
    commit(tracker, 6_020)
    store.calls.clear()

    log = loaded(store)

    assert log == tracker.log
    # listings: the first thousand, the segments, the last thousand; reads: six segments, and what came after them
    assert Counter(operation for operation, _ in store.calls) == {"list": 3, "get": 6 + 21}


@pytest.mark.parametrize("lost", [0, 500, 998, 999, 1000, 1998, 1999])
def test_no_lost_record_of_a_long_partition_looks_like_the_end_of_it(lost: int) -> None:
    store = MemoryStore()
    commit(begun(store), 2_100)
    for name in held(store):
        store.delete(SEGMENTS + name)
    store.delete(f"_bridge/run/ledger/p00003/{lost:06d}.json")

    with pytest.raises(IntegrityError, match=rf"p00003/{lost:06d} is missing"):
        loaded(store)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", range(14))
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_the_log_is_the_same_with_segments_and_without(tmp_path: Path, kind: str, count: int) -> None:
    store: ObjectStore = MemoryStore() if kind == "memory" else LocalStore(tmp_path)
    tracker = begun(store)
    commit(tracker, count)
    assert len(held(store)) == (count + 1) // 4

    with_segments = loaded(store)
    for name in held(store):
        store.delete(SEGMENTS + name)

    assert loaded(store) == with_segments == tracker.log


@pytest.mark.usefixtures("small")
def test_a_segment_an_attempt_died_before_is_written_by_the_next_one() -> None:
    store = MemoryStore()
    tracker = begun(store)

    def die(operation: str, key: str) -> None:
        if operation == "put_if_absent" and "/segments/" in key:
            raise RetryableError("killed")

    store.before = die
    with pytest.raises(RetryableError):
        commit(tracker, 3)
    assert held(store) == []

    store.before = lambda _operation, _key: None
    commit(begun(store), 4)

    assert held(store) == ["000000-000003.json", "000004-000007.json"]
    assert [s.cursor.index for s in loaded(store).shards] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.usefixtures("small")
def test_an_attempt_that_was_taken_over_can_only_write_what_is_there() -> None:
    store = MemoryStore()
    old = begun(store)
    commit(old, 3)
    written = dict(store.objects)
    del store.objects[SEGMENTS + "000000-000003.json"]
    new = begun(store)
    commit(new, 9)

    old._unrepeated = [written[f"_bridge/run/ledger/p00003/{n:06d}.json"] for n in range(4)]
    old._repeat()

    assert {key: store.objects[key] for key in written} == written
    assert loaded(store) == new.log


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("content", [b"", b"[{}]", b"[{},{},{},{}]", b'[{"kind":"shard"},1,2,3]'])
def test_a_damaged_segment_is_named_and_may_be_deleted(content: bytes) -> None:
    store = MemoryStore()
    tracker = begun(store)
    commit(tracker, 9)
    store.objects[SEGMENTS + "000004-000007.json"] = content

    with pytest.raises(IntegrityError, match=r"segments/p00003/000004-000007\.json") as caught:
        loaded(store)
    assert caught.value.hint.startswith("delete this one object")
    store.delete(SEGMENTS + "000004-000007.json")

    assert loaded(store) == tracker.log


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("few", [0, 30])
def test_many_partitions_are_read_as_each_of_them_alone(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(progress, "FEW_PARTITIONS", few)
    store = MemoryStore()
    partitions = [Partition(index=i, pieces=()) for i in range(30)]
    for partition in partitions:
        commit(begun(store, partition), partition.index % 11)

    logs = Ledger(store, "run").load_all(partitions)

    assert logs == {p.index: Ledger(store, "run").load(p) for p in partitions}
    assert [len(log.shards) for log in logs.values()] == [p.index % 11 for p in partitions]


def test_very_many_partitions_are_listed_together() -> None:
    store = MemoryStore()
    partitions = [Partition(index=i, pieces=()) for i in range(FEW_PARTITIONS + 1)]
    for partition in partitions:
        begun(store, partition)
    store.calls.clear()

    Ledger(store, "run").load_all(partitions)

    assert Counter(operation for operation, _ in store.calls) == {"list": 1, "get": len(partitions)}


def test_records_and_segments_are_counted_beyond_six_digits() -> None:
    store = MemoryStore()
    ledger = Ledger(store, "run")
    for number in (0, 999_999, 1_000_000):
        store.put_bytes(ledger.key(PARTITION.name, number), b"{}")
    for first in (0, 999_000, 1_000_000):
        segments.Segments(store, "run").write(PARTITION.name, first, [b"{}"] * 1000)

    assert ledger._counts() == {PARTITION.name: 1_000_001}
    store.put_bytes(f"{SEGMENTS}001000-998999.json", b"[]")
    assert [span.stop for span in segments.Segments(store, "run").spans()[PARTITION.name]][-1] == 1_001_000
