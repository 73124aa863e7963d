"""Files are whole or absent, whatever ends the write."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.racing import winners

from data_bridge.errors import DiskFullError
from data_bridge.utils.files import (
    is_partial,
    link_if_absent,
    partial_path,
    partials,
    publish,
    replacing,
    sha256_of,
    sweep_partials,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_appears_with_all_its_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.bin"

    with replacing(target, "t1") as file:
        file.write(b"hello ")
        assert names(tmp_path) == ["deep/er/.a.bin.t1.partial"]
        file.write(b"world")

    assert target.read_bytes() == b"hello world"
    assert names(tmp_path) == ["deep/er/a.bin"]


def test_an_error_leaves_the_old_content_and_no_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    with pytest.raises(KeyError), replacing(target, "t1") as file:
        file.write(b"new")
        raise KeyError

    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_two_attempts_never_share_a_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "a"

    with replacing(target, "same") as first:
        first.write(b"first")
        with pytest.raises(FileExistsError), replacing(target, "same"):
            pass

    assert target.read_bytes() == b"first"


def test_a_full_disk_is_an_error_of_its_own_kind(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"no space left: writing .*/a"), replacing(tmp_path / "a", "t"):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError), replacing(tmp_path / "a", "t"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    assert names(tmp_path) == []


def test_a_device_that_is_really_full_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), replacing(tmp_path / "a", "t"), Path("/dev/full").open("wb") as device:
        device.write(b"x" * 100)
        device.flush()


def test_other_disk_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), replacing(tmp_path / "a", "t"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_publish_gives_a_finished_file_its_name(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "a", "t")
    partial.write_bytes(b"x")

    publish(partial, tmp_path / "a")

    assert names(tmp_path) == ["a"]


def test_only_the_first_link_wins(tmp_path: Path) -> None:
    assert link_if_absent(tmp_path / "k", b"one", "t1") is True
    assert link_if_absent(tmp_path / "k", b"two", "t2") is False

    assert (tmp_path / "k").read_bytes() == b"one"
    assert names(tmp_path) == ["k"]


def test_of_sixteen_writers_exactly_one_wins(tmp_path: Path) -> None:
    won = winners(lambda n: link_if_absent(tmp_path / "k", f"writer {n}".encode(), f"t{n}"), writers=16)

    assert len(won) == 1
    assert (tmp_path / "k").read_text() == f"writer {won[0]}"
    assert names(tmp_path) == ["k"]


def test_a_link_whose_answer_was_lost_counts_as_won(tmp_path: Path) -> None:
    def links_but_says_it_failed(source: Path, target: Path) -> None:
        os.link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    assert link_if_absent(tmp_path / "k", b"mine", "t", link=links_but_says_it_failed) is True


def test_a_filesystem_without_links_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.raises(OSError) as caught:
        link_if_absent(tmp_path / "k", b"x", "t", link=refuse)

    assert caught.value.errno == errno.EPERM
    assert names(tmp_path) == []


def test_sha256_is_of_the_whole_content(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(content)

    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        (".a.tar.0f3c.partial", True),
        (".a.t-1_x.partial", True),
        ("a.tar.0f3c.partial", False),
        (".a.partial", False),
        (".partial", False),
        (".a.b/c.partial", False),
        ("a.tar", False),
    ],
)
def test_partial_names_are_recognised_exactly(name: str, partial: bool) -> None:
    assert is_partial(name) is partial


def test_a_sweep_takes_partial_files_that_nobody_writes_any_more(tmp_path: Path) -> None:
    old, new = partial_path(tmp_path / "x" / "a.tar", "me"), partial_path(tmp_path / "a.tar", "you")
    shard, foreign = tmp_path / "x" / "b.tar", tmp_path / "notes.partial"
    (tmp_path / "x").mkdir()
    for path in (old, new, shard, foreign):
        path.write_bytes(b"x")
    for path in (old, shard, foreign):
        os.utime(path, (1_000_000, 1_000_000))

    assert sorted(partials(tmp_path)) == sorted([old, new])
    assert sweep_partials(tmp_path) == [old]

    assert names(tmp_path) == sorted([new.name, "notes.partial", "x/b.tar"])


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from data_bridge.utils.files import link_if_absent, replacing

step, target, how = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
seen = 0
STEPS = {"open", "write", "flush", "close", "fsync", "mkdir", "replace", "rename", "link", "unlink", "__exit__"}

def die_at_the_step(frame, event, arg):
    global seen
    if event == "c_call" and arg.__name__ in STEPS:
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

sys.setprofile(die_at_the_step)
if how == "replace":
    with replacing(target, "t") as file:
        file.write(b"new content")
else:
    link_if_absent(target, b"new content", "t")
sys.setprofile(None)
"""


@pytest.mark.parametrize("how", ["replace", "link"])
def test_a_writer_killed_at_any_step_leaves_the_file_whole_or_absent(tmp_path: Path, how: str) -> None:
    outcomes = set()
    for step in range(60):
        target = tmp_path / how / str(step) / "a"
        command = [sys.executable, "-c", KILLED_WRITER, str(step), str(target), how]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        content = target.read_bytes() if target.exists() else None
        assert content in (None, b"new content"), f"killed at step {step}"
        if child.returncode == 0:
            assert content == b"new content"
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        outcomes.add(content)
        sweep_partials(tmp_path, older_than_s=0.0)
        assert [name for name in names(tmp_path) if "partial" in name] == []
    else:
        pytest.fail("the writer was killed at every step")

    assert step >= 8
    assert outcomes == {None, b"new content"}
