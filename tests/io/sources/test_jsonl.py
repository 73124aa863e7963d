"""JSON lines: every good line once, every bad one named, files of another kind refused at once."""

import gzip
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, pieces_of, read_all, to_dicts

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.jsonl import Jsonl, why_not_an_object
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Batch, LineRows, RowFailure
from data_bridge.model.source import Field, FilePiece, SourceFile

URI = "memory/data.jsonl"
ROWS: list[dict[str, Any]] = [{"id": i, "text": f"Zeile {i} — ü", "tags": ["a"] * (i % 3)} for i in range(40)]


def real(path: Path) -> Transport:
    return Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))


def dumped(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def parse(content: bytes, uri: str = URI, *, sized: bool = True) -> list[Any]:
    transport = MemoryTransport({uri: content}, 16)
    file = SourceFile(uri=uri, size=len(content) if sized else None)
    return read_all(Jsonl(SourceOptions(), transport), [FilePiece(file)])


class TestJsonl(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        lines = dumped(ROWS[:20]) + b"\n  \r\n" + dumped(ROWS[20:30], "\r\n") + b'{"broken": \n'
        (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
        (tmp_path / "b.jsonl").write_bytes(dumped(ROWS[30:])[:-1])
        (tmp_path / "empty.jsonl").write_bytes(b"")
        (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(dumped(ROWS)))
        transport = real(tmp_path)
        names = ("a.jsonl", "empty.jsonl", "b.jsonl", "z.jsonl.gz")
        files = [transport.stat(str(tmp_path / name)) for name in names]
        return Case(Jsonl(SourceOptions(), transport, buffer_bytes=200), files, ROWS + ROWS, failures=1)

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> SourceFile:
        path = tmp_path / "really.jsonl"
        path.write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")
        return real(tmp_path).stat(str(path))


def refuse(constant: str) -> None:
    raise ValueError(constant)


line_text = st.one_of(
    st.dictionaries(st.text(max_size=3), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=4), max_size=3).map(
        json.dumps
    ),
    st.sampled_from(["", " ", "\t", "[1]", "7", "{", '{"a":NaN}', '{"a":1}{', ' {"x":2} ', "null"]),
)


@given(st.lists(line_text, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 40), st.data())
def test_any_file_cut_anywhere_gives_what_a_naive_reader_gives(
    lines: list[str], newline: str, ended: bool, block: int, data: st.DataObject
) -> None:
    content = b'{"first": 0}\n' + (newline.join(lines) + (newline if ended else "")).encode()
    transport = MemoryTransport({URI: content}, block)
    reader = Jsonl(SourceOptions(), transport, buffer_bytes=block)
    file = transport.stat(URI)
    cut = data.draw(st.integers(0, len(content)))

    got = read_all(reader, [FilePiece(file, 0, cut), FilePiece(file, cut, len(content))])

    expected: list[Any] = [{"first": 0}]
    for line in lines:
        try:
            value = json.loads(line, parse_constant=refuse)
        except ValueError:
            value = None
        if line.strip():
            expected.append(value if isinstance(value, dict) else "bad")
    kinds = ["bad" if isinstance(one, RowFailure) else one for one in got]
    assert kinds == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": [1, -Infinity]}', "-Infinity is not a JSON value"),
        (b'{"a": "\xff"}', "invalid UTF-8"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"[1, 2]", "not a JSON object but an array"),
        (b'"text"', "not a JSON object but a string"),
        (b"12", "not a JSON object but a number"),
        (b"null", "not a JSON object but null"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b'{"a": 1}\r{"b": 2}', "not JSON"),
    ],
)
def test_a_bad_line_is_a_failure_that_says_what_where_and_keeps_the_bytes(line: bytes, reason: str) -> None:
    _, failure, last = parse(b'{"ok": 1}\n\n' + line + b'\n{"ok": 2}\n')

    assert isinstance(failure, RowFailure)
    assert reason in failure.reason
    assert failure.where == "memory/data.jsonl line 3"
    assert failure.raw == line
    assert last == {"ok": 2}


def test_without_a_known_line_number_a_failure_names_the_byte() -> None:
    content = b'{"ok": 1}\n{"ok": 2}\nbad\n'
    transport = MemoryTransport({URI: content})

    (failure,) = read_all(Jsonl(SourceOptions(), transport), [FilePiece(transport.stat(URI), 12, len(content))])

    assert isinstance(failure, RowFailure)
    assert failure.where == "memory/data.jsonl byte 20"


def test_a_failure_never_shows_the_signature_of_a_url() -> None:
    uri = "https://host/data.jsonl?X-Amz-Signature=secret"

    (failure,) = parse(b"bad\n", uri)

    assert "secret" not in failure.where


def test_good_lines_keep_their_bytes_and_large_integers_their_digits() -> None:
    line = b'{ "id": 123456789012345678901234567890, "x":1.10 }'
    transport = MemoryTransport({URI: line + b"\r\n"})

    (batch,) = Jsonl(SourceOptions(), transport).read([FilePiece(transport.stat(URI))], None)

    assert isinstance(batch.rows, LineRows)
    assert batch.rows.data[batch.rows.starts[0] : batch.rows.ends[0]] == line
    assert Jsonl(SourceOptions(), transport).probe(transport.files()).rows[0]["id"] == 123456789012345678901234567890


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"a":', b"1}", b"{}{}"],
        [b'{"a":{}', b',"b":{}}', b"{} {}"],
        [b"{}", b"{}{}", b"{", b"}"],
        [b'{"a":[{}', b"{}]}", b"{}{}"],
        [b'{"a":"', b'"}', b"{}{}"],
        [b"{} ", b"{}\t", b"\x0b", b"{}{} "],
        [b'{"a":1e999}', b'{"a":' + b"9" * 400 + b"}", b'{"b":'],
        [b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", b"{}"],
        [b'{"a":"\xc3', b'\xa9"}', b"{}{}"],
    ],
)
def test_a_line_is_judged_alike_whatever_lines_stand_around_it(lines: list[bytes]) -> None:
    alone = [why_not_an_object(line) is None for line in lines if line.strip()]

    _, *together = parse(b"{}\n" + b"".join(line + b"\n" for line in lines))

    assert [not isinstance(one, RowFailure) for one in together] == alone


def test_numbers_of_any_size_are_json() -> None:
    content = b'{"a":1e999}\n{"a":' + b"9" * 400 + b"}\n"
    transport = MemoryTransport({URI: content})

    (batch,) = Jsonl(SourceOptions(), transport).read([FilePiece(transport.stat(URI))], None)

    assert (len(batch.rows), batch.failures) == (2, ())


def test_found_lines_travel_without_the_rest_of_their_buffer_and_know_their_place() -> None:
    content = b"{}\n\n" + b'{"pad": "%s"}\n' % (b"x" * 5_000) + b"bad\n{}\nworse\n"
    transport = MemoryTransport({URI: content})
    reader = Jsonl(SourceOptions(), transport)
    (found,) = reader.frames([FilePiece(transport.stat(URI))], None)
    last = Batch(found.start, found.rows.slice(2, 5))

    travelled = pickle.dumps(last)
    there = reader.checked(pickle.loads(travelled))

    assert len(travelled) < 1_000
    assert [f.where for f in there.failures] == ["memory/data.jsonl line 4", "memory/data.jsonl line 6"]
    assert there.failures == reader.checked(last).failures
    assert to_dicts(there.rows) == [{}]


def test_batches_of_many_lines_share_one_buffer() -> None:
    content = dumped([{"i": i} for i in range(2_500)])
    transport = MemoryTransport({URI: content})

    batches = list(Jsonl(SourceOptions(), transport).read([FilePiece(transport.stat(URI))], None))

    assert [batch.count for batch in batches] == [834, 833, 833]
    assert len({id(batch.rows.data) for batch in batches if isinstance(batch.rows, LineRows)}) == 1
    assert [row["i"] for batch in batches for row in to_dicts(batch.rows)] == list(range(2_500))


def test_a_file_of_unknown_size_that_ends_within_a_line_was_cut() -> None:
    with pytest.raises(SourceError, match=r"data\.jsonl byte 9: the file ends within a line"):
        parse(b'{"a": 1}\n{"a": 2', sized=False)

    assert isinstance(parse(b'{"a": 1}\n{"a": 2')[1], RowFailure)
    assert parse(b'{"a": 1}\n{"a": 2}', sized=False) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[{"a": 1}, {"a": 2}]', "a JSON array"),
        (b'[\n  {"a": 1},\n  {"a": 2}\n]\n', "a JSON array"),
        (b'{\n  "a": 1\n}\n', "over several lines"),
        (b'{"a": [\n  1,\n  2\n]}\n', "over several lines"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\x1f\x8b\x08\x00", "gzip data"),
        (b"a,b\n" * 20, "without a JSON object"),
    ],
)
def test_a_file_of_another_kind_is_refused_instead_of_failing_line_by_line(content: bytes, found: str) -> None:
    with pytest.raises(SourceError, match=found) as caught:
        parse(content)

    assert caught.value.hint


@pytest.mark.parametrize("first", [b"{", b"[1]", b'{"cut": "off', b"oops"])
def test_one_bad_first_line_does_not_make_another_format(first: bytes) -> None:
    failure, row = parse(first + b'\n{"a": 1}\n')

    assert isinstance(failure, RowFailure)
    assert row == {"a": 1}


def test_an_array_file_of_one_piece_is_told_at_planning_time(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'[{"a": 1}]')
    transport = real(tmp_path)

    with pytest.raises(SourceError, match="a JSON array"):
        Jsonl(SourceOptions(), transport).extents(transport.stat(str(tmp_path / "a.jsonl")))


def test_the_probe_tells_types_nullability_and_weight() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "x": 1, "t": "a", "l": [1], "m": 1, "d": {}},
        {"id": 2, "x": 0.5, "t": None, "l": [], "m": "1", "b": True},
    ]
    transport = MemoryTransport({URI: dumped(rows)})

    probe = Jsonl(SourceOptions(), transport).probe(transport.files())

    assert not probe.declared
    assert probe.mean_sample_bytes == len(dumped(rows)) / 2
    assert probe.fields == (
        Field(name="id", type="int64", nullable=False),
        Field(name="x", type="double", nullable=False),
        Field(name="t", type="string"),
        Field(name="l", type="list<int64>", nullable=False),
        Field(name="m", type="json", nullable=False),
        Field(name="d", type="json"),
        Field(name="b", type="bool"),
    )


def test_the_probe_stops_after_a_thousand_rows() -> None:
    transport = MemoryTransport({URI: dumped([{"i": i} for i in range(3_000)])})

    assert len(Jsonl(SourceOptions(), transport).probe(transport.files()).rows) == 1_000


def test_deeply_nested_lines_are_judged_without_crashing() -> None:
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    assert "not JSON" in (why_not_an_object(deep) or "")


@pytest.fixture(params=[300, 20_000])
def recursion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Room on the stack for few levels more than the tests take, or for very many."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(request.param)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("recursion")
@pytest.mark.parametrize("alone", [True, False])
def test_how_deep_a_line_may_be_does_not_depend_on_the_process(*, alone: bool) -> None:
    def line(levels: int) -> bytes:
        return b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}\n"

    def failures(content: bytes) -> list[RowFailure]:
        transport = MemoryTransport({URI: content})
        batches = Jsonl(SourceOptions(), transport).read([FilePiece(SourceFile(uri=URI, size=len(content)))], None)
        return [failure for batch in batches for failure in batch.failures]

    flat = b'{"a": [' + b'[1, "[{\\"["], ' * 2_000 + b"{}]}\n"
    more = b"" if alone else b'{"b": 1}\n'

    assert failures(more + line(1_024) + flat + more) == []
    (failure,) = failures(more + line(1_025) + more)
    assert failure.reason == "not JSON: depth limit exceeded: line 1 column 1031 (char 1030)"


def test_extents_of_a_remote_file_cost_no_request() -> None:
    transport = MemoryTransport({})

    (extent,) = Jsonl(SourceOptions(), transport).extents(SourceFile(uri="https://host/a.jsonl", size=100))

    assert extent.end == 100
    assert transport.served == 0


def test_no_piece_is_no_sample() -> None:
    transport = MemoryTransport({URI: b"\n \n"})

    assert list(Jsonl(SourceOptions(), transport).read([], None)) == []
    assert (
        read_all(Jsonl(SourceOptions(), transport), pieces_of(Jsonl(SourceOptions(), transport), transport.files()))
        == []
    )


def test_bad_lines_of_later_batches_leave_the_good_ones_in_place() -> None:
    lines = [b'{"i": %d}\n' % i for i in range(2_500)]
    for bad in (0, 1_200, 1_201, 2_499):
        lines[bad] = b"bad %d\n" % bad

    every = parse(b"".join(lines))

    assert [i for i, one in enumerate(every) if isinstance(one, RowFailure)] == [0, 1_200, 1_201, 2_499]
    assert all(one == {"i": i} for i, one in enumerate(every) if not isinstance(one, RowFailure))
