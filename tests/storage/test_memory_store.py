"""The fake of other tests keeps the promises of the real stores."""

import pytest
from support.memory_store import MemoryStore
from support.store_contract import ObjectStoreContract

from data_bridge.errors import RetryableError


class TestMemoryStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_an_error_before_is_a_request_that_never_arrived_and_one_after_a_lost_answer() -> None:
    def fail(operation: str, key: str) -> None:
        if operation == "put_bytes":
            raise RetryableError("spoiled")

    never, lost = MemoryStore(before=fail), MemoryStore(after=fail)
    for store in (never, lost):
        with pytest.raises(RetryableError):
            store.put_bytes("k", b"x")

    assert never.objects == {}
    assert lost.objects == {"k": b"x"}
    assert lost.calls == [("put_bytes", "k")]
