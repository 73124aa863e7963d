import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from support.litdata_chunks import (
    arrow_rows_of,
    chunk,
    declared,
    observed,
    schema,
    writer_for,
)
from support.writer_contract import pack_shard

from data_bridge.model.batch import ArrowRows, DictRows, Media, Row, Rows

VALUES: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "id": st.none() | st.integers(-(2**63), 2**63 - 1),
        "flag": st.none() | st.booleans(),
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=9),
        "data": st.none() | st.binary(max_size=9),
        "tags": st.none() | st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=3), max_size=4),
        "deep": st.none()
        | st.fixed_dictionaries(
            {"a": st.none() | st.integers(0, 9), "b": st.lists(st.booleans() | st.none(), max_size=3)}
        ),
    }
)
DEEP = schema(
    [
        ("id", pa.int64()),
        ("flag", pa.bool_()),
        ("text", pa.string()),
        ("data", pa.large_binary()),
        ("tags", pa.large_list(pa.field("element", pa.large_string()))),
        ("deep", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.bool_()))])),
    ]
)
DEEP_TYPES = {
    "id": "int64",
    "flag": "bool",
    "text": "string",
    "data": "binary",
    "tags": "list<string>",
    "deep": "struct<a: int64, b: list<bool>>",
}


class TestArrowChunks:
    @effort(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=st.lists(VALUES, min_size=1, max_size=12), cut=st.integers(1, 12))
    def test_columns_and_dictionaries_give_the_same_bytes_wherever_batches_end(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[Row], cut: int
    ) -> None:
        folder = tmp_path_factory.mktemp("chunks")
        writer = writer_for(declared(DEEP_TYPES), litdata_layout="arrow")
        batch = pa.RecordBatch.from_pylist(rows[::-1] + rows, schema=DEEP).slice(len(rows))

        data = chunk(writer, folder, DictRows(rows))

        assert arrow_rows_of(data) == rows
        assert chunk(writer, folder, ArrowRows(batch)) == data
        cuts: list[Rows] = [DictRows(rows[:cut]), ArrowRows(batch.slice(cut))]
        pack_shard(writer, folder / "cut", [writer.encode(part, []) for part in cuts])
        assert (folder / "cut").read_bytes() == data
        ends = [writer.encode(form, []).ends.tolist() for form in [*cuts[:0], DictRows(rows), ArrowRows(batch)]]
        assert ends[0] == ends[1]

    def test_bytes_under_nulls_are_not_stored(self, tmp_path: Path) -> None:
        valid = pa.py_buffer(b"\x05")
        hidden = pa.Array.from_buffers(
            pa.string(), 3, [valid, pa.py_buffer(np.array([0, 1, 7, 8], np.int32).tobytes()), pa.py_buffer(b"aSECRETb")]
        )
        writer = writer_for(declared({"text": "string"}), litdata_layout="arrow")

        data = chunk(writer, tmp_path, ArrowRows(pa.RecordBatch.from_arrays([hidden], ["text"])))

        assert b"SECRET" not in data
        assert data == chunk(writer, tmp_path, DictRows([{"text": "a"}, {"text": None}, {"text": "b"}]))

    def test_numpy_arrays_lists_and_columns_of_numbers_are_one(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"v": [1, 2]}, {"v": None}, {"v": []}, {"v": [3]}]
        arrays: list[Row] = [{"v": None if row["v"] is None else np.array(row["v"], np.int16)} for row in rows]
        writer = writer_for(declared({"v": "list<int16>"}), litdata_layout="arrow")

        data = chunk(writer, tmp_path, DictRows(rows))

        assert arrow_rows_of(data) == rows
        assert chunk(writer, tmp_path, DictRows(arrays)) == data
        column = pa.array([row["v"] for row in rows], pa.large_list(pa.int16()))
        assert chunk(writer, tmp_path, ArrowRows(pa.RecordBatch.from_arrays([column], ["v"]))) == data

    def test_numpy_arrays_of_foreign_byte_order_or_text_keep_their_values(self, tmp_path: Path) -> None:
        swapped: list[Row] = [{"v": np.array([1, 2, 300], ">i4")}, {"v": np.array([4], ">i4")}]
        texts: list[Row] = [{"v": np.array(["räk", "b"])}, {"v": np.array(["cde"])}]
        for number, (kind, rows) in enumerate({"list<int32>": swapped, "list<string>": texts}.items()):
            writer = writer_for(declared({"v": kind}), litdata_layout="arrow")
            folder = tmp_path / str(number)
            folder.mkdir()

            assert arrow_rows_of(chunk(writer, folder, DictRows(rows))) == [{"v": row["v"].tolist()} for row in rows]

    def test_an_aborted_chunk_leaves_nothing_in_the_next(self, tmp_path: Path) -> None:
        rows = [{"id": i, "text": None if i % 2 else "x"} for i in range(600)]
        writer = writer_for(observed(rows))
        expected = chunk(writer_for(observed(rows)), tmp_path, DictRows(rows))
        writer.begin(tmp_path / "aborted")
        writer.write(writer.encode(DictRows(rows), []), 0, 500)
        writer.abort()

        assert chunk(writer, tmp_path, DictRows(rows)) == expected

    def test_record_batches_hold_256_rows(self, tmp_path: Path) -> None:
        rows = [{"id": i, "text": None if i % 2 else "x"} for i in range(600)]
        writer = writer_for(observed(rows))

        data = chunk(writer, tmp_path, DictRows(rows))

        (length,) = struct.unpack("<I", data[-12:-8])
        reader = pa.ipc.open_file(data[-12 - length : -12])
        assert [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)] == [256, 256, 88]
        header = struct.unpack("<602I", data[: 602 * 4])
        assert header == (600, *[602 * 4] * 601)

    def test_times_decimals_and_odd_values_are_text_in_the_unit_of_the_source(self, tmp_path: Path) -> None:
        batch = pa.RecordBatch.from_pydict(
            {
                "at": pa.array([1_500_000_001, None], pa.timestamp("ms", "UTC")),
                "price": pa.array(["1.50", "2"], pa.string()).cast(pa.decimal128(10, 2)),
                "deep": pa.array([{"at": 1}, {"at": None}], pa.struct([("at", pa.timestamp("s"))])),
                "names": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            }
        )
        types = {
            "at": "timestamp[ms, tz=UTC]",
            "price": "decimal128(10, 2)",
            "deep": "struct<at: timestamp[s]>",
            "names": "map<string, int64>",
        }

        rows = arrow_rows_of(chunk(writer_for(declared(types)), tmp_path, ArrowRows(batch)))

        assert rows == [
            {
                "at": "1970-01-18T08:40:00.001Z",
                "price": "1.50",
                "deep": {"at": "1970-01-01T00:00:01"},
                "names": [{"key": "a", "value": 1}],
            },
            {"at": None, "price": "2.00", "deep": {"at": None}, "names": []},
        ]

    def test_values_without_a_common_type_are_json_text(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"any": 1}, {"any": {"b": [2**70, None]}}, {"any": "ä"}, {"any": None}]

        found = arrow_rows_of(chunk(writer_for(observed(rows)), tmp_path, DictRows(rows)))

        assert [row["any"] for row in found] == ["1", '{"b":[1180591620717411303424,null]}', '"ä"', None]

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ({"a": 1, "c": 2}, "'meta'.c is not in the dataset's schema"),
            ({"a": "1"}, "'meta'.a is str, not int64"),
            ([1], "'meta' is list"),
        ],
    )
    def test_nested_values_that_would_be_dropped_or_changed_fail(self, value: Any, reason: str) -> None:
        writer = writer_for(observed([{"meta": {"a": 1}}]))

        run = writer.encode(DictRows([{"meta": {"a": 1}}, {"meta": value}]), [])

        assert run.rows.tolist() == [0]
        assert reason in run.failures[0].reason

    def test_media_gives_its_bytes_from_either_form(self, tmp_path: Path) -> None:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        batch = pa.RecordBatch.from_arrays([pa.array([{"bytes": b"\xff\xd8", "path": "a.jpg"}, None], kind)], ["image"])
        writer = writer_for(declared({"image": "media"}))

        data = chunk(writer, tmp_path, ArrowRows(batch))

        assert arrow_rows_of(data) == [{"image": b"\xff\xd8"}, {"image": None}]
        assert chunk(writer, tmp_path, DictRows([{"image": Media(b"\xff\xd8", "a.jpg")}, {"image": None}])) == data

    def test_zstd_is_inside_of_the_arrow_file(self, tmp_path: Path) -> None:
        rows = [{"text": "x" * 1000, "n": None} for _ in range(300)]
        packed, plain = writer_for(observed(rows), compression="zstd"), writer_for(observed(rows))

        data = chunk(packed, tmp_path, DictRows(rows))

        assert arrow_rows_of(data) == arrow_rows_of(chunk(plain, tmp_path, DictRows(rows)))
        assert len(data) < 20_000
        assert packed.shard_name("", 1, 0, 6) == "chunk-0-000001.bin"
