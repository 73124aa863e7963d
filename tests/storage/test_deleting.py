"""Many objects deleted: each once, several at a time, and no further after an error."""

import threading

import pytest
from support.memory_store import MemoryStore

from data_bridge.errors import RetryableError
from data_bridge.storage.deleting import AT_ONCE, SOME, delete_all

KEYS = [f"{number:06}.tar" for number in range(2 * SOME + 1)]


def filled() -> MemoryStore:
    store = MemoryStore()
    store.objects.update(dict.fromkeys(KEYS, b"x"))
    return store


def test_each_is_deleted_once_however_many_there_are() -> None:
    store = filled()

    delete_all(store, KEYS)

    assert store.objects == {}
    assert sorted(store.calls) == [("delete", key) for key in KEYS]


def test_several_are_deleted_at_a_time() -> None:
    together = threading.Barrier(AT_ONCE)

    def wait_for_the_others(_operation: str, _key: str) -> None:
        together.wait(20)

    store = filled()
    store.before = wait_for_the_others

    delete_all(store, KEYS[:AT_ONCE])

    assert len(store.objects) == len(KEYS) - AT_ONCE


def test_an_error_ends_it_before_the_next_thousand() -> None:
    def refuse(_operation: str, key: str) -> None:
        if key == KEYS[5]:
            raise RetryableError("spoiled")

    store = filled()
    store.before = refuse

    with pytest.raises(RetryableError, match="spoiled"):
        delete_all(store, KEYS)

    assert KEYS[5] in store.objects
    assert set(KEYS[SOME:]) <= set(store.objects)
