"""The journal of answers: on disk before they are used, at the destination before a shard holds them, counted once."""

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from data_bridge.errors import FatalError, Fenced, IntegrityError, RetryableError
from data_bridge.model.answers import AnswerRecord, Paid
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Partition
from data_bridge.pipelines import answers as answers_module
from data_bridge.pipelines.answers import Answers
from data_bridge.pipelines.journal import paid_for
from data_bridge.storage.local import LocalStore

PARTITION = Partition(index=0, pieces=())
HERE = "_bridge/run/answers/p00000/"


def answer(number: int, value: str = "") -> AnswerRecord:
    text = msgspec.Raw(msgspec.json.encode(value or f"answer {number}"))
    return AnswerRecord(
        stage="asks", key=f"key {number}", index=number, value=text, cost_usd=0.1, tokens_in=2, tokens_out=1
    )


def attempt(store: LocalStore, folder: Path, token: str = "a", floor: int = 0) -> Answers:
    return Answers(store, "run", PARTITION, token, folder, floor=floor)


def killed(store: LocalStore, folder: Path, *steps: int | str, token: str = "a") -> None:
    """An attempt that keeps the answers of these numbers, sends at "send", and is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            with attempt(store, folder, token) as answers:
                for step in steps:
                    if isinstance(step, int):
                        answers.keep(answer(step))
                    else:
                        answers.send()
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def recalled(store: LocalStore, folder: Path, count: int, token: str = "later", floor: int = 0) -> list[str | None]:
    with attempt(store, folder, token, floor) as answers:
        found = [answers.recall(f"key {number}") for number in range(count)]
    return [None if each is None else msgspec.json.decode(each) for each in found]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_was_kept_is_there_for_the_next_attempt_although_nothing_was_sent(
    store: LocalStore, tmp_path: Path
) -> None:
    killed(store, tmp_path, 0, 1, 2)
    assert not list(store.list(HERE))

    assert recalled(store, tmp_path, 4) == ["answer 0", "answer 1", "answer 2", None]

    assert not list(tmp_path.glob("*.jsonl"))
    assert recalled(store, tmp_path / "another machine", 4) == ["answer 0", "answer 1", "answer 2", None]


def test_a_machine_that_is_lost_loses_only_what_it_had_not_sent(store: LocalStore, tmp_path: Path) -> None:
    killed(store, tmp_path / "lost", 0, "send", 1)

    assert recalled(store, tmp_path / "another", 2) == ["answer 0", None]


@pytest.mark.parametrize("rest", [b"", b'{"stage":"as', b"\0" * 700, b"\0\n" + b'{"stage":"asks"}\n'])
def test_what_a_crash_left_behind_the_last_whole_line_is_no_answer(
    store: LocalStore, tmp_path: Path, rest: bytes
) -> None:
    killed(store, tmp_path, 0, 1)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + rest)

    assert recalled(store, tmp_path, 3) == ["answer 0", "answer 1", None]


def test_of_two_attempts_the_one_that_was_overtaken_sends_nothing_more(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(Fenced), attempt(store, tmp_path / "one", "old") as old:
        with attempt(store, tmp_path / "two", "new") as new:
            new.keep(answer(0, "of the new one"))
        old.keep(answer(0, "of the old one"))

        with pytest.raises(Fenced):
            old.send()
        old.keep(answer(1))

    assert recalled(store, tmp_path / "three", 2) == ["of the new one", None]
    # the old machine is back: what is at the destination counts
    assert recalled(store, tmp_path / "one", 2) == ["of the new one", None]


def test_answers_below_the_floor_are_in_shards_and_not_given_again(store: LocalStore, tmp_path: Path) -> None:
    with attempt(store, tmp_path) as answers:
        for number in range(4):
            answers.keep(answer(number))

    assert recalled(store, tmp_path, 4, floor=2) == [None, None, "answer 2", "answer 3"]


def test_what_was_paid_is_counted_once_over_any_number_of_attempts(store: LocalStore, tmp_path: Path) -> None:
    for number in range(3):
        killed(store, tmp_path, 2 * number, "send", 2 * number + 1, token=f"attempt-{number}")

    with attempt(store, tmp_path, "last") as last:
        assert last.totals == {"asks": Paid(answers=6, cost_usd=0.6, tokens_in=12, tokens_out=6)}
    assert paid_for(store, "run", {0: PartitionLog()}) == last.totals


def test_a_part_that_was_sent_but_not_deleted_here_is_not_sent_again(store: LocalStore, tmp_path: Path) -> None:
    killed(store, tmp_path, 0)
    (path,) = tmp_path.glob("*.jsonl")
    left = path.read_bytes()
    assert recalled(store, tmp_path, 1) == ["answer 0"]
    path.write_bytes(left)

    with attempt(store, tmp_path, "later") as later:
        assert later.totals["asks"].answers == 1
    assert len(list(store.list(HERE))) == 1


def test_one_call_of_the_disk_serves_all_who_wait_for_it(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, first, go = [], os.fsync, threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        synced.append(descriptor)
        first.set()
        assert go.wait(30)
        sync(descriptor)

    with attempt(store, tmp_path) as answers:
        answers.keep(answer(99))
        monkeypatch.setattr(os, "fsync", slow)
        threads = [threading.Thread(target=answers.keep, args=(answer(n),)) for n in range(20)]
        threads[0].start()
        assert first.wait(30)
        for thread in threads[1:]:
            thread.start()
        (path,) = tmp_path.glob("*.jsonl")
        while path.read_bytes().count(b"\n") < 21:
            threads[-1].join(0.01)
        go.set()
        for thread in threads:
            thread.join(30)
        monkeypatch.undo()

    assert len(synced) == 2
    assert None not in recalled(store, tmp_path, 20)


def test_while_the_store_is_slow_only_so_much_is_on_this_machine_alone(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PART_BYTES", 500)
    put, slow, go = store.put_if_absent, threading.Event(), threading.Event()

    def slowly(key: str, data: bytes) -> bool:
        slow.set()
        assert go.wait(30)
        return put(key, data)

    monkeypatch.setattr(store, "put_if_absent", slowly)
    with attempt(store, tmp_path) as answers:
        keeping = threading.Thread(target=lambda: [answers.keep(answer(number)) for number in range(100)])  # type: ignore[func-returns-value]
        keeping.start()
        assert slow.wait(30)
        keeping.join(0.5)
        assert keeping.is_alive()
        here = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
        go.set()
        keeping.join(30)

    assert 500 <= here <= (2 * answers_module.MOST_PARTS + 1) * 500
    assert None not in recalled(store, tmp_path, 100)


def test_answers_are_sent_without_being_asked_for(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "PART_S", 0.01)
    sent = threading.Event()
    put = store.put_if_absent

    def seen(key: str, data: bytes) -> bool:
        try:
            return put(key, data)
        finally:
            sent.set()

    monkeypatch.setattr(store, "put_if_absent", seen)
    with attempt(store, tmp_path) as answers:
        answers.keep(answer(0))
        assert sent.wait(30)


def test_a_store_that_is_away_is_an_error_and_what_was_kept_stays_here(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_key: str, _data: bytes) -> bool:
        raise RetryableError("the store is away")

    with pytest.raises(RetryableError, match="away"), attempt(store, tmp_path) as answers:
        answers.keep(answer(0))
        monkeypatch.setattr(store, "put_if_absent", away)
        answers.send()
    monkeypatch.undo()

    assert recalled(store, tmp_path, 1) == ["answer 0"]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"v":1,"token":"t","totals":{}}\n{"stage"\n'])
def test_a_damaged_part_at_the_destination_is_an_error(store: LocalStore, tmp_path: Path, damage: bytes) -> None:
    with attempt(store, tmp_path) as answers:
        answers.keep(answer(0))
    store.put_bytes(f"{HERE}000000.jsonl", damage)

    with pytest.raises(IntegrityError, match=r"000000\.jsonl is damaged"):
        recalled(store, tmp_path, 1)


def test_a_part_that_is_missing_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    for number in range(2):
        with attempt(store, tmp_path, f"{number}") as answers:
            answers.keep(answer(number))
    store.delete(f"{HERE}000000.jsonl")

    with pytest.raises(IntegrityError, match=r"000000\.jsonl is missing"):
        recalled(store, tmp_path, 1)


class Broken(LocalStore):
    def put_if_absent(self, key: str, data: bytes) -> bool:
        raise RuntimeError(f"no {key}")


def test_what_goes_wrong_with_the_journal_is_never_the_failure_of_a_sample(tmp_path: Path) -> None:
    with pytest.raises(FatalError), attempt(Broken(tmp_path / "store"), tmp_path / "answers") as answers:
        answers.keep(answer(1))
        with pytest.raises(FatalError, match="answers cannot be kept: RuntimeError: no _bridge"):
            answers.send()
        answers.keep(answer(2))

    assert recalled(LocalStore(tmp_path / "store"), tmp_path / "answers", 3) == [None, "answer 1", None]
