"""The ways of losing data in silence that other writers and readers have, each tried on whole runs.

What is tested more closely elsewhere: damage of tars in test_tarcheck, leaves in test_litdata_rows and
test_litdata_leaves, dying workers in tests/kill, bodies that end early in tests/io/test_transport_web.
"""

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.litdata_chunks import arrow_rows_of

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, DataError, FatalError
from data_bridge.model.report import RunReport

BLOCK = 512


def run(source: Path | str, out: Path, **more: Any) -> RunReport:
    options = {"input_uri": str(source), "output_uri": str(out), "workers": 0, "samples_per_shard": 4, **more}
    return api.run_pipeline(Settings.model_validate({"pipeline": options}))


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chunks(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "index.json").read_text())["chunks"]
    return found


def counts(out: Path) -> list[int]:
    """Samples of every chunk of the index, as its file says."""
    return [struct.unpack("<I", (out / chunk["filename"]).read_bytes()[:4])[0] for chunk in chunks(out)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("key", ["img.0", "v1.0_a", "a/b", "", "ä", "__x"])
def test_a_key_that_readers_would_split_never_reaches_a_shard(key: str, tmp_path: Path, out: Path) -> None:
    """1: a dot merges all samples of a shard into one."""
    source = lines(tmp_path / "a.jsonl", [{"k": "good"}, {"k": key}, {"k": "good2"}])

    report = run(source, out, key_field="k", on_error="skip")

    assert (report.samples, report.failed) == (2, 1)
    with pytest.raises(DataError, match="key"):
        run(source, tmp_path / "strict", key_field="k")


def test_a_shard_cut_between_members_does_not_verify(tmp_path: Path, out: Path) -> None:
    """2: readers and GNU tar accept it."""
    run(lines(tmp_path / "a.jsonl", [{"n": n} for n in range(4)]), out)
    shard = out / "000000.tar"
    shard.write_bytes(shard.read_bytes()[: 2 * BLOCK * 2])

    assert api.verify(str(out)).exit_code == 1
    assert api.verify(str(out), deep=True).exit_code == 1


def test_a_shard_with_another_behind_it_does_not_verify_and_is_no_source(tmp_path: Path, out: Path) -> None:
    """3: readers stop at the first end of archive."""
    run(lines(tmp_path / "a.jsonl", [{"n": n} for n in range(8)]), out)
    first, second = (out / f"00000{n}.tar" for n in range(2))
    first.write_bytes(first.read_bytes() + second.read_bytes())

    assert api.verify(str(out), deep=True).exit_code == 1
    with pytest.raises(BridgeError, match="data follows the end of the archive"):
        run(first, tmp_path / "again")


@pytest.mark.parametrize("name", ["webdataset", "litdata"])
def test_an_error_in_the_middle_publishes_no_open_shard(name: str, tmp_path: Path, out: Path) -> None:
    """4: `ShardWriter` closes and uploads the shard that an exception interrupts."""
    rows = [{"n": n, "text": f"{n:032x}" * 4000} for n in range(60)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), 0)
    source = tmp_path / "a.jsonl.gz"
    source.write_bytes(packed[:-1_000_000])

    with pytest.raises(FatalError, match="ends too early"):
        run(source, out, name=name)

    shards = [path for path in out.iterdir() if path.name.endswith((".tar", ".bin"))]
    assert 0 < len(shards) < 15
    assert not (out / "manifest.json").exists()
    assert not (out / "index.json").exists()
    if name == "litdata":
        assert {struct.unpack("<I", path.read_bytes()[:4])[0] for path in shards} == {4}


def test_an_index_that_stands_already_loses_neither_old_chunks_nor_the_tail(tmp_path: Path, out: Path) -> None:
    """5 and 6: `BinaryWriter` drops its tail when there is an index, and a resumed one lists its own chunks alone."""
    source = lines(tmp_path / "a.jsonl", [{"n": n} for n in range(6)])
    run(source, out, name="litdata")
    before = chunks(out)
    with source.open("a") as file:
        file.writelines(json.dumps({"n": n}) + "\n" for n in range(6, 13))

    report = run(source, out, name="litdata")

    assert report.samples == 13
    assert chunks(out)[: len(before)] == before
    assert counts(out) == [chunk["chunk_size"] for chunk in chunks(out)] == [4, 2, 4, 3]


@pytest.mark.parametrize("late", [1.5, "1", None, [1], True, 2**63, "missing", "extra"])
def test_no_value_is_made_to_fit_the_first_sample(late: Any, tmp_path: Path, out: Path) -> None:
    """7: the first sample's types turn later values into others, nulls into zeros, and drop new keys."""
    row: dict[str, Any] = {"n": late}
    if late in ("missing", "extra"):
        row = {} if late == "missing" else {"n": 5, "more": 1}
    source = lines(tmp_path / "a.jsonl", [*({"n": n} for n in range(1100)), row, {"n": 7}])

    report = run(source, out, name="litdata", on_error="quarantine", samples_per_shard=2000)

    (failures,) = (out / "_bridge").rglob("failures/*.jsonl")
    (failure,) = map(json.loads, failures.read_text().splitlines())
    assert (report.samples, report.failed, counts(out)) == (1101, 1, [1101])
    assert ("more" if late == "extra" else "'n'") in failure["reason"]


@pytest.mark.parametrize("layout", ["classic", "arrow"])
def test_text_that_names_a_file_stays_text(layout: str, tmp_path: Path, out: Path) -> None:
    """8: a path in the first sample makes `BinaryWriter` store the file."""
    picture = tmp_path / "x.jpg"
    picture.write_bytes(b"\xff\xd8\xff the secret of this disk")
    source = lines(tmp_path / "a.jsonl", [{"p": str(picture)}, {"p": "no file"}])

    run(source, out, name="litdata", litdata_layout=layout)
    run(source, tmp_path / "tar")

    for path in [*out.glob("*.bin"), *(tmp_path / "tar").glob("*.tar")]:
        assert b"secret of this disk" not in path.read_bytes()
        assert str(picture).encode() in path.read_bytes()


def test_the_order_of_the_source_is_that_of_the_dataset_with_any_workers(tmp_path: Path, out: Path) -> None:
    """9: `litdata.optimize` reorders with two workers, and a dead one goes unnoticed."""
    source = lines(tmp_path / "a.jsonl", [{"n": n, "x": None} for n in range(200)])

    run(source, out, name="litdata", workers=2, partition_bytes=400, samples_per_shard=5)

    rows = [row for chunk in chunks(out) for row in arrow_rows_of((out / chunk["filename"]).read_bytes())]
    assert [row["n"] for row in rows] == list(range(200))
