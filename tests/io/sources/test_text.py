"""Plain text: one sample per line."""

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, read_all

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.text import Text
from data_bridge.io.transport import Transport
from data_bridge.model.batch import RowFailure
from data_bridge.model.source import Field, FilePiece, SourceFile

URI = "memory/data.txt"
LINES = [f"line {i} — ß{'!' * (i % 5)}" for i in range(30)]


def real(path: Path) -> Transport:
    return Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))


def parse(content: bytes, **options: Any) -> list[Any]:
    transport = MemoryTransport({URI: content}, 16)
    return read_all(Text(SourceOptions(**options), transport, buffer_bytes=16), [FilePiece(transport.stat(URI))])


class TestText(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        (tmp_path / "a.txt").write_bytes("\n".join(LINES[:20]).encode() + b"\n\n   \n bad \xff\n")
        (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LINES[20:]).encode())
        (tmp_path / "c.txt.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))
        transport = real(tmp_path)
        files = [transport.stat(str(tmp_path / name)) for name in ("a.txt", "b.txt", "c.txt.gz")]
        expected = [{"text": line} for line in LINES + LINES]
        return Case(Text(SourceOptions(), transport, buffer_bytes=100), files, expected, failures=1)

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> SourceFile:
        path = tmp_path / "really.txt"
        path.write_bytes("UTF-16 is not UTF-8".encode("utf-16"))
        return real(tmp_path).stat(str(path))


class TestTextWithEmptyLines(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        (tmp_path / "a.txt").write_bytes(b"\n\na\n \r\n\nb\n\n")
        transport = real(tmp_path)
        options = SourceOptions(keep_empty_lines=True, text_field="line")
        files = [transport.stat(str(tmp_path / "a.txt"))]
        return Case(
            Text(options, transport, buffer_bytes=3), files, [{"line": x} for x in ("", "", "a", " ", "", "b", "")]
        )

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> SourceFile:
        path = tmp_path / "really.txt"
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
        return real(tmp_path).stat(str(path))


@given(
    st.lists(st.sampled_from(["a", "", " ", "é\t", "\u2028x", "\r", "\x0b", "b\rc"]), max_size=15),
    st.booleans(), st.booleans(), st.integers(1, 30),
)  # fmt: skip
def test_lines_are_those_of_a_plain_split(lines: list[str], ended: bool, keep: bool, block: int) -> None:
    content = ("\n".join(lines) + ("\n" if ended and lines else "")).encode()
    transport = MemoryTransport({URI: content}, block)
    reader = Text(SourceOptions(keep_empty_lines=keep), transport, buffer_bytes=block)

    got = [row["text"] for row in read_all(reader, [FilePiece(transport.stat(URI))]) if isinstance(row, dict)]

    expected = lines if ended or not lines or lines[-1] else lines[:-1]
    trimmed = [line.removesuffix("\r") for line in expected]
    assert got == [line for line in trimmed if keep or line.strip(" \t\r\x0b\x0c")]


def test_a_line_that_is_not_utf8_is_a_failure_with_its_bytes() -> None:
    first, failure, last = parse("gut\n\nnä\nend".encode("latin-1"))

    assert (first, last) == ({"text": "gut"}, {"text": "end"})
    assert isinstance(failure, RowFailure)
    assert failure.where == "memory/data.txt line 3"
    assert failure.raw == b"n\xe4"
    assert "invalid UTF-8" in failure.reason


def test_the_field_has_the_name_the_options_give() -> None:
    assert parse(b"a\n", text_field="sentence") == [{"sentence": "a"}]


def test_an_empty_source_still_names_its_field() -> None:
    transport = MemoryTransport({URI: b"\n"})

    probe = Text(SourceOptions(), transport).probe(transport.files())

    assert probe.fields == (Field(name="text", type="string"),)
    assert probe.rows == []


def test_web_pages_and_nul_bytes_here_and_there_are_text() -> None:
    assert parse(b"<html>\nnul \0 byte and more text\n") == [{"text": "<html>"}, {"text": "nul \0 byte and more text"}]
    with pytest.raises(SourceError, match="binary data"):
        parse(b"\0\x01\0\x02" * 10)


def test_reading_text_does_not_import_pandas() -> None:
    script = """
import sys
from data_bridge.config import SourceOptions
from data_bridge.io.sources.text import Text
from data_bridge.model.source import FilePiece
from support.memory_transport import MemoryTransport
transport = MemoryTransport({"a.txt": b"one\\ntwo\\n"})
(batch,) = Text(SourceOptions(), transport).read([FilePiece(transport.stat("a.txt"))], None)
assert batch.rows.batch.num_rows == 2
assert "pandas" not in sys.modules
"""
    tests = Path(__file__).parents[2]

    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(tests)})


def test_bad_lines_of_later_batches_leave_the_good_ones_in_place() -> None:
    lines = [b"%d\n" % i for i in range(2_500)]
    lines[1_200] = b"\xff\n"
    transport = MemoryTransport({URI: b"".join(lines)})

    every = read_all(Text(SourceOptions(), transport), [FilePiece(transport.stat(URI))])

    assert isinstance(every[1_200], RowFailure)
    assert every[1_200].where == "memory/data.txt line 1201"
    assert [one for i, one in enumerate(every) if i != 1_200] == [{"text": str(i)} for i in range(2_500) if i != 1_200]
