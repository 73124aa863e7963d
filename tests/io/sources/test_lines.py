"""Byte ranges own the lines that start in them, however the blocks fall."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory_transport import MemoryTransport

from data_bridge.errors import SourceError
from data_bridge.io.sources.base import TARGET_BATCH_BYTES
from data_bridge.io.sources.lines import Buffer, buffers, cuts, head_of, line_extents, line_spans, refuse_binary
from data_bridge.model.source import SourceFile

URI = "memory/data.lines"
contents = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b" ", b"\xef\xbb\xbf"]), max_size=40).map(
    b"".join
)


def lines_of(content: bytes) -> list[bytes]:
    """The naive reference: split at newlines, drop one carriage return, and the byte order mark of the file."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    parts = content.split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    return [part.removesuffix(b"\r") for part in parts]


def read(
    content: bytes, block: int, minimum: int, start: int = 0, end: int | None = None, *, at_line: bool = False
) -> list[bytes]:
    transport = MemoryTransport({URI: content}, block)
    found: list[bytes] = []
    for buffer in buffers(transport, transport.stat(URI), start, end, at_line=at_line, minimum=minimum):
        starts, ends = line_spans(buffer)
        assert buffer.data == content[buffer.offset : buffer.offset + len(buffer.data)]
        if buffer.line is not None:
            assert buffer.line == 1 + content.count(b"\n", 0, buffer.offset)
        found += [buffer.data[lo:hi] for lo, hi in zip(starts.tolist(), ends.tolist(), strict=True)]
    return found


@given(contents, st.integers(1, 9), st.integers(1, 30))
def test_lines_are_those_of_a_plain_split_at_any_block_size(content: bytes, block: int, minimum: int) -> None:
    assert read(content, block, minimum) == lines_of(content)


@given(contents, st.integers(1, 9), st.integers(1, 30), st.lists(st.integers(0, 100), max_size=4))
def test_ranges_cut_anywhere_give_every_line_once(content: bytes, block: int, minimum: int, cut: list[int]) -> None:
    edges = sorted({0, len(content), *(c for c in cut if c < len(content))})

    parts = [read(content, block, minimum, lo, hi) for lo, hi in itertools.pairwise(edges)]

    assert [line for part in parts for line in part] == lines_of(content)


@given(contents, st.integers(1, 9), st.data())
def test_reading_from_a_line_start_gives_the_rest(content: bytes, block: int, data: st.DataObject) -> None:
    starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == 10)]
    start = data.draw(st.sampled_from([s for s in starts if s < len(content)] or [0]))

    rest = read(content, block, 8, start, len(content), at_line=True)

    before = content.count(b"\n", 0, start)
    assert rest == lines_of(content)[before:]


def test_a_range_reads_little_beyond_its_last_line() -> None:
    content = b"x" * 99 + b"\n"
    transport = MemoryTransport({URI: content * 100_000}, 1 << 16)

    list(buffers(transport, transport.stat(URI), 100_050, 200_050))

    assert transport.served < 100_000 + 2 * 65_536 + 2


def test_a_line_longer_than_many_blocks_is_whole() -> None:
    content = b"first\n" + b"y" * 5_000_000 + b"\nlast"

    assert read(content, 1 << 16, 1 << 10) == [b"first", b"y" * 5_000_000, b"last"]


def test_an_endless_line_is_an_error_that_says_where_it_starts() -> None:
    transport = MemoryTransport({URI: b"ok\n" + b"z" * 1000}, 64)

    with pytest.raises(SourceError, match=r"data\.lines byte 3: a line is longer than 500 bytes"):
        list(buffers(transport, transport.stat(URI), minimum=1, limit=500))


def test_an_uncompressed_file_may_be_cut_and_a_compressed_one_may_not() -> None:
    (plain,) = line_extents(SourceFile(uri="a.jsonl", size=10))
    (packed,) = line_extents(SourceFile(uri="a.jsonl.gz", size=10))
    (unknown,) = line_extents(SourceFile(uri="https://host/a.jsonl"))

    assert (plain.end, plain.divisible) == (10, True)
    assert (packed.end, packed.divisible) == (None, False)
    assert (unknown.end, unknown.divisible) == (None, False)
    assert line_extents(SourceFile(uri="a.jsonl", size=0)) == ()


def test_batches_are_cut_by_rows_and_by_bytes() -> None:
    many = np.arange(2_500, dtype=np.int64) * 10
    large = np.arange(5, dtype=np.int64) * TARGET_BATCH_BYTES

    assert list(cuts(many, many + 9)) == [(0, 834), (834, 1_667), (1_667, 2_500)]
    assert list(cuts(large, large + TARGET_BATCH_BYTES - 1)) == [(i, i + 1) for i in range(5)]


def test_a_file_of_nothing_but_a_byte_order_mark_has_no_lines() -> None:
    starts, _ = line_spans(Buffer(0, b"\xef\xbb\xbf", 1))

    assert len(starts) == 0


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"PAR1\x15\x04", "Parquet"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        ("{}".encode("utf-16"), "UTF-16"),
        ("plain".encode("utf-16-be"), "binary data or UTF-16"),
        (b"x" * 257 + b"ustar\x0000", "tar archive"),
    ],
)
def test_binary_files_are_told_by_their_first_bytes(head: bytes, found: str) -> None:
    with pytest.raises(SourceError, match=found):
        refuse_binary(head, SourceFile(uri="a.txt"), "plain text")


def test_the_head_of_a_file_is_its_decoded_content() -> None:
    import gzip

    transport = MemoryTransport({"a.gz": gzip.compress(b"q" * 100)}, 7)

    assert head_of(transport, transport.stat("a.gz"), 20) == b"q" * 20
