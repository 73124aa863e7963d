import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from backports import zstd
from PIL import Image
from support.tar_shards import RICH, RICH_JSON, RICH_SCHEMA, by_webdataset, encode, jpeg, shard, writer_for
from support.writer_contract import index_keys, pack_shard

from data_bridge.model.batch import DictRows, Row

pytestmark = pytest.mark.filterwarnings(
    # the webdataset library leaves its files open
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def by_datasets(path: Path, cache: Path) -> list[dict[str, Any]]:
    import datasets

    stream = datasets.load_dataset(
        "webdataset", data_files={"train": [str(path)]}, split="train", streaming=True, cache_dir=str(cache)
    )
    return [{k: v for k, v in sample.items() if k != "__url__"} for sample in stream.decode(False)]


@pytest.mark.parametrize("output_format", ["tar", "tar.gz"])
def test_webdataset_reads_what_the_source_held(tmp_path: Path, output_format: str) -> None:
    path = shard(tmp_path / f"000000.{output_format}", RICH, RICH_SCHEMA, output_format=output_format)

    samples = by_webdataset(path)

    assert [sample["__key__"] for sample in samples] == index_keys(12)
    assert [json.loads(sample["json"]) for sample in samples] == RICH_JSON
    assert [sample["jpg"] for sample in samples] == [row["image"]["bytes"] for row in RICH]
    assert {frozenset(sample) for sample in samples} == {frozenset(("__key__", "jpg", "json"))}


def test_webdataset_decodes_our_images(tmp_path: Path) -> None:
    import webdataset

    path = shard(tmp_path / "000000.tar", RICH[:3], RICH_SCHEMA)

    samples = list(webdataset.WebDataset([str(path)], shardshuffle=False).decode("rgb8"))

    expected = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in RICH[:3]]
    assert all((sample["jpg"] == image).all() for sample, image in zip(samples, expected, strict=True))


def test_datasets_reads_what_the_source_held(tmp_path: Path) -> None:
    path = shard(tmp_path / "000000.tar", RICH, RICH_SCHEMA)

    samples = by_datasets(path, tmp_path / "cache")

    assert [sample["json"] for sample in samples] == RICH_JSON
    assert [sample["jpg"]["bytes"] for sample in samples] == [row["image"]["bytes"] for row in RICH]
    assert [sample["__key__"] for sample in samples] == index_keys(12)


def test_gnu_format_readers_see_plain_read_only_files(tmp_path: Path) -> None:
    path = shard(tmp_path / "000000.tar", RICH, RICH_SCHEMA)

    with tarfile.open(path) as archive:
        for info in archive:
            assert (info.mode, info.uid, info.gid, info.mtime, info.uname, info.pax_headers) == (
                0o444, 0, 0, 0, "bigdata", {},
            )  # fmt: skip


@pytest.mark.parametrize(("suffix", "undo"), [("tar.gz", gzip.decompress), ("tar.zst", zstd.decompress)])
def test_compressed_shards_hold_the_plain_shard(tmp_path: Path, suffix: str, undo: Callable[[bytes], bytes]) -> None:
    plain = shard(tmp_path / "a.tar", RICH, RICH_SCHEMA)
    packed = shard(tmp_path / f"a.{suffix}", RICH, RICH_SCHEMA, output_format=suffix)

    assert undo(packed.read_bytes()) == plain.read_bytes()


def test_the_bytes_are_those_of_the_webdataset_library(tmp_path: Path) -> None:
    import webdataset

    path = shard(tmp_path / "ours.tar", RICH, RICH_SCHEMA)
    with (tmp_path / "theirs.tar").open("wb") as file:
        theirs = webdataset.TarWriter(file, mtime=0, encoder=False)
        for key, row, rest in zip(index_keys(12), RICH, RICH_JSON, strict=True):
            theirs.write({"__key__": key, "json": orjson.dumps(rest), "jpg": row["image"]["bytes"]})
        theirs.close()

    assert path.read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_a_tar_source_keeps_keys_members_and_bytes(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"__key__": f"img-{i}", "cls": b"3\n", "jpg": jpeg(i), "json": b'{"a": 1}', "seg.png": b"\x89PNG"}
        for i in range(3)
    ]
    path = tmp_path / "a.tar"
    writer = writer_for(rows, key_field="__key__")
    pack_shard(writer, path, [encode(writer, DictRows(rows))])

    assert by_webdataset(path) == rows
    assert writer.check(path) == 3
