import io
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.tar_shards import RICH, RICH_SCHEMA, shard, writer_for

from data_bridge.errors import IntegrityError
from data_bridge.model.batch import Row


def damaged(tmp_path: Path, change: Callable[[bytes], bytes], rows: Sequence[Row] = RICH) -> IntegrityError:
    path = shard(tmp_path / "good.tar", rows, RICH_SCHEMA)
    (tmp_path / "bad.tar").write_bytes(change(path.read_bytes()))
    with pytest.raises(IntegrityError) as caught:
        writer_for(rows, RICH_SCHEMA).check(tmp_path / "bad.tar")
    assert "bad.tar" in caught.value.message
    return caught.value


def test_a_cut_at_a_member_boundary_is_found_though_readers_accept_it(tmp_path: Path) -> None:
    def cut(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return data[: archive.getmembers()[4].offset]

    assert "cut" in damaged(tmp_path, cut).message
    with tarfile.open(tmp_path / "bad.tar") as archive:
        assert len(archive.getnames()) == 4


def test_two_archives_in_one_file_are_found_though_readers_see_only_the_first(tmp_path: Path) -> None:
    assert "data follows" in damaged(tmp_path, lambda data: data + data).message
    with tarfile.open(tmp_path / "bad.tar") as archive:
        assert len(archive.getnames()) == 2 * len(RICH)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:3] + b"9" + data[4:], "checksum"),
        (lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 512), "cut"),
        (lambda data: data + bytes(512), "multiple"),
        (lambda data: data[:-9000] + b"x" + data[-8999:], "belong|data follows|checksum"),
        (lambda data: b"", "cut"),
        (lambda data: bytes(10240), "no sample"),
    ],
)
def test_damage_of_the_layout_is_found(tmp_path: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    assert re.search(reason, damaged(tmp_path, change).message)


def foreign(path: Path, names: Sequence[str], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return path


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.0.jpg", "a.1.jpg", "a.0.jpg"], "twice"),
        (["a.jpg", "b.jpg", "a.txt"], "stand apart"),
        (["a.jpg", "a.txt", "b.jpg"], "the first one"),
        (["a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg"], "the first one"),
        (["a"], "form key.extension"),
        (["dir/a.jpg"], "form key.extension"),
        (["a.JPG"], "form key.extension"),
        ([f"{'d' * 99}/{'k' * 40}.jpg"], "short name"),
    ],
)
def test_samples_that_readers_would_mix_up_are_found(tmp_path: Path, names: list[str], reason: str) -> None:
    path = foreign(tmp_path / "a.tar", names)

    with pytest.raises(IntegrityError, match=reason):
        writer_for([{"a": 1}]).check(path)


def test_extended_headers_are_found(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.tar", [f"{'ä' * 60}.jpg"], tarfile.PAX_FORMAT)

    with pytest.raises(IntegrityError, match="plain file"):
        writer_for([{"a": 1}]).check(path)


def test_a_shard_with_long_member_content_is_read_whole(tmp_path: Path) -> None:
    rows: list[Row] = [{"blob": bytes(3_000_000)}, {"blob": b"x" * 512}]
    for output_format in ("tar", "tar.gz", "tar.zst"):
        shard(tmp_path / output_format, rows, output_format=output_format)
