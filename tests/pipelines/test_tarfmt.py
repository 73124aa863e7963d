import io
import tarfile
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_bridge.pipelines.tarfmt import BLOCK, MAX_MEMBER_BYTES, Names, column, end_of_archive, pack, put_headers

sample_keys = st.text("abcXYZ019_-", min_size=1, max_size=90)


def headers(keys: Sequence[str], extension: str, sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    found = np.empty((len(keys), BLOCK), dtype=np.uint8)
    put_headers(found, Names(keys), extension, sizes)
    return found


def by_library(keys: Sequence[str], members: dict[str, list[bytes]]) -> bytes:
    import webdataset

    out = io.BytesIO()
    writer = webdataset.TarWriter(out, mtime=0, encoder=False)
    for i, key in enumerate(keys):
        writer.write({"__key__": key, **{extension: contents[i] for extension, contents in members.items()}})
    writer.close()
    return out.getvalue()


def archive(keys: Sequence[str], members: dict[str, list[bytes]]) -> bytes:
    data, _ = pack(keys, [column(extension, members[extension]) for extension in sorted(members)])
    return data + end_of_archive(len(data))


@settings(max_examples=60, deadline=None)
@given(st.lists(sample_keys, min_size=1, max_size=5, unique=True), st.data())
def test_archives_equal_those_of_the_webdataset_library(keys: list[str], data: st.DataObject) -> None:
    extensions = data.draw(st.lists(st.sampled_from(["jpg", "json", "txt", "seg.png", "a-b"]), min_size=1, unique=True))
    contents = st.lists(st.binary(max_size=1600), min_size=len(keys), max_size=len(keys))
    members = {extension: data.draw(contents) for extension in extensions}

    assert archive(keys, members) == by_library(keys, members)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8192, 9215, 9216, 9217, 10_239, 10_240, 100_000])
def test_archives_of_any_length_end_as_the_library_ends_them(size: int) -> None:
    members = {"bin": [bytes([7]) * size]}

    assert archive(["k"], members) == by_library(["k"], members)
    assert len(archive(["k"], members)) % 10_240 == 0


def test_the_ends_are_where_the_next_sample_begins() -> None:
    keys = [f"{i:03d}" for i in range(50)]
    data, ends = pack(keys, [column("a", [b"x" * (i * 37) for i in range(50)]), column("b", [b"y"] * 50)])

    with tarfile.open(fileobj=io.BytesIO(data + end_of_archive(len(data)))) as read:
        firsts = [info.offset for info in read if info.name.endswith(".a")]
    assert [*firsts[1:], len(data)] == ends.tolist()


def test_the_largest_size_a_header_can_say_is_read_back() -> None:
    block = headers(["k"], "bin", np.array([MAX_MEMBER_BYTES], dtype=np.int64))

    assert tarfile.TarInfo.frombuf(block.tobytes(), "ascii", "strict").size == MAX_MEMBER_BYTES == 8 * 2**30 - 1


def test_names_of_all_lengths_up_to_a_hundred_bytes_are_read_back() -> None:
    keys = ["k" * n for n in range(1, 97)]
    block = headers(keys, "bin", np.arange(96, dtype=np.int64))

    infos = [tarfile.TarInfo.frombuf(row.tobytes(), "ascii", "strict") for row in block]

    assert [(info.name, info.size) for info in infos] == [(f"{key}.bin", i) for i, key in enumerate(keys)]
