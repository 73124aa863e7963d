from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from support.litdata_chunks import (
    by_hand,
    chunk,
    declared,
    observed,
    schema,
    writer_for,
)
from support.writer_contract import line_rows

from data_bridge.model.batch import ArrowRows, DictRows, Row

ITEMS = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1),
        "text": st.text(st.characters(codec="utf-8"), max_size=20),
        "x": st.floats(allow_nan=False, allow_infinity=False),
        "ok": st.booleans(),
        "ints": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
        "floats": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3),
        "flags": st.lists(st.booleans(), max_size=9),
    }
)
DTYPES = {"ints": "<i4", "floats": "<f4", "flags": "?"}
TYPES = {
    "id": "int64",
    "text": "string",
    "x": "float64",
    "ok": "bool",
    "ints": "list<int32>",
    "floats": "list<float32>",
    "flags": "list<bool>",
}
SCHEMA = schema(
    [
        ("id", pa.int64()),
        ("text", pa.large_string()),
        ("x", pa.float64()),
        ("ok", pa.bool_()),
        ("ints", pa.large_list(pa.int32())),
        ("floats", pa.list_(pa.field("element", pa.float32(), nullable=False))),
        ("flags", pa.list_(pa.bool_())),
    ]
)


class TestClassicBytes:
    @effort(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=st.lists(ITEMS, min_size=1, max_size=8))
    def test_columns_dictionaries_and_lines_all_give_the_bytes_made_by_hand(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
    ) -> None:
        folder = tmp_path_factory.mktemp("chunks")
        writer = writer_for(declared(TYPES))
        batch = pa.RecordBatch.from_pylist(rows[-1:] + rows, schema=SCHEMA).slice(1)

        rows = [{name: row[name] for name in TYPES} for row in rows]
        expected = by_hand(rows, DTYPES)

        assert chunk(writer, folder, DictRows(rows)) == expected
        assert chunk(writer, folder, ArrowRows(batch)) == expected
        assert chunk(writer, folder, line_rows(rows)) == expected
        arrays = [{**row, **{name: np.array(row[name], kind) for name, kind in DTYPES.items()}} for row in rows]
        assert chunk(writer, folder, DictRows(arrays)) == expected

    def test_leaves_of_fixed_width_alone(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"a": i, "b": i / 3, "c": i % 2 == 0} for i in range(50)]

        assert chunk(writer_for(observed(rows)), tmp_path, DictRows(rows)) == by_hand(rows, {})

    def test_dictionary_encoded_text_and_small_numbers_are_widened(self, tmp_path: Path) -> None:
        batch = pa.RecordBatch.from_pydict(
            {
                "label": pa.array(["a", "b", "a"]).dictionary_encode(),
                "n": pa.array([1, 2, 255], pa.uint8()),
                "x": pa.array([0.5, 1.5, 2.5], pa.float16()),
            }
        )
        writer = writer_for(declared({"label": "string", "n": "uint8", "x": "float16"}))

        data = chunk(writer, tmp_path, ArrowRows(batch))

        assert data == by_hand(
            [{"label": "a", "n": 1, "x": 0.5}, {"label": "b", "n": 2, "x": 1.5}, {"label": "a", "n": 255, "x": 2.5}], {}
        )

    def test_text_that_names_an_existing_file_stays_text(self, tmp_path: Path) -> None:
        picture = tmp_path / "cat.jpg"
        picture.write_bytes(b"\xff\xd8\xff\xe0 secret")
        rows = [{"path": str(picture)}]
        folder = tmp_path / "out"
        folder.mkdir()

        assert chunk(writer_for(observed(rows)), folder, DictRows(rows)) == by_hand(rows, {})

    def test_nan_and_infinity_are_kept_bit_by_bit(self, tmp_path: Path) -> None:
        rows = [{"x": float("nan")}, {"x": float("inf")}, {"x": -0.0}]

        assert chunk(writer_for(observed(rows)), tmp_path, DictRows(rows)) == by_hand(rows, {})

    def test_a_large_chunk_goes_through_the_disk_unchanged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [{"id": i, "text": "x" * 1000} for i in range(500)]
        expected = by_hand(rows, {})
        monkeypatch.setattr("data_bridge.pipelines.spool.MEMORY_BYTES", 10_000)
        writer = writer_for(observed(rows))

        writer.begin(tmp_path / "chunk")
        for lo in range(0, 500, 50):
            run = writer.encode(DictRows(rows[lo : lo + 50]), [])
            writer.write(run, 0, 50)
            assert [path.name for path in tmp_path.iterdir()] == ["chunk"]
        writer.finish()

        assert (tmp_path / "chunk").read_bytes() == expected
