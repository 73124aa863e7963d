"""What every destination promises: subclass `ObjectStoreContract` in a test module and give it a `store` fixture."""

import hashlib
import itertools
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from support.racing import winners

from data_bridge.errors import IntegrityError, StoreError
from data_bridge.model.store import ObjectInfo, ObjectStore
from data_bridge.storage.deleting import delete_all

BAD_KEYS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "a//b",
    "./a",
    "a/",
    "a\\b",
    "a\nb",
    "ä",
    ".a.t.partial",
    "x" * 1025,
]


def written(folder: Path, content: bytes, name: str = "shard.bin") -> tuple[Path, str]:
    """A local file and the SHA-256 of its content."""
    path = folder / name
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


class ObjectStoreContract:
    """Subclasses provide the fixture `store`: an empty ObjectStore."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    def test_a_file_comes_back_as_it_was(self, store: ObjectStore, tmp_path: Path) -> None:
        content = secrets.token_bytes(3_000_001)
        path, sha256 = written(tmp_path, content)

        store.put_file("train/000000.tar", path, sha256=sha256)

        assert b"".join(store.read("train/000000.tar")) == content
        assert store.get("train/000000.tar") == content
        assert store.head("train/000000.tar") == ObjectInfo("train/000000.tar", len(content))
        assert path.exists() is (store.local_root is None)

    def test_an_empty_file_is_an_object(self, store: ObjectStore, tmp_path: Path) -> None:
        path, sha256 = written(tmp_path, b"")

        store.put_file("empty", path, sha256=sha256)

        assert store.get("empty") == b""
        assert list(store.read("empty")) == []
        assert store.head("empty") == ObjectInfo("empty", 0)

    def test_a_second_file_replaces_the_first(self, store: ObjectStore, tmp_path: Path) -> None:
        for content in (b"first, and longer", b"second"):
            path, sha256 = written(tmp_path, content)
            store.put_file("k", path, sha256=sha256)

        assert store.get("k") == b"second"
        assert [item.key for item in store.list()] == ["k"]

    def test_a_file_that_is_not_there_is_an_error(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises((StoreError, FileNotFoundError)):
            store.put_file("k", tmp_path / "none", sha256="0" * 64)

        assert store.head("k") is None

    def test_bytes_come_back_and_are_replaced(self, store: ObjectStore) -> None:
        store.put_bytes("a/manifest.json", b"{}")
        store.put_bytes("a/manifest.json", b"")

        assert store.get("a/manifest.json") == b""

    def test_what_is_not_there_is_none(self, store: ObjectStore) -> None:
        store.put_bytes("a/b", b"x")

        for key in ("none", "a", "a/b/c", "a/c"):
            assert store.get(key) is None
            assert store.head(key) is None

    def test_reading_what_is_not_there_is_an_error(self, store: ObjectStore) -> None:
        with pytest.raises(StoreError):
            b"".join(store.read("none"))

    def test_only_the_first_put_if_absent_writes(self, store: ObjectStore) -> None:
        assert store.put_if_absent("ledger/000000.json", b"mine") is True
        assert store.put_if_absent("ledger/000000.json", b"other") is False

        assert store.get("ledger/000000.json") == b"mine"

    def test_finding_exactly_our_bytes_is_success(self, store: ObjectStore) -> None:
        assert store.put_if_absent("k", b"mine") is True
        assert store.put_if_absent("k", b"mine") is True

    def test_of_sixteen_writers_exactly_one_wins(self, store: ObjectStore) -> None:
        won = winners(lambda number: store.put_if_absent("race", f"writer {number}".encode()), writers=16)

        assert len(won) == 1
        assert store.get("race") == f"writer {won[0]}".encode()

    def test_list_goes_by_string_prefix_in_the_order_of_keys(self, store: ObjectStore) -> None:
        keys = ["a", "b/1", "b/2/x", "b.tar", "b-1", "b/10", "ba", "c/.hidden", "c/d/e/f", "B"]
        for key in keys:
            store.put_bytes(key, key.encode())

        assert [item.key for item in store.list()] == sorted(keys)
        assert [item.key for item in store.list("b")] == sorted(key for key in keys if key.startswith("b"))
        assert [item.key for item in store.list("b/")] == ["b/1", "b/10", "b/2/x"]
        assert [item.key for item in store.list("b/1")] == ["b/1", "b/10"]
        assert [item.key for item in store.list("c/d/")] == ["c/d/e/f"]
        assert list(store.list("b/1")) == [ObjectInfo("b/1", 3), ObjectInfo("b/10", 4)]
        assert list(store.list("none/")) == []
        for prefix in ("", "b", "b/", "b/1", "c/d/", "none/"):
            assert list(store.list_keys(prefix)) == [item.key for item in store.list(prefix)]

    def test_a_list_leaves_out_a_folder_and_nothing_that_is_only_named_like_it(self, store: ObjectStore) -> None:
        keys = ["a", "b/1", "b/2/x", "b.tar", "b-1", "ba/b/c", "c/d", "c/b/e"]
        for key in keys:
            store.put_bytes(key, key.encode())

        left = [ObjectInfo(key, len(key)) for key in sorted(keys) if not key.startswith("b/")]
        assert list(store.list(without="b/")) == left
        assert len(list(store.list(without="none/"))) == len(keys)

    def test_a_list_may_be_read_while_objects_go(self, store: ObjectStore) -> None:
        for number in range(20):
            store.put_bytes(f"x/{number:02}", b"")

        seen = []
        for item in store.list("x/"):
            store.delete(item.key)
            seen.append(item.key)

        assert seen == [f"x/{number:02}" for number in range(20)]
        assert list(store.list("x/")) == []

    def test_delete_is_done_once_or_twice(self, store: ObjectStore) -> None:
        store.put_bytes("a/b", b"x")

        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/was")

        assert store.head("a/b") is None
        assert list(store.list()) == []

    def test_many_are_deleted_and_no_others(self, store: ObjectStore) -> None:
        keys = [f"x/{number:02}" for number in range(40)]
        for key in [*keys, "kept"]:
            store.put_bytes(key, b"x")

        delete_all(store, [*keys, "never/was"])
        delete_all(store, [])

        assert [item.key for item in store.list()] == ["kept"]

    def test_probe_leaves_nothing_behind(self, store: ObjectStore) -> None:
        store.probe("_bridge/probe")

        assert store.conditional is True
        assert list(store.list()) == []

    def test_probe_may_be_repeated(self, store: ObjectStore) -> None:
        store.put_bytes("k", b"x")
        store.probe("_bridge/probe")
        store.probe("_bridge/probe/")

        assert store.conditional is True
        assert [item.key for item in store.list()] == ["k"]

    def test_a_key_that_is_not_plainly_below_the_root_is_refused(self, store: ObjectStore) -> None:
        operations: list[Callable[[str], object]] = [
            lambda key: store.put_bytes(key, b"x"),
            lambda key: store.put_if_absent(key, b"x"),
            store.get,
            lambda key: b"".join(store.read(key)),
            store.head,
            store.delete,
            lambda key: store.presign(key, 60),
        ]
        for key, operation in itertools.product(BAD_KEYS, operations):
            with pytest.raises(StoreError, match="is not a key"):
                operation(key)

        assert list(store.list()) == []

    def test_no_list_leaves_the_root(self, store: ObjectStore) -> None:
        for prefix in ("../", "/", "a/../../"):
            with pytest.raises(StoreError):
                list(store.list(prefix))
            with pytest.raises(StoreError):
                list(store.list_keys(prefix))


class VerifiedStoreContract(ObjectStoreContract):
    """For stores whose bytes travel: what arrives is checked, and the store itself travels to worker processes."""

    def test_a_file_that_is_not_the_recorded_one_is_not_stored(self, store: ObjectStore, tmp_path: Path) -> None:
        path, _ = written(tmp_path, b"changed since")

        with pytest.raises(IntegrityError, match="is not the file that was recorded"):
            store.put_file("k", path, sha256=hashlib.sha256(b"as recorded").hexdigest())

        assert store.head("k") is None

    def test_a_pickled_store_keeps_what_its_probe_found(self, store: ObjectStore) -> None:
        store.probe("_bridge/probe")
        store.put_bytes("k", b"x")

        copy = pickle.loads(pickle.dumps(store))

        assert copy.get("k") == b"x"
        assert copy.uri == store.uri
        assert copy.conditional is True
