from pathlib import Path

import pytest

from data_bridge.errors import FatalError
from data_bridge.pipelines.spool import Spool


@pytest.mark.parametrize("memory_bytes", [1, 10, 5000, 10**9])
def test_bytes_come_back_in_order_wherever_they_were_kept(tmp_path: Path, memory_bytes: int) -> None:
    pieces = [bytes([i]) * (i * 37 % 1000) for i in range(200)]
    spool = Spool(tmp_path, memory_bytes)
    for piece in pieces:
        spool.write(memoryview(piece))

    assert b"".join(spool.blocks()) == b"".join(pieces)
    assert spool.size == sum(map(len, pieces))
    spool.close()


def test_no_file_has_a_name_while_much_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10)
    spool.write(b"x" * 1000)

    assert sum(1 for _ in spool.blocks()) == 1
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "gone", 10)

    with pytest.raises(FatalError, match="gone"):
        spool.write(b"x" * 1000)
