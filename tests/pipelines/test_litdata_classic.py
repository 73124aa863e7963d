from itertools import pairwise
from pathlib import Path
from typing import Any

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
from support.writer_contract import line_rows, pack_shard

from data_bridge.model.batch import ArrowRows, DictRows, Row
from data_bridge.pipelines.leaves import NUMPY_CODES, parse_type

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

INTEGERS = {kind: st.integers(0, 2 ** (7 if "8" in kind else 15) - 1) for kind in sorted(NUMPY_CODES) if "int" in kind}
FLOATS = {
    "float16": st.floats(width=16, allow_nan=False),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {**INTEGERS, **FLOATS, "bool": st.booleans()}
COLUMNS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    **{kind: (parse_type(kind), value) for kind, value in ELEMENTS.items() if kind != "uint64"},
    "string": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=20)),
    "large_string": (pa.large_string(), st.text(st.characters(codec="utf-8"), max_size=20)),
    **{f"list<{kind}>": (pa.list_(parse_type(kind)), st.lists(value, max_size=5)) for kind, value in ELEMENTS.items()},
    **{f"large_list<{kind}>": (pa.large_list(parse_type(kind)), st.lists(value, max_size=5)) for kind, value in ELEMENTS.items()},
    **{f"fixed_size_list<{kind}>": (pa.list_(parse_type(kind), 3), st.lists(value, min_size=3, max_size=3)) for kind, value in ELEMENTS.items()},
}  # fmt: skip
"""Kind of column -> its Arrow type and values."""


def plain(kind: str) -> str:
    return kind.replace("large_list", "list").replace("fixed_size_list", "list").replace("large_string", "string")


class TestClassicBytes:
    @effort(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

    @effort(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_columns_of_every_kind_in_any_cut_give_the_bytes_made_by_hand(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        kinds = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4))
        names = [f"{number}-{kind}" for number, kind in enumerate(kinds)]
        count = data.draw(st.integers(1, 12))
        arrays, rows = [], [dict[str, Any]() for _ in range(count)]
        for name, kind in zip(names, kinds, strict=True):
            column, leaf = COLUMNS[kind]
            drawn = data.draw(st.lists(leaf, min_size=count + 1, max_size=count + 1))
            array = pa.array(drawn, column)
            arrays.append(array)
            for row, value in zip(rows, array.to_pylist()[1:], strict=True):
                row[name] = value
        batch = pa.RecordBatch.from_arrays(arrays, names=names).slice(1)
        dtypes = {name: kind.split("<")[1][:-1] for name, kind in zip(names, kinds, strict=True) if "<" in kind}
        spool_bytes, cuts = data.draw(st.sampled_from([1, 7, 100, 1 << 20])), data.draw(st.sets(st.integers(1, count)))
        folder = tmp_path_factory.mktemp("chunks")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("data_bridge.pipelines.spool.MEMORY_BYTES", spool_bytes)
            writer = writer_for(declared(dict(zip(names, map(plain, kinds), strict=True))))
            edges = sorted({0, *cuts, count})
            runs = [writer.encode(ArrowRows(batch.slice(lo, hi - lo)), []) for lo, hi in pairwise(edges)]
            packed = [pack_shard(writer, folder / str(number), runs) for number in range(2)]

        assert (folder / "0").read_bytes() == by_hand(rows, dtypes)
        assert packed[0] == packed[1]

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
