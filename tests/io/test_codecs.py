"""Decompression undoes every codec exactly, or says what is wrong with the file."""

import bz2
import gzip
import lzma
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.errors import SourceError
from data_bridge.io.codecs import (
    BLOCK_BYTES,
    codec_of,
    decompressed,
    is_compressed,
    looks_like_lines,
    skipped,
    stem_extension,
)

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}
CODECS = pytest.mark.parametrize("codec", sorted(PACK))
TEXT = b"".join(b'{"id": %d, "text": "some words that repeat"}\n' % n for n in range(60_000))


def in_blocks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def undo(packed: bytes, codec: str, block: int = BLOCK_BYTES) -> bytes:
    return b"".join(decompressed(in_blocks(packed, block), codec, "data.jsonl.gz"))


@CODECS
@pytest.mark.parametrize("block", [1, 7, 1000, BLOCK_BYTES])
def test_content_comes_back_whatever_the_size_of_the_blocks(codec: str, block: int) -> None:
    data = TEXT[:30_000] if block < 1000 else TEXT

    assert undo(PACK[codec](data), codec, block) == data


@CODECS
def test_a_file_of_many_members_is_their_contents_joined(codec: str) -> None:
    parts = [TEXT[at : at + 900] for at in range(0, 90_000, 900)]
    packed = b"".join(PACK[codec](part) for part in [*parts, b"", b"last"])

    assert undo(packed, codec) == b"".join(parts) + b"last"
    assert undo(packed, codec, 11) == b"".join(parts) + b"last"


@CODECS
def test_content_that_packs_well_comes_in_small_blocks(codec: str) -> None:
    zeros = bytes(40_000_000)

    sizes = [len(block) for block in decompressed(iter([PACK[codec](zeros)]), codec, "zeros")]

    assert sum(sizes) == len(zeros)
    assert max(sizes) <= 2 * BLOCK_BYTES


@CODECS
def test_a_cut_at_any_byte_is_an_error_not_a_shorter_file(codec: str) -> None:
    packed = PACK[codec](b"first line\nsecond line\n") + PACK[codec](b"third line\n")
    whole_first = len(PACK[codec](b"first line\nsecond line\n"))

    for length in range(len(packed)):
        if length != whole_first:
            with pytest.raises(SourceError, match=r"data\.jsonl\.gz"):
                undo(packed[:length], codec)


@CODECS
def test_a_large_file_cut_near_its_end_is_an_error(codec: str) -> None:
    with pytest.raises(SourceError, match="ends too early"):
        undo(PACK[codec](TEXT)[:-3], codec)


@CODECS
@pytest.mark.parametrize("tail", [b"garbage", b"\n", b"\0\0\0x"])
def test_something_else_after_the_end_is_an_error(codec: str, tail: bytes) -> None:
    with pytest.raises(SourceError, match=r"corrupt|too early"):
        undo(PACK[codec](b"fine") + tail, codec)


@CODECS
def test_zero_padding_after_the_end_is_no_error(codec: str) -> None:
    assert undo(PACK[codec](b"fine") + bytes(512), codec) == b"fine"
    assert undo(PACK[codec](b"fine") + bytes(512), codec, 1) == b"fine"


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz"])
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_never_gives_other_content_in_silence(codec: str, data: st.DataObject) -> None:
    content = TEXT[:2000]
    packed = bytearray(PACK[codec](content))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))

    try:
        got = undo(bytes(packed), codec)
    except SourceError:
        return
    assert got == content  # header bytes such as gzip's time mean nothing


@st.composite
def gzip_members(draw: st.DrawFn) -> bytes:
    """A member with any header a packer may write, some of them wrong."""
    flags = draw(st.sampled_from([0, 0, 8, 4, 16, 2, 31, *range(256)]))
    header = b"\x1f\x8b\x08" + bytes([flags]) + draw(st.binary(min_size=4, max_size=4)) + b"\0\xff"
    if flags & 4:
        extra = draw(st.binary(max_size=300))
        header += struct.pack("<H", len(extra)) + extra
    for flag in (8, 16):
        if flags & flag:
            header += draw(st.binary(max_size=40)).replace(b"\0", b"") + b"\0"
    if flags & 2:
        header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    content = draw(st.one_of(st.binary(max_size=200), st.integers(0, 3000).map(lambda size: TEXT[:size])))
    level, strategy = draw(st.sampled_from([0, 1, 6, 9])), draw(st.sampled_from([0, 2, 3, 4]))
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, strategy=strategy)
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    return header + deflate.compress(content) + deflate.flush() + trailer


def gunzip_by_zlib(packed: bytes) -> bytes | None:
    """The reference: member after member by `zlib`, None for what is no gzip file."""
    content = b""
    rest = packed
    while rest:
        member = zlib.decompressobj(wbits=31)
        try:
            content += member.decompress(rest)
        except zlib.error:
            return None
        if not member.eof:
            return None
        rest = member.unused_data.lstrip(b"\0")
    return content if packed else None


@given(
    members=st.lists(gzip_members(), min_size=1, max_size=3),
    tail=st.sampled_from([b"", b"", b"\0", bytes(700), b"x", b"\0x", b"\x1f", b"\x1f\x8b"]),
    block=st.sampled_from([1, 7, 1000, BLOCK_BYTES]),
    keep=st.one_of(st.none(), st.integers(0, 5000)),
)
@settings(max_examples=150, deadline=None)
def test_gzip_is_read_and_refused_exactly_as_zlib_does(
    members: list[bytes], tail: bytes, block: int, keep: int | None
) -> None:
    packed = (b"".join(members) + tail)[:keep]
    wanted = gunzip_by_zlib(packed)

    if wanted is None:
        with pytest.raises(SourceError):
            undo(packed, "gzip", block)
    else:
        assert undo(packed, "gzip", block) == wanted


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_gzip_is_refused_where_zlib_does_or_gives_what_its_checksum_says(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from([TEXT[:5000], bytes(70_000), b"abcabcabd" * 30]))
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wanted = gunzip_by_zlib(bytes(packed))

    try:
        got = undo(bytes(packed), "gzip")
    except SourceError:
        assert wanted is None
    else:
        assert got == content  # a broken table of codes that nothing uses is no damage to the content


def test_a_gzip_header_without_end_does_not_fill_the_memory() -> None:
    name = [b"n" * BLOCK_BYTES] * 64
    tracemalloc.start()

    with pytest.raises(SourceError, match="too early"):
        list(decompressed(iter([b"\x1f\x8b\x08\x08" + bytes(6), *name]), "gzip", "endless.gz"))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * BLOCK_BYTES


@pytest.mark.parametrize("level", [1, 9, 19])
def test_zstd_reads_long_windows_and_skippable_frames(level: int) -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
        zstd.CompressionParameter.window_log: 29,
    }
    packed = zstd.compress(TEXT[:100_000], options=options)
    skippable = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"

    assert undo(skippable + packed + skippable, "zstd") == TEXT[:100_000]


def test_an_empty_file_is_no_compressed_file() -> None:
    for codec in PACK:
        with pytest.raises(SourceError, match="too early"):
            undo(b"", codec)


def test_plain_deflate_and_zlib_streams_are_not_taken_for_gzip() -> None:
    with pytest.raises(SourceError, match="corrupt gzip"):
        undo(zlib.compress(b"x" * 100), "gzip")


@pytest.mark.parametrize("start", [0, 1, 999_999, 1_000_000, 1_000_001, len(TEXT)])
def test_skipping_gives_the_rest(start: int) -> None:
    blocks = decompressed(iter([PACK["gzip"](TEXT)]), "gzip", "a.gz")

    assert b"".join(skipped(blocks, start, "a.gz")) == TEXT[start:]


def test_skipping_past_the_end_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"a\.gz.*byte 11.*has 10"):
        list(skipped(iter([b"0123456789"]), 11, "a.gz"))


def test_blocks_are_of_about_a_megabyte() -> None:
    packed = PACK["gzip"](random.Random(1).randbytes(5_000_000))

    sizes = [len(block) for block in decompressed(in_blocks(packed, 30_000), "gzip", "a.gz")]

    assert all(BLOCK_BYTES <= size <= 2 * BLOCK_BYTES for size in sizes[:-1])


@pytest.mark.parametrize(
    ("uri", "codec", "extension"),
    [
        ("/data/a.jsonl", None, ".jsonl"),
        ("/data/a.JSONL.GZ", "gzip", ".jsonl"),
        ("a.tar.gz", "gzip", ".tar"),
        ("a.tgz", "gzip", ".tar"),
        ("a.tar.zst", "zstd", ".tar"),
        ("a.b.txt.xz", "xz", ".txt"),
        ("dump.zst", "zstd", ""),
        ("a.csv.bz2", "bzip2", ".csv"),
        ("s3://bucket/v1.2/noext", None, ""),
        ("https://host/a.jsonl.gz?X-Amz-Signature=ab.tar", "gzip", ".jsonl"),
        ("https://host/a%2Ejsonl%2Egz#top", "gzip", ".jsonl"),
        ("/data/what?.gz", "gzip", ""),
        ("s3://bucket/100%.csv", None, ".csv"),
        ("/data/.gz", None, ""),
    ],
)
def test_names_tell_codec_and_format(uri: str, codec: str | None, extension: str) -> None:
    assert codec_of(uri) == codec
    assert is_compressed(uri) is (codec is not None)
    assert stem_extension(uri) == extension


def test_only_uncompressed_lines_can_grow() -> None:
    assert looks_like_lines("a.jsonl")
    assert looks_like_lines("https://host/a.CSV?token=1")
    assert not looks_like_lines("a.jsonl.gz")
    assert not looks_like_lines("a.parquet")
