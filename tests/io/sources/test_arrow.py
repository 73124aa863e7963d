"""Arrow IPC files and streams: counted without being read, every row in order from any row."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, good, pieces_of, read_all

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.arrow import ArrowFile
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, Media
from data_bridge.model.source import FilePiece, SourceFile


def table(start: int, count: int) -> pa.Table:
    numbers = range(start, start + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "text": pa.array([f"row {i} ü" if i % 7 else None for i in numbers], pa.string()),
            "tokens": pa.array([list(range(i % 4)) for i in numbers], pa.list_(pa.int32())),
        }
    )


def ipc_file(content: pa.Table, rows: int, compression: Any = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, content.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(content, max_chunksize=rows)
    return sink.getvalue()


def ipc_stream(content: pa.Table, rows: int, compression: Any = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, content.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(content, max_chunksize=rows)
    return sink.getvalue()


def feather_v2(content: pa.Table, rows: int) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(content, sink, compression="lz4", chunksize=rows)
    return sink.getvalue()


def memory(contents: dict[str, bytes], **options: Any) -> tuple[ArrowFile, list[SourceFile]]:
    transport = MemoryTransport(contents)
    return ArrowFile(SourceOptions(**options), transport), transport.files()


CONTENTS = {
    "mem/file.arrow": ipc_file(table(0, 95), 30),
    "mem/zstd.arrow": ipc_file(table(95, 20), 7, "zstd"),
    "mem/empty.arrow": ipc_stream(table(0, 0), 5),
    "mem/stream.arrow": ipc_stream(table(115, 25), 10, "lz4"),
    "mem/v2.feather": feather_v2(table(140, 21), 10),
}


class TestArrowThroughAReader(SourceContract):
    @pytest.fixture
    def case(self) -> Case:
        format_, files = memory({**CONTENTS, "mem/wrong.arrow": b"id,text\n1,hello\n"})
        return Case(format_, files[:-1], table(0, 161).to_pylist())

    @pytest.fixture
    def wrong(self) -> SourceFile:
        return SourceFile(uri="mem/wrong.arrow", size=16)


class TestArrowOnDisk(SourceContract):
    @pytest.fixture
    def transport(self, tmp_path: Path) -> Transport:
        return Transport(Settings(pipeline=PipelineSettings(input_uri=str(tmp_path))))

    @pytest.fixture
    def case(self, tmp_path: Path, transport: Transport) -> Case:
        paths = [tmp_path / Path(name).name for name in CONTENTS]
        for path, content in zip(paths, CONTENTS.values(), strict=True):
            path.write_bytes(content)
        files = transport.expand([str(path) for path in paths])
        return Case(ArrowFile(SourceOptions(), transport), files, table(0, 161).to_pylist())

    @pytest.fixture
    def wrong(self, tmp_path: Path, transport: Transport) -> SourceFile:
        path = tmp_path / "wrong.arrow"
        path.write_bytes(b"PAR1 is another format")
        return transport.stat(str(path))


@pytest.mark.parametrize("name", [n for n in CONTENTS if "empty" not in n])
def test_extents_are_the_record_batches_with_exact_counts(name: str) -> None:
    format_, files = memory({name: CONTENTS[name]})
    source = pa.BufferReader(CONTENTS[name])
    stream = CONTENTS[name][:6] != b"ARROW1"
    reader: Any = pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)
    every = list(reader) if stream else [reader.get_batch(i) for i in range(reader.num_record_batches)]

    extents = format_.extents(files[0])

    assert [e.samples for e in extents] == [b.num_rows for b in every]
    assert [e.start for e in extents][1:] == [e.end for e in extents][:-1]
    assert 0 < sum(e.bytes or 0 for e in extents) < len(CONTENTS[name])


def test_counting_reads_headers_and_not_the_batches() -> None:
    content = ipc_file(pa.table({"blob": [bytes([i]) * 100_000 for i in range(200)]}), 10)

    transport = MemoryTransport({"big.arrow": content})
    extents = ArrowFile(SourceOptions(), transport).extents(transport.files()[0])

    assert sum(e.samples or 0 for e in extents) == 200
    assert transport.served < len(content) / 100


def test_prepared_files_are_not_scanned_again_and_have_the_first_ones_column_order() -> None:
    swapped = ipc_file(table(161, 5).select(["tokens", "id", "text"]), 5)
    format_, files = memory({**CONTENTS, "mem/swapped.arrow": swapped})

    prepared = [SourceFile.model_validate_json(f.model_dump_json()) for f in format_.prepare(files)]
    blind = ArrowFile(SourceOptions(), MemoryTransport({}))

    assert [list(blind.extents(f)) for f in prepared] == [list(format_.extents(f)) for f in files]
    for batch in format_.read([FilePiece(prepared[-1])], None):
        assert isinstance(batch.rows, ArrowRows)
        assert batch.rows.batch.schema.names == ["id", "text", "tokens"]
    assert good(read_all(format_, pieces_of(format_, prepared))) == table(0, 166).to_pylist()


def test_one_huge_record_batch_comes_in_small_batches() -> None:
    content = ipc_file(pa.table({"id": range(300), "blob": [bytes([i % 256]) * 50_000 for i in range(300)]}), 300)
    format_, files = memory({"huge.arrow": content})

    batches = list(format_.read(pieces_of(format_, files), None))

    sizes = [b.rows.batch.nbytes for b in batches if isinstance(b.rows, ArrowRows)]
    assert max(sizes) < 9_000_000
    assert good(read_all(format_, [FilePiece(files[0], 0, 300)], [0, 290])) == [
        {"id": i, "blob": bytes([i % 256]) * 50_000} for i in range(290, 300)
    ]


def test_a_local_batch_too_large_to_read_is_mapped(tmp_path: Path) -> None:
    rows = pa.table({"id": range(70), "blob": pa.array([bytes([i]) * 1_000_000 for i in range(70)])})
    path = tmp_path / "large.arrow"
    path.write_bytes(ipc_file(rows, 70))
    transport = Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))

    before = pa.total_allocated_bytes()
    batches = iter(ArrowFile(SourceOptions(), transport).read([FilePiece(transport.stat(str(path)))], None))
    first = next(batches)
    grown = pa.total_allocated_bytes() - before

    assert grown < 10_000_000
    assert first.count + sum(b.count for b in batches) == 70


@pytest.mark.parametrize("write", [ipc_file, ipc_stream])
def test_dictionaries_are_decoded_wherever_reading_starts(write: Callable[[pa.Table, int], bytes]) -> None:
    words = pa.chunked_array(
        [
            pa.array(["a", None, "b"]).dictionary_encode(),
            pa.array(["c", "c", "d"]).dictionary_encode(),
        ]
    ).unify_dictionaries()
    content = pa.table({"word": words, "n": pa.chunked_array([[0, 1, 2], [3, 4, 5]])})
    format_, files = memory({"d.arrow": write(content, 3)})

    late = read_all(format_, [FilePiece(files[0], 4, 6)])
    probe = format_.probe(files)

    assert good(late) == [{"word": "c", "n": 4}, {"word": "d", "n": 5}]
    assert good(read_all(format_, pieces_of(format_, files))) == content.to_pylist()
    assert [f.type for f in probe.fields] == ["string", "int64"]


def test_replaced_dictionaries_of_a_stream_are_followed() -> None:
    sink = io.BytesIO()
    schema = pa.schema([pa.field("word", pa.dictionary(pa.int8(), pa.string()))])
    with pa.ipc.new_stream(sink, schema) as writer:
        for words in (["a", "b"], ["x", "y"], ["a", "x"]):
            writer.write_batch(
                pa.record_batch([pa.array(words).dictionary_encode().cast(schema.types[0])], schema=schema)
            )
    format_, files = memory({"r.arrow": sink.getvalue()})

    assert [r["word"] for r in good(read_all(format_, pieces_of(format_, files)))] == ["a", "b", "x", "y", "a", "x"]
    assert [r["word"] for r in good(read_all(format_, [FilePiece(files[0], 3, 5)]))] == ["y", "a"]


def test_extension_types_and_views_are_read_as_their_storage() -> None:
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), (2,)), pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    )
    view = pa.array(["short", "a string that is too long to be inlined"], pa.string_view())
    ends: Any = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["same"]))
    content = pa.table({"tensor": tensor, "view": view, "runs": ends})
    format_, files = memory({"e.arrow": ipc_file(content, 2)})

    probe = format_.probe(files)

    assert [(f.name, f.type) for f in probe.fields] == [
        ("tensor", "list<int32>[2]"),
        ("view", "string"),
        ("runs", "string"),
    ]
    assert probe.rows == [
        {"tensor": [1, 2], "view": "short", "runs": "same"},
        {"tensor": [3, 4], "view": "a string that is too long to be inlined", "runs": "same"},
    ]


def test_image_structs_are_media() -> None:
    kind = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    images = pa.table({"image": pa.array([{"bytes": b"\xff\xd8", "path": "a.jpg"}], kind)})
    format_, files = memory({"i.arrow": ipc_stream(images, 1)})

    probe = format_.probe(files)

    assert probe.fields[0].type == "media"
    assert probe.rows == [{"image": Media(b"\xff\xd8", "a.jpg")}]


@pytest.mark.parametrize("cut", [3, 100, 0.5, -4])
@pytest.mark.parametrize("name", ["mem/file.arrow", "mem/stream.arrow"])
def test_a_cut_file_is_an_error_that_names_it(name: str, cut: float) -> None:
    content = CONTENTS[name]
    at = int(len(content) * cut) if isinstance(cut, float) else cut
    format_, files = memory({name: content[:at]})

    with pytest.raises(SourceError, match=name):
        read_all(format_, pieces_of(format_, files))


def test_a_stream_cut_between_two_batches_is_not_taken_for_a_shorter_one() -> None:
    content = CONTENTS["mem/stream.arrow"]
    format_, files = memory({"s.arrow": content})
    last = format_.prepare(files)[0].extra["runs"][-1].at

    cut, cut_files = memory({"s.arrow": content[:last]})

    with pytest.raises(SourceError, match="before its end marker"):
        cut.extents(cut_files[0])


def test_damage_gives_an_error_that_names_the_file_and_never_a_foreign_one() -> None:
    errors = 0
    for name in ("mem/zstd.arrow", "mem/stream.arrow"):
        for at in range(0, len(CONTENTS[name]), 13):
            content = bytearray(CONTENTS[name])
            content[at] ^= 0xA5
            try:
                read_all(*_pieces(name, bytes(content)))  # bytes of a value may be any
            except SourceError as error:
                assert name in str(error)
                errors += 1
    assert errors > 50


@pytest.mark.parametrize("name", ["mem/zstd.arrow", "mem/stream.arrow"])
def test_a_header_that_lost_its_rows_is_an_error_not_an_empty_batch(name: str) -> None:
    format_, files = memory({name: CONTENTS[name]})
    first = format_.prepare(files)[0].extra["runs"][0]
    content = bytearray(CONTENTS[name])
    rows = content.index(first.rows.to_bytes(8, "little"), first.at)
    content[rows] = 0

    with pytest.raises(SourceError, match=name):
        read_all(*_pieces(name, bytes(content)))


def _pieces(name: str, content: bytes) -> tuple[ArrowFile, list[FilePiece]]:
    format_, files = memory({name: content})
    return format_, pieces_of(format_, files)


def test_feather_version_1_is_refused_with_the_way_out() -> None:
    format_, files = memory({"old.feather": b"FEA1" + bytes(100) + b"FEA1"})

    with pytest.raises(SourceError, match="version 1") as caught:
        format_.extents(files[0])

    assert "write_feather" in caught.value.hint


def test_files_of_different_fields_are_refused_naming_both_and_the_field() -> None:
    other = pa.table({"id": ["1"], "text": ["a"], "tokens": [[1]]})
    format_, files = memory({"one.arrow": CONTENTS["mem/file.arrow"], "two.arrow": ipc_file(other, 1)})

    with pytest.raises(SourceError) as caught:
        format_.prepare(files)

    assert all(word in str(caught.value) for word in ["one.arrow", "two.arrow", "'id'", "string", "int64"])


def test_text_that_is_not_utf8_fails_its_row_alone() -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"also fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    format_, files = memory({"t.arrow": ipc_file(pa.table({"text": text}), 3)})

    (batch,) = format_.read(pieces_of(format_, files), None)

    assert isinstance(batch.rows, ArrowRows)
    assert batch.rows.batch.column(0).to_pylist() == ["fine", "also fine"]
    assert [(f.offset, f.where) for f in batch.failures] == [(1, "t.arrow row 1")]


@pytest.mark.parametrize("size", [4, 1])
def test_nested_text_that_is_not_utf8_fails_its_row_alone(size: int) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"also fine", b"good"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 2, 4], pa.int32()), text)
    table = pa.table({"lists": lists, "structs": pa.StructArray.from_arrays([text], ["t"])})
    format_, files = memory({"t.arrow": ipc_file(table, size)})

    batches = list(format_.read(pieces_of(format_, files), None))

    rows = [row for batch in batches if isinstance(batch.rows, ArrowRows) for row in batch.rows.batch.to_pylist()]
    assert rows == [
        {"lists": ["fine"], "structs": {"t": "fine"}},
        {"lists": [], "structs": {"t": "also fine"}},
        {"lists": ["also fine", "good"], "structs": {"t": "good"}},
    ]
    assert [failure.where for batch in batches for failure in batch.failures] == ["t.arrow row 1"]
