"""The folder as destination: the contract, other filesystems, missing links, and death at every step."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.racing import winners
from support.store_contract import ObjectStoreContract, written

from data_bridge.errors import ConfigError, DiskFullError, IntegrityError, StoreError
from data_bridge.model.store import ObjectStore
from data_bridge.storage import local
from data_bridge.storage.local import LocalStore
from data_bridge.utils.files import partial_path, partials, sweep_partials, uncache


def no_links(source: Path, target: Path) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem that is not the one of `tmp_path`."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second filesystem to write to")
    with tempfile.TemporaryDirectory(dir=memory, prefix="bridge-test-") as folder:
        yield Path(folder)


class TestLocalStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "not yet made" / "root")


class TestLocalStoreWithoutLinks(ObjectStoreContract):
    """The same promises, but it says that it is for one writer only."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "root", link=no_links)

    def test_probe_leaves_nothing_behind(self, store: ObjectStore) -> None:
        store.probe("_bridge/probe")

        assert store.conditional is False
        assert list(store.list()) == []

    def test_probe_may_be_repeated(self, store: ObjectStore) -> None:
        store.probe("p")
        store.probe("p")

        assert store.conditional is False


def test_its_uri_is_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore(Path("out dir"))

    assert store.uri == f"file://{tmp_path}/out%20dir"
    assert store.local_root == tmp_path / "out dir"
    assert not (tmp_path / "out dir").exists()
    assert pickle.loads(pickle.dumps(store)).uri == store.uri


def test_a_file_beside_its_place_is_renamed_not_copied(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    partial, sha256 = written(tmp_path, b"content", partial_path(tmp_path / "a.tar", "token").name)
    inode = partial.stat().st_ino

    store.put_file("a.tar", partial, sha256=sha256)

    assert (tmp_path / "a.tar").stat().st_ino == inode
    assert files(tmp_path) == ["a.tar"]


def test_partial_files_are_never_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_bytes("x/a.tar", b"")
    partial_path(tmp_path / "x" / "b.tar", "t").write_bytes(b"half")
    partial_path(tmp_path / "c.tar", "t").write_bytes(b"half")

    assert [item.key for item in store.list()] == ["x/a.tar"]


def test_the_page_cache_keeps_no_more_than_the_first_gigabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "there")
    uncached: list[Path] = []
    monkeypatch.setattr(local, "CACHED_BYTES", 250)
    monkeypatch.setattr(local, "uncache", uncached.append)

    for number in range(4):
        path, sha256 = written(tmp_path, bytes(100))
        store.put_file(f"{number}.tar", path, sha256=sha256)

    assert [path.name for path in uncached] == ["2.tar", "3.tar"]


def test_a_file_that_is_replaced_or_gone_at_once_was_put_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "there")
    monkeypatch.setattr(local, "CACHED_BYTES", 0)

    def removed_first(path: Path) -> None:
        path.unlink()
        uncache(path)

    monkeypatch.setattr(local, "uncache", removed_first)
    path, sha256 = written(tmp_path, bytes(100))

    store.put_file("0.tar", path, sha256=sha256)


def test_a_file_that_left_the_page_cache_is_whole(tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, os.urandom(2_500_000))

    uncache(path)

    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def test_a_folder_that_is_left_out_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    for key in ("a", "b/c", "left/d", "left/e/f"):
        store.put_bytes(key, b"")
    looked_into: list[Path] = []
    scandir = os.scandir

    def noted(folder: Path) -> Any:
        looked_into.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", noted)

    assert [item.key for item in store.list(without="left/")] == ["a", "b/c"]
    assert looked_into == [tmp_path, tmp_path / "b"]


def test_a_file_from_another_filesystem_is_copied_checked_and_consumed(tmp_path: Path, other_disk: Path) -> None:
    store = LocalStore(other_disk)
    path, sha256 = written(tmp_path, os.urandom(2_500_000))

    store.put_file("deep/a.tar", path, sha256=sha256)

    assert hashlib.sha256((other_disk / "deep/a.tar").read_bytes()).hexdigest() == sha256
    assert files(other_disk) == ["deep/a.tar"]
    assert not path.exists()


def test_a_copy_that_differs_from_the_record_is_not_stored(tmp_path: Path, other_disk: Path) -> None:
    path, _ = written(tmp_path, b"damaged")

    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        LocalStore(other_disk).put_file("a.tar", path, sha256=hashlib.sha256(b"sound").hexdigest())

    assert files(other_disk) == []
    assert path.exists()


def test_a_full_disk_is_told_from_other_refusals(tmp_path: Path) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DiskFullError):
        LocalStore(tmp_path, link=full).put_if_absent("k", b"x")
    with pytest.raises(StoreError, match="Input/output error"):
        LocalStore(tmp_path, link=broken).put_if_absent("k", b"x")

    assert files(tmp_path) == []


def test_a_root_that_is_a_file_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"cannot use .*/taken"):
        LocalStore(tmp_path / "taken").probe("p")


def test_a_read_only_root_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot use /proc"):
        LocalStore(Path("/proc/here")).probe("p")


def test_a_presigned_url_is_the_file(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).presign("a.tar", 60) == f"file://{tmp_path}/a.tar"


def test_without_links_writers_of_two_stores_still_take_turns(tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path, link=no_links) for _ in range(8)]

    won = winners(lambda number: stores[number].put_if_absent("k", f"writer {number}".encode()), writers=8)

    assert len(won) == 1


KILLED_PUTS = """
import os, signal, sys
from pathlib import Path
from data_bridge.storage import local
from data_bridge.storage.local import LocalStore

local.CACHED_BYTES = 0
roots, source, sha256 = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
STEPS = {"open", "write", "flush", "close", "fsync", "mkdir", "replace", "rename", "unlink", "__exit__", "posix_fadvise"}
seen = 0

def die_at(step):
    def profile(frame, event, arg):
        global seen
        if event == "c_call" and arg.__name__ in STEPS:
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
    return profile

for step in range(100):
    path = source.with_name(f"{step}.bin")
    path.write_bytes(source.read_bytes())
    store = LocalStore(roots / str(step))
    child = os.fork()
    if not child:
        sys.setprofile(die_at(step))
        store.put_file("deep/a.tar", path, sha256=sha256)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        sys.exit(status or print(step))
"""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["rename", "copy"])
def test_a_put_killed_at_any_step_leaves_the_object_whole_or_absent(
    tmp_path: Path, other_disk: Path, elsewhere: bool
) -> None:
    content = os.urandom(200_000)
    roots = (other_disk if elsewhere else tmp_path) / "roots"
    source, sha256 = written(tmp_path, content)

    command = [sys.executable, "-c", KILLED_PUTS, str(roots), str(source), sha256]
    deaths = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

    outcomes = []
    for step in range(deaths + 1):
        store, path = LocalStore(roots / str(step)), tmp_path / f"{step}.bin"
        stored = store.get("deep/a.tar")
        outcomes.append(stored is not None)
        assert stored in (None, content), f"killed at step {step}"
        assert [item.key for item in store.list()] == ([] if stored is None else ["deep/a.tar"])
        assert stored is not None or path.exists(), "the content is nowhere"
        if path.exists():
            store.put_file("deep/a.tar", path, sha256=sha256)
            sweep_partials(roots / str(step), older_than_s=0.0)
            assert store.get("deep/a.tar") == content
        assert list(partials(roots / str(step))) == []
    assert deaths >= 8
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


def test_a_probe_takes_no_folder_away_that_another_run_may_be_writing_to(tmp_path: Path) -> None:
    (tmp_path / "_bridge" / "probe").mkdir(parents=True)

    LocalStore(tmp_path).probe("_bridge/probe")

    assert [path.name for path in tmp_path.rglob("*")] == ["_bridge", "probe"]
