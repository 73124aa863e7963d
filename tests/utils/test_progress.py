"""The ledger: appending is the commit, and whoever finds another's record is fenced."""

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.memory_store import MemoryStore

from data_bridge.errors import BusyError, Fenced, IntegrityError, RetryableError
from data_bridge.model.partition_log import totals
from data_bridge.model.plan import Partition
from data_bridge.model.shards import ChangeRecord, Claim, Cursor, Done, Failed, Host, Record, ShardRecord
from data_bridge.utils import claims
from data_bridge.utils.progress import Ledger, ProgressTracker, dump, parse

PARTITION = Partition(index=3, pieces=(), first_index=100)


def shard(tracker: ProgressTracker, number: int) -> ShardRecord:
    return ShardRecord(
        token=tracker.token,
        key=f"{number:06d}.tar",
        samples=10,
        bytes=5,
        cursor=Cursor(pos=number, index=10 * number + 10),
    )


def done(tracker: ProgressTracker) -> Done:
    log = tracker.log
    return Done(token=tracker.token, cursor=log.cursor, samples=20, failed=0, bytes=10, shards=tuple(log.shards))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(MemoryStore(), "run")


def test_what_is_appended_is_what_the_next_attempt_starts_from(ledger: Ledger) -> None:
    first = ProgressTracker(ledger, PARTITION)
    first.claim()
    first.append(shard(first, 0))
    first.append(shard(first, 1))
    first.release()

    second = ProgressTracker(ledger, PARTITION)

    assert second.next_index == 120
    assert second.completed_outputs == ["000000.tar", "000001.tar"]
    assert second.log.cursor == Cursor(pos=1, index=20)


def test_pending_outputs_are_those_finished_but_not_committed(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    record = shard(tracker, 0)

    tracker.pending(record)
    assert tracker.pending_outputs == ["000000.tar"]

    tracker.append(record)
    assert tracker.pending_outputs == []
    assert tracker.completed_outputs == ["000000.tar"]


def test_an_attempt_that_was_taken_over_is_fenced(ledger: Ledger) -> None:
    old = ProgressTracker(ledger, PARTITION)
    old.claim()
    new = ProgressTracker(ledger, PARTITION)
    new.claim(steal=True)

    with pytest.raises(Fenced):
        old.append(shard(old, 0))

    new.append(shard(new, 0))
    assert ledger.load(PARTITION).shards[0].token == new.token


def test_an_attempt_appends_nothing_behind_a_record_of_which_it_is_not_known_whether_it_is_there() -> None:
    lost = iter([True])

    def lose(operation: str, key: str) -> None:
        if operation == "put_if_absent" and key.endswith("000001.json") and next(lost, False):
            raise RetryableError("the answer was lost")

    ledger = Ledger(MemoryStore(after=lose), "run")
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    with pytest.raises(RetryableError, match="the answer was lost"):
        tracker.append(change(tracker, 0, 5))

    for _ in range(2):
        with pytest.raises(RetryableError, match="the answer was lost"):
            tracker.append(shard(tracker, 0))

    assert tracker.completed_outputs == []
    log = ledger.load(PARTITION)
    assert (len(log.changes), log.shards, log.next_seq) == (1, [], 2)
    later = ProgressTracker(ledger, PARTITION)
    later.append(shard(later, 0))
    assert len(ledger.load(PARTITION).shards) == 1


def test_another_record_of_the_same_attempt_is_not_taken_for_the_one_that_is_appended(ledger: Ledger) -> None:
    first, second = (ProgressTracker(ledger, PARTITION, token="same") for _ in range(2))
    first.append(shard(first, 0))

    with pytest.raises(RetryableError, match="an earlier record of this attempt was stored after all"):
        second.append(shard(second, 1))

    assert [record.key for record in ledger.load(PARTITION).shards] == ["000000.tar"]
    assert second.completed_outputs == []


def test_a_finished_partition_costs_one_read_however_many_shards_it_has() -> None:
    store = MemoryStore()
    ledger = Ledger(store, "run")
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    for number in range(50):
        tracker.append(shard(tracker, number))
    tracker.append(done(tracker))
    store.calls.clear()

    log = ledger.load_all([PARTITION])[3]

    assert len(log.shards) == 50
    assert [operation for operation, _ in store.calls] == ["list", "get"]


def test_a_record_of_a_later_version_is_passed_over_but_keeps_its_place(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    ledger.store.put_if_absent("_bridge/run/ledger/p00003/000001.json", b'{"kind": "merge", "v": 2, "token": "t"}')

    later = ProgressTracker(ledger, PARTITION)

    assert later.log.next_seq == 2


def test_a_missing_record_is_an_error_not_a_gap(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    tracker.append(shard(tracker, 0))
    tracker.append(shard(tracker, 1))
    ledger.store.delete("_bridge/run/ledger/p00003/000001.json")

    with pytest.raises(IntegrityError, match="p00003/000001"):
        ledger.load(PARTITION)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"kind":', b'{"kind":"shard"}', b'{"kind":""'])
@pytest.mark.parametrize("seq", [0, 1, 2])
def test_a_damaged_record_is_named_and_never_passed_over(ledger: Ledger, seq: int, content: bytes) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    tracker.append(shard(tracker, 0))
    tracker.append(shard(tracker, 1))
    tracker.release()
    key = f"_bridge/run/ledger/{PARTITION.name}/{seq:06d}.json"
    ledger.store.put_bytes(key, content)

    with pytest.raises(IntegrityError, match=key):
        ledger.load(PARTITION)


def test_failed_is_not_the_end(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    tracker.append(Failed(token=tracker.token, error="it broke", cursor=Cursor()))

    again = ProgressTracker(ledger, PARTITION)
    again.claim()

    assert again.log.failed is None


@pytest.mark.parametrize(
    "record", [Claim(token="t", host=claims.this_host()), ShardRecord(token="t", key=None, cursor=Cursor())]
)
def test_records_survive_their_json(record: Claim | ShardRecord) -> None:
    assert parse(dump(record), "") == record


# -- who holds a partition ------------------------------------------------------------------------------------------


def foreign_claim(ledger: Ledger, host: Host, driver: str = "d1") -> None:
    ledger.store.put_if_absent(
        "_bridge/run/ledger/p00003/000000.json", dump(Claim(token="other", host=host, driver=driver))
    )
    ledger.store.put_bytes(claims.heartbeat_key("run", driver), b"1")


def test_a_living_process_of_this_machine_keeps_its_claim_and_is_named(ledger: Ledger) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        here = claims.this_host()
        started = claims._started(process.pid)
        assert started is not None
        foreign_claim(ledger, here.model_copy(update={"pid": process.pid, "started": started}))

        with pytest.raises(BusyError, match=f"process {process.pid}"):
            ProgressTracker(ledger, PARTITION).claim()
        process.communicate(b"\n")


def test_the_claim_of_a_run_that_ended_in_a_process_that_lives_on_is_taken_over(ledger: Ledger) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = claims._started(process.pid)
        assert started is not None
        foreign_claim(ledger, claims.this_host().model_copy(update={"pid": process.pid, "started": started}))
        ledger.store.delete(claims.heartbeat_key("run", "d1"))

        ProgressTracker(ledger, PARTITION).claim()
        process.communicate(b"\n")


def test_the_claim_of_a_process_that_is_gone_is_taken_over(ledger: Ledger) -> None:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    assert process.pid is not None
    foreign_claim(ledger, claims.this_host().model_copy(update={"pid": process.pid, "started": 1.0}))
    process.join()

    ProgressTracker(ledger, PARTITION).claim()


def test_the_claim_of_a_process_that_is_being_killed_is_taken_over_when_it_is_gone(ledger: Ledger) -> None:
    # so much memory takes a moment to be given back
    code = "kept = bytearray(b'x') * 400_000_000; print(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = claims._started(process.pid)
        assert started is not None
        foreign_claim(ledger, claims.this_host().model_copy(update={"pid": process.pid, "started": started}))
        process.kill()

        ProgressTracker(ledger, PARTITION).claim()

        assert claims._started(process.pid) is None


def test_a_pid_used_again_by_another_process_is_not_the_holder(ledger: Ledger) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        foreign_claim(ledger, claims.this_host().model_copy(update={"pid": process.pid, "started": 12345.0}))

        ProgressTracker(ledger, PARTITION).claim()
        process.communicate(b"\n")


def test_two_attempts_of_one_process_exclude_each_other_until_the_first_ends(ledger: Ledger) -> None:
    first, second = ProgressTracker(ledger, PARTITION), ProgressTracker(ledger, PARTITION)
    first.claim()
    second = ProgressTracker(ledger, PARTITION)
    with pytest.raises(BusyError):
        second.claim()

    first.release()

    second.claim()


def test_a_holder_elsewhere_is_respected_unless_known_dead_or_robbed(ledger: Ledger) -> None:
    foreign_claim(ledger, Host(boot="another machine", pid=1, started=1.0, name="far"))

    with pytest.raises(BusyError, match="far"):
        ProgressTracker(ledger, PARTITION).claim()
    ProgressTracker(ledger, PARTITION).claim(dead_drivers=frozenset({"d1"}))


def test_a_watch_tells_life_by_change_and_death_by_a_minute_of_silence() -> None:
    store = MemoryStore()
    now = [0.0]
    watch = claims.Watch(store, "run", clock=lambda: now[0])
    key = claims.heartbeat_key("run", "d1")

    assert watch.look("d1") == "gone"
    store.put_bytes(key, b"1")
    assert watch.look("d1") == "unsure"
    now[0] = 59.0
    assert watch.look("d1") == "unsure"
    store.put_bytes(key, b"2")
    assert watch.look("d1") == "alive"
    now[0] = 59.0 + claims.SILENCE_S
    assert watch.look("d1") == "gone"


def test_a_heartbeat_is_there_before_the_first_claim_and_gone_after_the_run(tmp_path: Path) -> None:
    store = MemoryStore()

    with claims.Heartbeat(store, "run", "d1"):
        assert store.get(claims.heartbeat_key("run", "d1")) is not None

    assert store.get(claims.heartbeat_key("run", "d1")) is None


def test_totals_count_shards_that_exist_and_failures_behind_the_last_one(ledger: Ledger) -> None:
    first, second = ProgressTracker(ledger, PARTITION), ProgressTracker(ledger, Partition(index=4, pieces=()))
    first.append(shard(first, 0).model_copy(update={"failed": 2}))
    first.append(done(first).model_copy(update={"failed": 5}))
    second.append(shard(second, 1).model_copy(update={"key": None, "samples": 0, "bytes": 0, "failed": 10}))

    found = totals([first.log, second.log])

    assert (found.samples, found.failed, found.bytes, found.shards) == (10, 15, 5, 1)


def change(tracker: ProgressTracker, number: int, start: int) -> ChangeRecord:
    return ChangeRecord(token=tracker.token, number=number, id=f"c{number}", stage="s", key="k", value=[1], start=start)


def test_changes_are_kept_beside_shards_and_repeated_by_the_end(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()
    tracker.append(shard(tracker, 0))
    tracker.append(change(tracker, 0, 15))
    tracker.append(shard(tracker, 1))
    unfinished = ProgressTracker(ledger, PARTITION).log

    tracker.append(done(tracker).model_copy(update={"changes": tuple(tracker.log.changes)}))
    finished = ledger.load(PARTITION)

    assert unfinished.changes == finished.changes == [change(tracker, 0, 15)]
    assert unfinished.cursor == Cursor(pos=1, index=20)
    assert finished.next_seq == 5


def test_a_change_says_from_where_it_is_in_force(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)

    record = json.loads(dump(change(tracker, 2, 15)))

    assert record == {
        "kind": "change",
        "v": 1,
        "command": "set",
        "token": tracker.token,
        "number": 2,
        "id": "c2",
        "stage": "s",
        "key": "k",
        "value": [1],
        "from": 15,
    }


def test_two_threads_that_append_neither_lose_nor_fence_each_other(ledger: Ledger) -> None:
    tracker = ProgressTracker(ledger, PARTITION)
    tracker.claim()

    def append(made: Callable[[int], Record]) -> None:
        for number in range(200):
            tracker.append(made(number))

    threads = [
        threading.Thread(target=append, args=(lambda n: shard(tracker, n),)),
        threading.Thread(target=append, args=(lambda n: change(tracker, n, n),)),
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = ProgressTracker(ledger, PARTITION).log
    assert [record.number for record in log.changes] == list(range(200))
    assert [record.key for record in log.shards] == [f"{n:06d}.tar" for n in range(200)]
    assert log.next_seq == 401
