from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.litdata_chunks import (
    ROW,
    arrow_rows_of,
    by_hand,
    chunk,
    declared,
    observed,
    writer_for,
)
from support.writer_contract import pack_shard, raw_lines

from data_bridge.model.batch import ArrowRows, DictRows, Row


class TestRowsThatDoNotFit:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"id": None}, "'id' is null or missing"),
            ({"id": None}, "litdata_layout: arrow"),
            ({"id": "7"}, "'id' is str, not int64"),
            ({"id": True}, "'id' is bool, not int64"),
            ({"id": 1.0}, "'id' is float, not int64"),
            ({"id": 2**63}, "'id' is 9223372036854775808"),
            ({"ok": 1}, "'ok' is int, not bool"),
            ({"x": "0.5"}, "'x' is str"),
            ({"x": 2**53 + 1}, "'x' is 9007199254740993"),
            ({"x": 10**400}, "'x' is about 10**400"),
            ({"text": 5}, "'text' is int, not string"),
            ({"text": "\ud800"}, "'text' holds half of a surrogate pair"),
            ({"tokens": [1, 2.5]}, r"'tokens'[1] is float, not int64"),
            ({"tokens": [1, None]}, r"'tokens'[1] is null"),
            ({"tokens": 5}, "'tokens' is int, not list<item: int64>"),
            ({"tokens": [[1]]}, r"'tokens'[0] is list"),
            ({"tokens": np.array([[1]])}, r"'tokens'[0] is list"),
            ({"more": 1}, "'more' is not in the dataset's schema"),
        ],
    )
    def test_a_classic_row_fails_alone_and_names_the_field(self, tmp_path: Path, change: Row, reason: str) -> None:
        writer = writer_for(observed([ROW]))

        run = writer.encode(DictRows([ROW, {**ROW, **change}, ROW]), [])

        assert [failure.offset for failure in run.failures] == [1]
        assert reason in run.failures[0].reason
        assert run.rows.tolist() == [0, 2]
        pack_shard(writer, tmp_path / "chunk", [run])
        assert (tmp_path / "chunk").read_bytes() == by_hand([ROW, ROW], {"tokens": "<i8", "weights": "<f8"})

    def test_a_missing_field_fails_in_classic_and_is_null_in_arrow(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"id": 1, "text": "a"}, {"id": 2}]
        classic, arrow = writer_for(observed(rows[:1])), writer_for(observed(rows[:1]), litdata_layout="arrow")

        assert "'text'" in classic.encode(DictRows(rows), []).failures[0].reason
        assert arrow_rows_of(chunk(arrow, tmp_path, DictRows(rows))) == [
            {"id": 1, "text": "a"},
            {"id": 2, "text": None},
        ]

    def test_a_null_under_an_unknown_name_is_no_value(self, tmp_path: Path) -> None:
        rows = [{"id": 1, "more": None}]

        assert chunk(writer_for(observed([{"id": 1}])), tmp_path, DictRows(rows)) == by_hand([{"id": 1}], {})

    def test_whole_numbers_become_floats_where_that_is_exact(self, tmp_path: Path) -> None:
        rows: list[Row] = [{"x": 0.5}, {"x": 3}, {"x": -(2**53)}, {"x": 2**60}]

        data = chunk(writer_for(observed(rows[:1])), tmp_path, DictRows(rows))

        assert data == by_hand([{"x": float(row["x"])} for row in rows], {})

    def test_numbers_too_large_for_a_declared_element_fail(self) -> None:
        writer = writer_for(declared({"a": "list<int8>", "b": "list<float32>"}))
        rows: list[Row] = [
            {"a": [128], "b": []},
            {"a": [-129], "b": []},
            {"a": [127], "b": [1e39]},
            {"a": [-128], "b": [1]},
        ]

        run = writer.encode(DictRows(rows), [])

        assert [failure.offset for failure in run.failures] == [0, 1, 2]

    def test_columns_fail_row_by_row_as_dictionaries_do(self) -> None:
        batch = pa.RecordBatch.from_pydict(
            {
                "id": pa.array([1, 2**63, None, 4, 5], pa.uint64()),
                "tokens": pa.array([[1], [2], [3], [None], [5]], pa.list_(pa.int64())),
                "more": pa.array([None, None, None, None, "x"]),
            }
        )
        writer = writer_for(declared({"id": "uint64", "tokens": "list<int64>"}), litdata_layout="classic")

        run = writer.encode(ArrowRows(batch), [])

        assert run.rows.tolist() == [0]
        assert [failure.offset for failure in run.failures] == [1, 2, 3, 4]
        reasons = [failure.reason for failure in run.failures]
        assert [
            name in reason for name, reason in zip(("'id'", "'id'", "'tokens'", "'more'"), reasons, strict=True)
        ] == [True] * 4

    def test_a_path_without_bytes_is_a_failure(self) -> None:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        array = pa.array([{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None], kind)
        writer = writer_for(declared({"image": "media"}))

        run = writer.encode(ArrowRows(pa.RecordBatch.from_arrays([array], ["image"])), [])

        assert run.rows.tolist() == [0, 2]
        assert "b.jpg" in run.failures[0].reason

    def test_lines_keep_their_bytes_for_quarantine(self) -> None:
        lines = raw_lines([b'{"id": 1}', b'{"id": "one"}', b'{"id": 1, "id": 2}'])

        run = writer_for(observed([{"id": 1}])).encode(lines, [])

        assert [(f.offset, f.raw) for f in run.failures] == [(1, b'{"id": "one"}'), (2, b'{"id": 1, "id": 2}')]

    def test_a_sample_larger_than_a_chunk_may_be_fails_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("data_bridge.pipelines.litdata_classic.ClassicLayout.max_payload_bytes", 100)
        rows = [{"text": "a"}, {"text": "b" * 200}, {"text": "c" * 90}]

        run = writer_for(observed(rows)).encode(DictRows(rows), [])

        assert run.rows.tolist() == [0, 2]
        assert "204 bytes" in run.failures[0].reason

    def test_limits_keep_offsets_inside_of_32_bits(self) -> None:
        rows_at_most = 30_000_000
        classic, arrow = writer_for(observed([ROW])), writer_for(observed([ROW]), litdata_layout="arrow")

        assert classic.max_payload_bytes + 4 * rows_at_most < 2**32
        assert arrow.max_payload_bytes < 2**31
