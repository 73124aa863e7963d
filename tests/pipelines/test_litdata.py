import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.litdata_chunks import (
    ROW,
    by_hand,
    chunk,
    declared,
    observed,
    pipeline,
    writer_for,
)
from support.writer_contract import ShardWriterContract, pack_shard, shard_record

from data_bridge.config import PipelineSettings
from data_bridge.errors import IntegrityError
from data_bridge.model.batch import DictRows, Row
from data_bridge.model.source import Field
from data_bridge.pipelines.litdata import LitDataWriter
from data_bridge.pipelines.writer import ShardWriter


class TestClassic(ShardWriterContract):
    def writer_class(self) -> type[ShardWriter]:
        return LitDataWriter

    def settings(self) -> PipelineSettings:
        return pipeline()


class TestClassicZstd(TestClassic):
    def settings(self) -> PipelineSettings:
        return pipeline(compression="zstd")


class TestArrow(TestClassic):
    def settings(self) -> PipelineSettings:
        return pipeline(litdata_layout="arrow")

    def rows(self, count: int) -> list[Row]:
        return [
            {"id": i, "text": None if i % 3 == 0 else "ä" * (i % 7), "score": i / 8 if i % 5 else None}
            for i in range(count)
        ]


class TestArrowZstd(TestArrow):
    def settings(self) -> PipelineSettings:
        return pipeline(litdata_layout="arrow", compression="zstd")


class TestTokens(TestClassic):
    def settings(self) -> PipelineSettings:
        return pipeline(litdata_layout="tokens")

    def rows(self, count: int) -> list[Row]:
        return [{"tokens": list(range(i, i + 1 + i % 7))} for i in range(count)]

    def bad_row(self) -> Row:
        return {"tokens": [1, 2**40]}

    def fields(self) -> tuple[Field, ...]:
        return (Field(name="tokens", type="list<int32>", nullable=False),)

    def test_a_cut_number_is_found(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"tokens": [1, 2, 3]}, {"tokens": [4]}]
        types = {"tokens": "list<int32>"}
        writer = LitDataWriter(self.settings(), LitDataWriter.freeze(self.settings(), declared(types, rows)))
        whole = chunk(writer, tmp_path, DictRows(rows))
        assert whole == struct.pack("<8I", 2, 16, 28, 32, 1, 2, 3, 4)
        for data in (struct.pack("<8I", 2, 16, 27, 32, 1, 2, 3, 4), whole[:-1], whole + b"x"):
            (tmp_path / "bad").write_bytes(data)
            with pytest.raises(IntegrityError):
                writer.check(tmp_path / "bad")


class TestCheck:
    def test_a_changed_leaf_size_is_found(self, tmp_path: Path) -> None:
        rows = [{"id": i, "text": "abc"} for i in range(5)]
        data = bytearray(by_hand(rows, {}))
        writer = writer_for(observed(rows))
        at = struct.unpack("<I", data[8:12])[0]
        for position in (at, at + 4):
            broken = bytearray(data)
            broken[position] ^= 1
            (tmp_path / "chunk").write_bytes(broken)

            with pytest.raises(IntegrityError, match="sample 1"):
                writer.check(tmp_path / "chunk")

    def test_offsets_that_go_back_are_found(self, tmp_path: Path) -> None:
        data = bytearray(by_hand([{"id": i} for i in range(5)], {}))
        data[8:12], data[12:16] = data[12:16], data[8:12]
        (tmp_path / "chunk").write_bytes(data)

        with pytest.raises(IntegrityError, match="offsets"):
            writer_for(observed([{"id": 1}])).check(tmp_path / "chunk")

    def test_every_flipped_bit_of_a_compressed_chunk_is_found(self, tmp_path: Path) -> None:
        rows = [{"id": i, "text": "abc" * i} for i in range(20)]
        writer = writer_for(observed(rows), compression="zstd")
        data = chunk(writer, tmp_path, DictRows(rows))
        for position in range(0, len(data), 7):
            broken = bytearray(data)
            broken[position] ^= 0x10
            (tmp_path / "broken").write_bytes(broken)

            with pytest.raises(IntegrityError, match="broken"):
                writer.check(tmp_path / "broken")

    def test_an_item_too_short_for_its_leaves_is_found(self, tmp_path: Path) -> None:
        rows = [{"id": i, "text": "abc"} for i in range(2)]
        data = bytearray(by_hand(rows, {}))
        data[8:12] = struct.pack("<I", len(data) - 3)
        (tmp_path / "chunk").write_bytes(data)

        with pytest.raises(IntegrityError, match="too short"):
            writer_for(observed(rows)).check(tmp_path / "chunk")

    def test_record_batches_that_readers_would_misplace_are_found(self, tmp_path: Path) -> None:
        sink = pa.BufferOutputStream()
        table = pa.table({"a": pa.array(range(300), pa.int64())})
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table, max_chunksize=100)
        tail = sink.getvalue().to_pybytes()
        header = struct.pack("<302I", 300, *[302 * 4] * 301)
        (tmp_path / "chunk").write_bytes(header + tail + struct.pack("<I", len(tail)) + b"LDARW01\0")

        with pytest.raises(IntegrityError, match="100 rows"):
            writer_for(observed([{"a": 1}]), litdata_layout="arrow").check(tmp_path / "chunk")

    def test_an_arrow_chunk_of_another_schema_is_found(self, tmp_path: Path) -> None:
        one = writer_for(observed([{"a": 1}]), litdata_layout="arrow")
        chunk(one, tmp_path, DictRows([{"a": 1}]))

        with pytest.raises(IntegrityError, match="columns"):
            writer_for(observed([{"a": "x"}]), litdata_layout="arrow").check(tmp_path / "chunk-0")


class TestIndex:
    def make(self, folder: Path, **values: Any) -> tuple[LitDataWriter, list[Any]]:
        rows = [{"id": i, "text": "a" * i} for i in range(10)]
        writer = writer_for(observed(rows), samples_per_shard=4, **values)
        records = []
        for number, lo in enumerate(range(0, 10, 4)):
            name = writer.shard_name("", number, 0, 6)
            packed = pack_shard(writer, folder / name, [writer.encode(DictRows(rows[lo : lo + 4]), [])])
            records.append(shard_record(name, packed))
        return writer, records

    def test_it_lists_every_chunk_in_order_with_its_true_figures(self, tmp_path: Path) -> None:
        writer, records = self.make(tmp_path)

        files = writer.indexes(records)

        index = json.loads(files["index.json"])
        assert [c["filename"] for c in index["chunks"]] == [f"chunk-0-{n:06d}.bin" for n in range(3)]
        assert [c["chunk_size"] for c in index["chunks"]] == [4, 4, 2]
        assert [c["chunk_bytes"] for c in index["chunks"]] == [(tmp_path / r.key).stat().st_size for r in records]
        assert [c["sha256"] for c in index["chunks"]] == [r.sha256 for r in records]
        assert files["shards.txt"].decode().split() == [r.key for r in records]
        assert index["config"]["data_format"] == ["int", "str"]
        assert index["config"]["item_loader"] == "PyTreeLoader"
        spec = json.loads(index["config"]["data_spec"])
        assert json.loads(spec[1]["context"]) == ["id", "text"]

    def test_updated_at_is_a_digest_that_changes_with_any_chunk(self, tmp_path: Path) -> None:
        writer, records = self.make(tmp_path)

        stamps = {
            json.loads(writer.indexes(some)["index.json"])["updated_at"]
            for some in (records, records[:2], [*records[:2], records[2].model_copy(update={"sha256": "0" * 64})])
        }

        assert len(stamps) == 3
        assert all(len(stamp) == 32 and stamp.isalnum() for stamp in stamps)

    def test_compressed_chunks_carry_the_suffix_and_their_unpacked_size(self, tmp_path: Path) -> None:
        writer, records = self.make(tmp_path, compression="zstd")

        index = json.loads(writer.indexes(records)["index.json"])

        assert index["chunks"][0]["filename"] == "chunk-0-000000.zstd.bin"
        assert index["config"]["compression"] == "zstd"
        assert index["config"]["compression_level"] is None
        assert index["chunks"][0]["chunk_bytes"] == len(by_hand([{"id": i, "text": "a" * i} for i in range(4)], {}))

    def test_ranges_whose_samples_all_failed_are_left_out(self, tmp_path: Path) -> None:
        writer, records = self.make(tmp_path)
        empty = records[1].model_copy(update={"key": None, "samples": 0, "meta": {}})

        index = json.loads(writer.indexes([records[0], empty, records[2]])["index.json"])

        assert [c["filename"] for c in index["chunks"]] == ["chunk-0-000000.bin", "chunk-0-000002.bin"]

    def test_names_carry_partition_and_part(self) -> None:
        writer = writer_for(observed([ROW]))

        assert writer.shard_name("", 7, 0, 6) == "chunk-0-000007.bin"
        assert writer.shard_name("", 7, 1, 6) == "chunk-0-000007_1.bin"
        assert writer.shard_name("00012-", 7, 0, 6) == "chunk-00012-000007.bin"
