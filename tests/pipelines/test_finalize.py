"""What is checked at the store before a manifest says that it is there."""

import pytest
from support.memory_store import MemoryStore

from data_bridge.errors import IntegrityError
from data_bridge.model.shards import Cursor, ShardRecord
from data_bridge.pipelines.finalize import check_presence


def stored(*numbers: int) -> tuple[MemoryStore, list[ShardRecord]]:
    """Shards of those numbers, and their records."""
    store = MemoryStore()
    records = [ShardRecord(token="t", key=f"{n:06d}.tar", bytes=3, cursor=Cursor()) for n in numbers]
    for record in records:
        store.put_bytes(record.key or "", b"tar")
    store.put_bytes("_bridge/0/ledger/p00000/000000.json", b"{}")
    return store, records


@pytest.mark.parametrize(("numbers", "prefix"), [((0, 7), "00000"), ((99_999, 100_000), ""), ((5,), "000005.tar")])
def test_neither_the_ledger_is_listed_nor_what_no_shard_is_named_like(numbers: tuple[int, ...], prefix: str) -> None:
    store, records = stored(*numbers)

    check_presence(store, records)

    assert store.calls[-1] == ("list", prefix)
    assert store.left_out == ["_bridge/"]


@pytest.mark.parametrize("gone", [99_999, 100_000])
def test_a_shard_that_is_missing_is_named(gone: int) -> None:
    store, records = stored(99_999, 100_000)
    store.delete(f"{gone:06d}.tar")

    with pytest.raises(IntegrityError, match=f"{gone:06d}.tar is missing"):
        check_presence(store, records)
