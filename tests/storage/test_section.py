"""Part of a file as the body of a request."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.storage.section import SEND_BYTES, Section

CONTENT = random.Random(4).randbytes(3 * SEND_BYTES + 1000)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("section") / "file"
    path.write_bytes(CONTENT)
    return path


@given(start=st.integers(0, len(CONTENT)), size=st.integers(0, len(CONTENT)))
def test_a_section_gives_its_bytes_again_after_every_return_to_its_start(path: Path, start: int, size: int) -> None:
    size = min(size, len(CONTENT) - start)

    with Section(path, start, size) as section:
        for _ in range(2):
            assert b"".join(bytes(block) for block in section) == CONTENT[start : start + size]
            assert section.tell() == size == len(section)
            section.seek(0)


def test_blocks_are_large_however_little_is_asked_for(path: Path) -> None:
    with Section(path) as section:
        assert [len(section.read(16)) for _ in range(5)] == [SEND_BYTES, SEND_BYTES, SEND_BYTES, 1000, 0]


def test_a_file_that_became_shorter_is_an_error_and_no_shorter_body(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with Section(path) as section:
        path.write_bytes(b"01234")

        section.read()
        with pytest.raises(OSError, match="it ends at byte 5, 10 were recorded"):
            section.read()
