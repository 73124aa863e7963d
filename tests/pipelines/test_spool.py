from pathlib import Path

import pytest

from data_bridge.errors import FatalError
from data_bridge.pipelines.spool import Spool


@pytest.mark.parametrize("memory_bytes", [1, 10, 5000, 10**9])
def test_bytes_come_back_in_order_wherever_they_were_kept(tmp_path: Path, memory_bytes: int) -> None:
    pieces = [bytes([i]) * (i * 37 % 1000) for i in range(200)]
    spool = Spool(memory_bytes).open(tmp_path)
    for piece in pieces:
        spool.write(memoryview(piece))

    assert b"".join(spool.blocks()) == b"".join(pieces)
    assert spool.size == sum(map(len, pieces))
    spool.close()


@pytest.mark.parametrize("memory_bytes", [10, 10**6])
def test_opened_again_it_holds_nothing_of_before(tmp_path: Path, memory_bytes: int) -> None:
    spool = Spool(memory_bytes)
    for word in (b"long before" * 100, b"", b"short"):
        spool.open(tmp_path).write(word)

        assert b"".join(spool.blocks()) == word
        assert spool.size == len(word)
    spool.close()


def test_what_was_written_may_change_afterwards(tmp_path: Path) -> None:
    spool, data = Spool().open(tmp_path), bytearray(b"as it was")
    spool.write(data)
    data[:] = bytes(9)

    assert b"".join(spool.blocks()) == b"as it was"


def test_no_file_has_a_name_while_much_is_kept(tmp_path: Path) -> None:
    spool = Spool(10).open(tmp_path)
    spool.write(b"x" * 1000)

    assert b"".join(spool.blocks()) == b"x" * 1000
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    spool = Spool(10).open(tmp_path / "gone")

    with pytest.raises(FatalError, match="gone"):
        spool.write(b"x" * 1000)
