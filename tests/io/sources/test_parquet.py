"""Parquet: every row of real files, in order, from any row, and clear errors for damaged ones."""

import datetime as dt
import io
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.http_server import HttpServer
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, good, pieces_of, read_all, samples

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.sources.parquet import Parquet
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, Media
from data_bridge.model.source import FilePiece, SourceFile


def rows(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "text": f"row {i} ü" * (i % 5) if i % 7 else None,
            "tokens": list(range(i % 4)),
            "when": dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=i),
            "price": Decimal(i) / 4,
            "nested": {"a": i, "b": [{"c": str(i)}]},
            "raw": bytes([i % 256, 255]),
        }
        for i in range(start, start + count)
    ]


ENTRY: Any = pa.struct([pa.field("c", pa.string())])
FIELDS: list[Any] = [
    pa.field("id", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("tokens", pa.list_(pa.int32())),
    pa.field("when", pa.timestamp("us", "UTC")),
    pa.field("price", pa.decimal128(12, 2)),
    pa.field("nested", pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.list_(ENTRY))])),
    pa.field("raw", pa.binary()),
]
SCHEMA = pa.schema(FIELDS)


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def table(start: int, count: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(rows(start, count), schema=schema)


CONTENTS = {
    "mem/a.parquet": parquet(table(0, 95), row_group_size=30, compression="zstd"),
    "mem/empty.parquet": parquet(table(0, 0)),
    "mem/b.parquet": parquet(table(95, 41).select(SCHEMA.names[::-1]), row_group_size=41, compression="none"),
}


def memory(contents: dict[str, bytes], **options: Any) -> tuple[Parquet, list[SourceFile]]:
    transport = MemoryTransport(contents)
    return Parquet(SourceOptions(**options), transport), transport.files()


def batches_of(contents: dict[str, bytes], **options: Any) -> list[pa.RecordBatch]:
    format_, files = memory(contents, **options)
    found = []
    for batch in format_.read(pieces_of(format_, files), None):
        assert isinstance(batch.rows, ArrowRows)
        found.append(batch.rows.batch)
    return found


class TestParquetThroughAReader(SourceContract):
    @pytest.fixture
    def case(self) -> Case:
        format_, files = memory({**CONTENTS, "mem/wrong.parquet": b"not a parquet file at all"})
        return Case(format_, files[:3], rows(0, 136))

    @pytest.fixture
    def wrong(self) -> SourceFile:
        return SourceFile(uri="mem/wrong.parquet", size=25)


class TestParquetOnDisk(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        for name, content in CONTENTS.items():
            (tmp_path / Path(name).name).write_bytes(content)
        settings = Settings(pipeline=PipelineSettings(input_uri=str(tmp_path)))
        transport = Transport(settings)
        names = ["a.parquet", "empty.parquet", "b.parquet"]
        return Case(
            Parquet(SourceOptions(), transport), transport.expand([str(tmp_path / n) for n in names]), rows(0, 136)
        )

    @pytest.fixture
    def wrong(self, tmp_path: Path, case: Case) -> SourceFile:
        path = tmp_path / "wrong.parquet"
        path.write_text("id,text\n1,hello\n")
        return Transport(Settings(pipeline=PipelineSettings(input_uri=str(path)))).stat(str(path))


def test_extents_are_the_row_groups_with_exact_counts() -> None:
    format_, files = memory(CONTENTS)

    extents = format_.extents(files[0])

    assert [(e.start, e.end, e.samples) for e in extents] == [(0, 30, 30), (30, 60, 30), (60, 90, 30), (90, 95, 5)]
    assert all(e.divisible and 0 < (e.bytes or 0) < len(CONTENTS["mem/a.parquet"]) for e in extents)
    assert list(format_.extents(files[1])) == []


def test_prepared_files_need_no_second_look_at_their_footers() -> None:
    format_, files = memory(CONTENTS)

    prepared = [SourceFile.model_validate_json(f.model_dump_json()) for f in format_.prepare(files)]
    blind = Parquet(SourceOptions(), MemoryTransport({}))

    assert [list(blind.extents(f)) for f in prepared] == [list(format_.extents(f)) for f in files]


def test_a_resume_reads_neither_earlier_row_groups_nor_columns_left_out() -> None:
    big = pa.table({"id": range(4000), "blob": [bytes([i % 251]) * 500 for i in range(4000)]})
    content = parquet(big, row_group_size=500, compression="none", use_dictionary=False)

    transport = MemoryTransport({"big.parquet": content})
    piece = [FilePiece(transport.files()[0])]

    late = good(read_all(Parquet(SourceOptions(), transport), piece, [0, 3700]))
    after_seek, transport.served = transport.served, 0
    narrow = good(read_all(Parquet(SourceOptions(columns=("id",)), transport), piece))

    assert [r["id"] for r in late] == list(range(3700, 4000))
    assert after_seek < len(content) / 5
    assert narrow == [{"id": i} for i in range(4000)]
    assert transport.served < len(content) / 5


def test_batches_stay_near_two_megabytes_and_a_thousand_rows() -> None:
    images = pa.table({"image": [bytes([i % 256]) * 100_000 for i in range(200)]})
    numbers = pa.table({"n": range(5000)})

    large = batches_of({"i.parquet": parquet(images, compression="none", use_dictionary=False)})
    small = batches_of({"n.parquet": parquet(numbers)})

    assert max(b.nbytes for b in large) < 4_000_000
    assert len(large) < 25
    assert [b.num_rows for b in small] == [1000] * 5


def test_rows_much_larger_when_decoded_than_stored_still_come_in_small_batches() -> None:
    same = pa.table({"text": ["x" * 100_000] * 500})

    found = batches_of({"s.parquet": parquet(same)})

    assert sum(b.num_rows for b in found) == 500
    assert max(b.nbytes for b in found) < 9_000_000


def test_prepared_files_have_the_column_order_of_the_first() -> None:
    format_, files = memory(CONTENTS)
    prepared = format_.prepare(files)

    for pieces in (pieces_of(format_, prepared), pieces_of(format_, prepared[2:])):
        for batch in format_.read(pieces, None):
            assert isinstance(batch.rows, ArrowRows)
            assert batch.rows.batch.schema.names == SCHEMA.names


def test_an_unknown_column_is_a_config_error_that_lists_the_choices() -> None:
    format_, files = memory(CONTENTS, columns=("id", "txt"))

    with pytest.raises(ConfigError, match="'txt'") as caught:
        format_.extents(files[0])

    assert "text" in caught.value.hint


def test_chosen_columns_come_in_the_order_chosen() -> None:
    assert {tuple(b.schema.names) for b in batches_of(CONTENTS, columns=("text", "id"))} == {("text", "id")}


def test_a_column_with_a_dot_in_its_name_is_not_taken_for_a_nested_one() -> None:
    both = pa.table({"a.b": [1, 2], "a": [{"b": 3}, {"b": 4}]})
    format_, files = memory({"d.parquet": parquet(both)}, columns=("a",))

    assert good(read_all(format_, pieces_of(format_, files))) == [{"a": {"b": 3}}, {"a": {"b": 4}}]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (pa.table({"id": ["1"], "text": ["a"]}), ["'id'", "string", "int64"]),
        (pa.table({"id": [1]}), ["'text'", "missing"]),
        (pa.table({"id": [1], "text": ["a"], "more": [1.5]}), ["'more'", "extra"]),
    ],
)
def test_files_of_different_fields_are_refused_naming_both_and_the_field(other: pa.Table, words: list[str]) -> None:
    first = pa.table({"id": [1], "text": ["a"]})
    format_, files = memory({"one.parquet": parquet(first), "two.parquet": parquet(other)})

    with pytest.raises(SourceError) as planned:
        format_.prepare(files)
    with pytest.raises(SourceError) as read:
        read_all(format_, [FilePiece(f) for f in files])

    for caught in (planned, read):
        assert all(word in str(caught.value) for word in ["one.parquet", "two.parquet", *words])


def test_a_column_of_nulls_in_one_file_is_no_difference() -> None:
    contents = {
        "one.parquet": parquet(pa.table({"id": [1], "text": ["a"]})),
        "two.parquet": parquet(pa.table({"id": [2], "text": pa.nulls(1)})),
    }
    format_, files = memory(contents)

    assert good(read_all(format_, pieces_of(format_, format_.prepare(files)))) == [
        {"id": 1, "text": "a"},
        {"id": 2, "text": None},
    ]


def test_dictionaries_views_and_wide_offsets_are_read_as_plain_columns() -> None:
    fancy = pa.table(
        {
            "dict": pa.array(["a", None, "a"]).dictionary_encode(),
            "large": pa.array(["x", "y", None], pa.large_string()),
            "list": pa.array([["p"], None, []], pa.large_list(pa.large_string())),
            "in_struct": pa.StructArray.from_arrays([pa.array(["q", "q", "r"]).dictionary_encode()], ["d"]),
        }
    )
    format_, files = memory({"f.parquet": parquet(fancy)})

    (batch,) = batches_of({"f.parquet": parquet(fancy)})

    assert [str(t) for t in batch.schema.types] == ["string", "string", "list<element: string>", "struct<d: string>"]
    assert batch.to_pylist() == fancy.to_pylist()
    assert [f.type for f in format_.probe(files).fields] == ["string", "string", "list<string>", "struct<d: string>"]


def test_image_structs_are_media_in_fields_and_probe() -> None:
    kind = pa.struct([pa.field("path", pa.string()), pa.field("bytes", pa.binary())])
    images = pa.table(
        {"image": pa.array([{"path": "a.png", "bytes": b"\x89PNG"}, None, {"path": None, "bytes": b"x"}], kind)}
    )
    format_, files = memory({"i.parquet": parquet(images)})

    probe = format_.probe(files)

    assert [(f.name, f.type) for f in probe.fields] == [("image", "media")]
    assert probe.rows == [{"image": Media(b"\x89PNG", "a.png")}, {"image": None}, {"image": Media(b"x", "")}]


def test_the_probe_fetches_nothing_behind_the_row_groups_it_looks_at() -> None:
    noise = pa.table({"raw": [random.Random(i).randbytes(5_000) for i in range(3_000)]})
    content = parquet(noise, row_group_size=1_000, use_dictionary=False)
    second = pq.read_metadata(io.BytesIO(content)).row_group(1).column(0).data_page_offset
    with HttpServer() as server:
        site = server.serve("/a.parquet", content)
        transport = Transport(Settings.model_validate({"pipeline": {"input_uri": site.url}}))
        format_ = Parquet(SourceOptions(), transport)
        files = format_.prepare(transport.expand([site.url]))

        assert format_.probe(files).rows

        asked = [[int(n) for n in r.removeprefix("bytes=").split("-")] for r in site.ranges if r is not None]
    assert any(start < second for start, _ in asked)
    assert not [span for span in asked if span[0] <= second <= span[1]]


def test_the_probe_estimates_from_the_footer() -> None:
    format_, files = memory({"e.parquet": CONTENTS["mem/empty.parquet"], "a.parquet": CONTENTS["mem/a.parquet"]})

    probe = format_.probe(files)

    assert probe.declared
    assert probe.rows == rows(0, 95)
    assert probe.mean_sample_bytes == sum(e.bytes or 0 for e in format_.extents(files[1])) / 95


def test_an_empty_source_has_fields_and_no_rows() -> None:
    format_, files = memory({"e.parquet": CONTENTS["mem/empty.parquet"]})

    probe = format_.probe(files)

    assert [f.name for f in probe.fields] == SCHEMA.names
    assert probe.rows == []
    assert read_all(format_, [FilePiece(files[0])]) == []


def test_a_damaged_page_is_an_error_that_names_file_and_row_group() -> None:
    content = bytearray(parquet(table(0, 90), row_group_size=30, compression="zstd", write_page_checksum=True))
    column = pq.read_metadata(io.BytesIO(content)).row_group(1).column(1)
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle] ^= 0xFF
    format_, files = memory({"bad.parquet": bytes(content)})

    batches = format_.read(pieces_of(format_, files), None)
    intact = [one for _ in range(1) for one in samples(next(batches))]
    with pytest.raises(SourceError, match=r"bad\.parquet row group 1"):
        list(batches)

    assert good(intact) == rows(0, 30)


def test_a_cut_file_is_an_error_not_a_shorter_one() -> None:
    content = CONTENTS["mem/a.parquet"]
    format_, files = memory({"cut.parquet": content[: len(content) // 2]})

    with pytest.raises(SourceError, match=r"cut\.parquet"):
        format_.extents(files[0])


def test_text_that_is_not_utf8_fails_its_row_alone() -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"also fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    format_, files = memory({"t.parquet": parquet(pa.table({"text": text, "id": [0, 1, 2]}))})

    (batch,) = format_.read(pieces_of(format_, files), None)

    assert isinstance(batch.rows, ArrowRows)
    assert batch.rows.batch.to_pylist() == [{"text": "fine", "id": 0}, {"text": "also fine", "id": 2}]
    assert [(f.offset, f.where) for f in batch.failures] == [(1, "t.parquet row 1")]
    assert "'text'" in batch.failures[0].reason


def test_rows_planned_beyond_the_end_are_an_error() -> None:
    format_, files = memory({"a.parquet": CONTENTS["mem/a.parquet"]})

    with pytest.raises(SourceError, match="95 rows, 96 are planned"):
        read_all(format_, [FilePiece(files[0], 90, 96)])
