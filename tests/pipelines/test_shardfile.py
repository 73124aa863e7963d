import gzip
import hashlib
import itertools
import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from data_bridge.errors import DiskFullError, FatalError
from data_bridge.pipelines.shardfile import Compressor, Gzip, ShardFile, Zstd

DATA = b"".join(hashlib.sha256(str(i).encode()).digest() + b"text" * 8 for i in range(50_000))
STAGES: list[Callable[[], Compressor] | None] = [None, Gzip, Zstd]


def written(
    path: Path, sizes: list[int], compressor: Callable[[], Compressor] | None = None, *, behind: bool = False
) -> tuple[int, str]:
    """Write DATA in pieces of the given sizes, over and over."""
    file = ShardFile(path, compressor, behind=behind)
    start = turn = 0
    while start < len(DATA):
        size = sizes[turn % len(sizes)]
        file.write(memoryview(DATA)[start : start + size])
        start, turn = start + size, turn + 1
    return file.close()


@pytest.mark.parametrize("compressor", STAGES)
def test_bytes_do_not_depend_on_how_much_is_written_at_once(
    tmp_path: Path, compressor: Callable[[], Compressor] | None
) -> None:
    results = set()
    every = [[len(DATA)], [1000], [512, 700_000, 3, 1 << 20], [1 << 18], [300_000]]
    for number, (sizes, behind) in enumerate(itertools.product(every, [False, True])):
        results.add(written(tmp_path / str(number), sizes, compressor, behind=behind))
        content = (tmp_path / str(number)).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) in results

    assert len(results) == 1


def test_compressed_files_hold_the_data_and_no_time_or_name(tmp_path: Path) -> None:
    written(tmp_path / "a.gz", [9999], Gzip)
    written(tmp_path / "a.zst", [9999], Zstd)

    packed = (tmp_path / "a.gz").read_bytes()
    assert packed[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    assert gzip.decompress(packed) == DATA
    assert zstd.decompress((tmp_path / "a.zst").read_bytes()) == DATA


@pytest.mark.parametrize(("compressor", "undo"), [(Gzip, gzip.decompress), (Zstd, zstd.decompress)])
def test_an_empty_compressed_file_is_valid(
    tmp_path: Path, compressor: Callable[[], Compressor], undo: Callable[[bytes], bytes]
) -> None:
    ShardFile(tmp_path / "f", compressor).close()

    assert undo((tmp_path / "f").read_bytes()) == b""


def test_two_attempts_never_share_a_file(tmp_path: Path) -> None:
    first = ShardFile(tmp_path / "f")

    with pytest.raises(FatalError, match=str(tmp_path / "f")):
        ShardFile(tmp_path / "f")

    first.write(b"mine")
    first.close()
    assert (tmp_path / "f").read_bytes() == b"mine"


@pytest.mark.parametrize("behind", [False, True])
def test_abort_leaves_nothing_and_close_cannot_be_undone(tmp_path: Path, behind: bool) -> None:
    threads = threading.active_count()
    file = ShardFile(tmp_path / "f", behind=behind)
    file.write(DATA)
    file.abort()
    file.abort()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads

    kept = ShardFile(tmp_path / "g", behind=behind)
    kept.close()
    kept.abort()
    assert (tmp_path / "g").exists()


@pytest.mark.parametrize("behind", [False, True])
def test_a_full_disk_is_a_retryable_error_that_names_the_file(tmp_path: Path, behind: bool) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    file = ShardFile(tmp_path / "data-bridge-test", behind=behind)
    try:
        descriptor = os.open(full, os.O_WRONLY)
        assert file._fd is not None
        os.dup2(descriptor, file._fd)
        os.close(descriptor)
        with pytest.raises(DiskFullError, match=r"no space left: writing .*data-bridge-test"):
            file.write(DATA)
            file.close()
    finally:
        file.abort()


def test_a_file_over_the_size_limit_of_the_process_is_a_fatal_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        file = ShardFile(tmp_path / "f")
        file.write(b"x" * 5000)
        with pytest.raises(FatalError, match="cannot write"):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_fatal_error(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="No such file"):
        ShardFile(tmp_path / "none" / "f")
