"""litdata's own readers on our chunks, and its writer against ours."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from support.seaweed import OWNER, Seaweed, bucket, seaweed
from support.writer_contract import pack_shard, shard_record

from data_bridge.api import run_pipeline
from data_bridge.config import PipelineSettings, Settings
from data_bridge.model.batch import ArrowRows, DictRows, Row, Rows
from data_bridge.model.shards import ShardRecord
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.litdata import LitDataWriter

__all__ = ["bucket", "seaweed"]


class Reader(Protocol):
    """What `conftest.py` starts."""

    def read(self, source: Path | str, **options: Any) -> list[Any]: ...

    def write(self, rows: Sequence[Any], dtypes: dict[str, str] | None = None, **options: Any) -> dict[str, Any]: ...


def writer_for(rows: Sequence[Row], **values: Any) -> LitDataWriter:
    names = dict.fromkeys(name for row in rows for name in row)
    probe = Probe(tuple(Field(name=name, type="json") for name in names), declared=False, rows=list(rows))
    settings = PipelineSettings(name="litdata", input_uri="data.jsonl", **values)
    return LitDataWriter(settings, json.loads(json.dumps(LitDataWriter.freeze(settings, probe))))


def add_chunks(
    writer: LitDataWriter, folder: Path, rows: Sequence[Row], per_chunk: int, first: int = 0
) -> list[ShardRecord]:
    """Rows as chunks numbered from `first`."""
    folder.mkdir(exist_ok=True)
    records = []
    for number, lo in enumerate(range(0, len(rows), per_chunk), first):
        run = writer.encode(DictRows(rows[lo : lo + per_chunk]), [])
        assert run.failures == ()
        name = writer.shard_name("", number, 0, 6)
        records.append(shard_record(name, pack_shard(writer, folder / name, [run])))
        writer.check(folder / name)
    return records


def publish(writer: LitDataWriter, folder: Path, records: Sequence[ShardRecord]) -> Path:
    for name, data in writer.indexes(records).items():
        (folder / name).write_bytes(data)
    return folder


def dataset(folder: Path, rows: Sequence[Row], per_chunk: int = 40, **values: Any) -> Path:
    """A published folder."""
    writer = writer_for(rows, samples_per_shard=per_chunk, **values)
    return publish(writer, folder, add_chunks(writer, folder, rows, per_chunk))


def seen(rows: Sequence[Row]) -> list[Any]:
    """Rows as the classic layout gives them back: lists of numbers as arrays."""
    return [
        {
            name: {
                "ndarray": "bool" if value and isinstance(value[0], bool) else str(np.array(value).dtype),
                "items": value,
            }
            if isinstance(value, list)
            else value
            for name, value in row.items()
        }
        for row in rows
    ]


PLAIN: list[Row] = [
    {
        "id": i,
        "x": i / 3,
        "ok": i % 2 == 0,
        "text": "räksmörgås " * (i % 5),
        "tokens": list(range(i % 7, 9)),
        "w": [i / 2],
    }
    for i in range(100)
]
ANY: list[Row] = [
    {
        "id": i,
        "text": None if i % 3 else "ä" * i,
        "data": base64.b64encode(bytes([i % 256])).decode(),
        "tags": ["a", None] if i % 2 else [],
        "meta": {"a": None if i % 4 else i, "b": [{"c": i / 2}]},
    }
    for i in range(600)
]


class TestClassic:
    @pytest.mark.parametrize("compression", ["none", "zstd"])
    def test_every_sample_comes_back_in_order(self, reader: Reader, tmp_path: Path, compression: str) -> None:
        folder = dataset(tmp_path / "out", PLAIN, compression=compression)

        assert reader.read(folder) == seen(PLAIN)
        assert reader.read(folder, by_index=True) == seen(PLAIN)

    def test_two_workers_of_the_loader_see_every_sample_once(self, reader: Reader, tmp_path: Path) -> None:
        rows = [{"id": i, "tokens": [i, i + 1]} for i in range(100)]
        folder = dataset(tmp_path / "out", rows, per_chunk=10)

        batches = reader.read(folder, batch_size=5, workers=2)

        assert sorted(i for batch in batches for i in batch["id"]["items"]) == list(range(100))
        assert all(
            tokens == [i, i + 1]
            for b in batches
            for i, tokens in zip(b["id"]["items"], b["tokens"]["items"], strict=True)
        )

    def test_columns_of_narrow_types_come_back(self, reader: Reader, tmp_path: Path) -> None:
        kinds = [
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
            "bool",
        ]
        values = [[1, 0, 1], [0], [1, 1]]
        settings = PipelineSettings(name="litdata", input_uri="x.parquet")
        fields = tuple(Field(name=kind, type=f"list<{kind}>") for kind in kinds)
        writer = LitDataWriter(settings, LitDataWriter.freeze(settings, Probe(fields, declared=True)))
        columns = {
            k: pa.array([np.array(v, k) for v in values], pa.list_(pa.from_numpy_dtype(np.dtype(k)))) for k in kinds
        }
        rows: Rows = ArrowRows(pa.RecordBatch.from_pydict(columns))
        (tmp_path / "out").mkdir()
        record = shard_record("a.bin", pack_shard(writer, tmp_path / "out" / "a.bin", [writer.encode(rows, [])]))

        found = reader.read(publish(writer, tmp_path / "out", [record]))

        assert found == [{k: {"ndarray": k, "items": np.array(v, k).tolist()} for k in kinds} for v in values]

    def test_text_that_names_an_existing_picture_stays_text(self, reader: Reader, tmp_path: Path) -> None:
        picture = tmp_path / "cat.jpg"
        picture.write_bytes(b"\xff\xd8\xff\xe0 private")
        rows = [{"path": str(picture)}, {"path": __file__}]

        assert reader.read(dataset(tmp_path / "out", rows)) == rows

    def test_nan_and_infinity_come_back(self, reader: Reader, tmp_path: Path) -> None:
        rows = [{"x": float("nan")}, {"x": float("-inf")}]

        assert reader.read(dataset(tmp_path / "out", rows)) == [{"x": {"float": "nan"}}, {"x": float("-inf")}]

    def test_numbers_stay_what_they_are_behind_a_first_sample_of_zeros(self, reader: Reader, tmp_path: Path) -> None:
        rows: list[Row] = [{"n": 0, "v": [0]}, {"n": 2**62, "v": [1, 2**40, -1]}, {"n": -1, "v": []}]

        assert [row["v"]["items"] for row in reader.read(dataset(tmp_path / "out", rows))] == [row["v"] for row in rows]

    def test_what_a_second_writer_adds_after_a_restart_is_listed_with_the_rest(
        self, reader: Reader, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out"
        first = writer_for(PLAIN)
        records = add_chunks(first, folder, PLAIN[:60], 30)
        publish(first, folder, records)  # an index that stands there already must not end the writing
        second = writer_for(PLAIN)
        records += add_chunks(second, folder, PLAIN[60:], 30, first=2)

        assert reader.read(publish(second, folder, records)) == seen(PLAIN)

    def test_a_dataset_published_anew_is_not_read_from_an_old_cache(self, reader: Reader, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        dataset(folder, [{"id": i} for i in range(20)])
        assert reader.read(f"local:{folder}") == [{"id": i} for i in range(20)]
        for path in folder.iterdir():
            path.unlink()

        dataset(folder, [{"id": -i} for i in range(20)])

        assert reader.read(f"local:{folder}") == [{"id": -i} for i in range(20)]

    def test_compressed_chunks_read_as_local_copies_leave_the_folder_alone(
        self, reader: Reader, tmp_path: Path
    ) -> None:
        folder = dataset(tmp_path / "out", PLAIN, compression="zstd")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        assert reader.read(f"local:{folder}") == seen(PLAIN)

        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_bytes_by_option_are_what_the_warning_says(self, current: Reader, oldest: Reader, tmp_path: Path) -> None:
        folder = dataset(tmp_path / "out", [{"jpg": b"\xff\xd8"}], litdata_layout="classic")

        assert current.read(folder) == [{"jpg": {"memoryview": "/9g="}}]
        assert oldest.read(folder) == [{"jpg": {"bytes": "/9g="}}]


class TestArrow:
    @pytest.mark.parametrize("compression", ["none", "zstd"])
    def test_every_sample_comes_back_with_its_nulls(self, current: Reader, tmp_path: Path, compression: str) -> None:
        folder = dataset(tmp_path / "out", ANY, per_chunk=550, compression=compression)

        assert current.read(folder) == ANY
        assert current.read(folder, by_index=True) == ANY

    def test_bytes_come_back_as_bytes_and_collate_to_lists(self, current: Reader, tmp_path: Path) -> None:
        rows = [{"id": i, "jpg": b"\xff" * 3} for i in range(6)]
        folder = dataset(tmp_path / "out", rows, per_chunk=2)

        assert current.read(folder) == [{"id": i, "jpg": {"bytes": "////"}} for i in range(6)]
        batches = current.read(folder, batch_size=2)
        assert [batch["jpg"] for batch in batches] == [[{"bytes": "////"}] * 2] * 3

    def test_large_samples_come_back_by_index_and_through_workers(self, current: Reader, tmp_path: Path) -> None:
        rows: list[Row] = [{"id": i, "blob": bytes([i]) * 1_200_000} for i in range(4)]
        folder = dataset(tmp_path / "out", rows, per_chunk=2)
        expected = {i: base64.b64encode(rows[i]["blob"]).decode() for i in range(4)}

        for found in (
            current.read(folder, by_index=True),
            [{"id": b["id"]["items"][0], "blob": b["blob"][0]} for b in current.read(folder, batch_size=1, workers=2)],
        ):
            assert {row["id"]: row["blob"]["bytes"] for row in found} == expected

    def test_an_old_reader_refuses_instead_of_reading_something_else(self, oldest: Reader, tmp_path: Path) -> None:
        for number, rows in enumerate((ANY[:5], [{"id": 1, "text": "a"}])):
            folder = dataset(tmp_path / str(number), rows, litdata_layout="arrow")

            with pytest.raises(Exception, match="Error"):
                oldest.read(folder)


class TestOwnWriter:
    """Chunks equal litdata's own byte for byte; its index says nothing that ours does not."""

    def compare(self, theirs: dict[str, Any], folder: Path) -> None:
        ours = sorted(folder.glob("*.bin"))
        assert [base64.b64decode(data) for _, data in sorted(theirs["chunks"].items())] == [
            p.read_bytes() for p in ours
        ]
        index = json.loads((folder / "index.json").read_bytes())
        for ours_chunk, their_chunk in zip(index["chunks"], theirs["index"]["chunks"], strict=True):
            assert {**ours_chunk, "filename": "", "sha256": ""} == {**their_chunk, "filename": "", "sha256": ""}
        assert (
            theirs["index"]["config"].items()
            <= {**index["config"], "types": theirs["index"]["config"].get("types")}.items()
        )

    def test_classic_chunks_with_arrays(self, reader: Reader, tmp_path: Path) -> None:
        folder = dataset(tmp_path / "out", PLAIN, per_chunk=40)

        self.compare(reader.write(PLAIN, {"tokens": "int64", "w": "float64"}, chunk_size=40), folder)

    def test_classic_chunks_of_plain_values(self, oldest: Reader, tmp_path: Path) -> None:
        rows = [{name: row[name] for name in ("ok", "text", "id", "x")} for row in PLAIN]
        folder = dataset(tmp_path / "out", rows, per_chunk=33)

        self.compare(oldest.write(rows, chunk_size=33), folder)

    def test_arrow_chunks_of_one_record_batch(self, current: Reader, tmp_path: Path) -> None:
        rows: list[Row] = [{"id": i, "x": i / 3, "ok": i % 2 == 0, "text": "ä" * (i % 5)} for i in range(700)]
        folder = dataset(tmp_path / "out", rows, per_chunk=256, litdata_layout="arrow")

        self.compare(current.write(rows, chunk_size=256), folder)

    def test_arrow_chunks_with_nulls_and_nested_values(self, current: Reader, tmp_path: Path) -> None:
        rows: list[Row] = [
            {"id": i, "text": None if i % 3 == 0 else "a", "s": {"a": i, "b": [None, "x"] if i % 2 else []}}
            for i in range(200)
        ]
        folder = dataset(tmp_path / "out", rows, per_chunk=200)

        (data,) = current.write(rows, chunk_size=200)["chunks"].values()

        assert base64.b64decode(data) == next(folder.glob("*.bin")).read_bytes()

    def test_arrow_chunks_of_several_record_batches_differ_in_slack_alone(
        self, current: Reader, tmp_path: Path
    ) -> None:
        # litdata writes slices of one table, whose buffers end in bits of the rows behind them
        folder = dataset(tmp_path / "out", ANY, per_chunk=600)

        (data,) = current.write(ANY, chunk_size=600)["chunks"].values()

        theirs, ours = base64.b64decode(data), next(folder.glob("*.bin")).read_bytes()
        header = 4 * 602
        assert theirs[:header] == ours[:header]
        batches = [self.batches(chunk[header:]) for chunk in (theirs, ours)]
        assert [batch.num_rows for batch in batches[1]] == [256, 256, 88]
        assert batches[0] == batches[1]

    def batches(self, tail: bytes) -> list[pa.RecordBatch]:
        reader = pa.ipc.open_file(tail[:-12])
        return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def test_what_a_run_publishes_reads_as_the_source_did(reader: Reader, tmp_path: Path) -> None:
    rows = [{"id": i, "text": "x" * (i % 50), "tokens": [i, -i]} for i in range(3000)]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pipeline = {
        "name": "litdata",
        "input_uri": str(tmp_path / "data.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 400,
        "partition_bytes": 30_000,
    }

    report = run_pipeline(Settings.model_validate({"pipeline": pipeline}), workers=0)

    assert (report.samples, report.shards) == (3000, len(list((tmp_path / "out").glob("*.bin"))))
    assert reader.read(tmp_path / "out") == seen(rows)


@pytest.mark.parametrize(
    "values", [{}, {"compression": "zstd"}, {"litdata_layout": "arrow"}], ids=["classic", "zstd", "arrow"]
)
def test_a_bucket_over_tls_reads_as_a_folder_does(
    current: Reader, seaweed: Seaweed, bucket: str, tmp_path: Path, values: dict[str, Any]
) -> None:
    rows = [{"id": i, "text": "x" * i} for i in range(50)]
    folder = dataset(tmp_path / "out", rows, per_chunk=20, **values)
    for path in folder.iterdir():
        seaweed.client.put_object(Bucket=bucket, Key=f"set/{path.name}", Body=path.read_bytes())
    options = {
        "aws_access_key_id": OWNER[0],
        "aws_secret_access_key": OWNER[1],
        "endpoint_url": seaweed.endpoint,
        "region_name": "auto",
    }

    found = current.read(f"s3://{bucket}/set", storage_options=options)

    assert found == rows
