"""CSV: RFC 4180 exactly, at any block size, and nothing lost in silence."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, read_all

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.sources import csv_records
from data_bridge.io.sources.csv import Csv, Tsv
from data_bridge.io.sources.csv_records import Dialect
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, RowFailure
from data_bridge.model.source import Field, FilePiece, SourceFile

URI = "memory/data.csv"
ROWS = [
    {"id": str(i), "text": f'Zeile "{i}",\nmit ü' if i % 3 else None, "note": "" if i % 4 == 0 else f"n{i}"}
    for i in range(30)
]


def real(path: Path) -> Transport:
    return Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))


def quoted(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


def dumped(rows: list[dict[str, str | None]], end: str = "\n", *, header: bool = True) -> bytes:
    lines = [",".join(rows[0])] if header else []
    return "".join(line + end for line in lines + [",".join(quoted(v) for v in row.values()) for row in rows]).encode()


def parse(content: bytes, *, uri: str = URI, block: int = 16, kind: type[Csv] = Csv, **options: Any) -> list[Any]:
    transport = MemoryTransport({uri: content}, block)
    return read_all(kind(SourceOptions(**options), transport, buffer_bytes=block), [FilePiece(transport.stat(uri))])


class TestCsv(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        (tmp_path / "a.csv").write_bytes(
            b"\xef\xbb\xbf" + dumped(ROWS[:10]) + b'\r\n7,"only two"\n5" disc,x\n"a"b,c,d\n'
        )
        (tmp_path / "b.csv").write_bytes(dumped(ROWS[10:], "\r\n")[:-2])
        (tmp_path / "c.csv").write_bytes(b"id,text,note\n")
        (tmp_path / "e.csv").write_bytes(b"")
        (tmp_path / "z.csv.gz").write_bytes(gzip.compress(dumped(ROWS)))
        transport = real(tmp_path)
        files = [transport.stat(str(tmp_path / name)) for name in ("a.csv", "b.csv", "c.csv", "e.csv", "z.csv.gz")]
        return Case(Csv(SourceOptions(), transport, buffer_bytes=150), files, [*ROWS, *ROWS], failures=3)

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> SourceFile:
        path = tmp_path / "really.csv"
        path.write_bytes(b'{"id": 1, "text": "x"}\n' * 3)
        return real(tmp_path).stat(str(path))


class TestTypedTsv(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        (tmp_path / "a.tsv").write_bytes(
            b"n\tx\tok\ts\n" + b"1\t0.5\ttrue\ta\n" * 5 + b"x\t1\tfalse\tb\n" + b"\t\t\t\n" * 3
        )
        transport = real(tmp_path)
        options = SourceOptions(csv_types={"n": "int64", "x": "float64", "ok": "bool"}, columns=("x", "n", "ok"))
        expected: list[dict[str, Any]] = [{"x": 0.5, "n": 1, "ok": True}] * 5 + [{"x": None, "n": None, "ok": None}] * 3
        files = [transport.stat(str(tmp_path / "a.tsv"))]
        return Case(Tsv(options, transport, buffer_bytes=20), files, expected, failures=1)

    @pytest.fixture
    def wrong(self, tmp_path: Path) -> SourceFile:
        path = tmp_path / "really.tsv"
        path.write_bytes(b"SQLite format 3\0" + bytes(100))
        return real(tmp_path).stat(str(path))


# ---- against Python's reader -----------------------------------------------------------------------------------------

pieces = st.sampled_from(['"', '""', ",", "\n", "\r\n", "a", "é", " ", "bc", "'"])
fields = st.one_of(st.none(), st.text(st.sampled_from('a"é,\n\r '), max_size=5))


def reference(body: str) -> list[list[str]] | None:
    """Records as Python reads them, empty lines left out; None when a quote stays open at the end."""
    lines = body.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]
    try:
        list(csv.reader([*lines], strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    records = [record for record in csv.reader(lines) if record]
    return None if _open_at_the_end(lines) else records


def _open_at_the_end(lines: list[str]) -> bool:
    """Whether one more line would still belong to the last record."""
    return bool(lines) and list(csv.reader([*lines, "\n", "q\n"]))[-1] != ["q"]


def is_strict(raw: bytes) -> bool:
    try:
        list(csv.reader(io.StringIO(raw.decode(), newline="\n"), strict=True))
    except csv.Error:
        return False
    return True


@settings(max_examples=400)
@given(st.lists(pieces, max_size=25).map("".join), st.integers(1, 30))
def test_any_text_is_read_as_python_reads_it(body: str, block: int) -> None:
    expected = reference(body)
    width = len(expected[0]) if expected else 1
    content = (",".join(f"h{i}" for i in range(width)) + "\n" + body).encode()

    if expected is None:
        with pytest.raises(SourceError, match="opens a quote that is never closed"):
            parse(content, block=block, delimiter=",")
        return
    got = parse(content, block=block, delimiter=",")

    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        if isinstance(mine, RowFailure):
            assert mine.raw is not None
            assert len(theirs) != width or not is_strict(mine.raw)
        else:
            assert [value or "" for value in mine.values()] == theirs


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(fields, min_size=n, max_size=n), min_size=1, max_size=8)),
       st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 40))  # fmt: skip
def test_whatever_is_written_quoted_comes_back(rows: list[list[str | None]], end: str, ended: bool, block: int) -> None:
    names = [f"h{i}" for i in range(len(rows[0]))]
    written = [dict(zip(names, row, strict=True)) for row in rows]
    content = dumped(written, end)
    content = content if ended else content.removesuffix(end.encode())

    # a record that is one empty unquoted field is an empty line
    assert parse(content, block=block) == [row for row in written if len(row) > 1 or row["h0"] is not None]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "a", "é", '","', '"\n"']), max_size=30).map("".join),
    st.booleans(),
)
def test_the_fast_way_and_the_exact_way_agree(text: str, final: bool) -> None:
    data = text.encode()
    fast = csv_records._regular(data, 2, Dialect(), final=final)
    if fast is None:
        return
    exact = csv_records._exact(data[: fast.used], 2, Dialect(), final=final and fast.used == len(data))

    assert fast.starts.tolist() == exact.starts.tolist()
    assert fast.ends.tolist() == exact.ends.tolist()
    assert fast.bad == exact.bad
    assert [c.to_pylist() for c in fast.columns] == [c.to_pylist() for c in exact.columns]
    assert fast.used == exact.used


# ---- bad records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1,2,3", "3 fields instead of 2"),
        (b"1", "1 field instead of 2"),
        (b'"1"x,2', "field 1: text after the closing quote"),
        (b"1,a\rb", "field 2: a carriage return outside quotes"),
        (b"1,\xff", "invalid UTF-8"),
        (b'"\xff"x,2', "field 1: text after the closing quote"),
    ],
)
def test_a_bad_record_is_a_failure_that_says_what_where_and_keeps_the_bytes(record: bytes, reason: str) -> None:
    first, failure, last = parse(b'a,b\n1,"x\ny"\n\n' + record + b"\r\n3,4")

    assert (first, last) == ({"a": "1", "b": "x\ny"}, {"a": "3", "b": "4"})
    assert isinstance(failure, RowFailure)
    assert reason in failure.reason
    assert failure.where == "memory/data.csv line 5"
    assert failure.raw == record


def test_a_quote_inside_an_unquoted_field_is_a_character() -> None:
    assert parse(b'a,b\n5" disc,it""s\n') == [{"a": '5" disc', "b": 'it""s'}]


def test_a_quote_that_never_closes_is_an_error_and_not_one_long_bad_row() -> None:
    content = b'a,b\n1,2\n3,"four\n' + b"5,6\n" * 1000

    with pytest.raises(SourceError, match=r"data\.csv line 3: the record opens a quote that is never closed") as caught:
        parse(content)

    assert "quotes: false" in caught.value.hint


def test_an_endless_record_is_an_error_that_says_where_it_starts() -> None:
    transport = MemoryTransport({URI: b'a\n1\n"' + b"x" * 5_000}, 100)
    reader = Csv(SourceOptions(), transport, buffer_bytes=100, max_record_bytes=1_000)

    with pytest.raises(SourceError, match=r"line 3: the record goes on for more than 1,000 bytes"):
        read_all(reader, [FilePiece(transport.stat(URI))])


def test_a_long_quoted_field_over_many_blocks_is_whole() -> None:
    value = 'x,"\n' * 50_000

    assert parse(dumped([{"a": value, "b": "1"}]), block=1_000) == [{"a": value, "b": "1"}]


# ---- header, delimiter, columns --------------------------------------------------------------------------------------


def test_without_a_header_columns_are_numbered_and_the_first_line_is_data() -> None:
    assert parse(b"\xef\xbb\xbf1,2\n3,4\n", header=False) == [{"c0": "1", "c1": "2"}, {"c0": "3", "c1": "4"}]


def test_a_quoted_header_over_two_lines_counts_as_two() -> None:
    rows = parse(b'"a\nb",""\n1\n')

    assert isinstance(rows[0], RowFailure)
    assert rows[0].where == "memory/data.csv line 3"
    assert parse(b'"a\nb",""\n1,2\n') == [{"a\nb": "1", "c1": "2"}]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a,b,a\n1,2,3\n", "names 'a' more than once"),
        (b"a\rb\r1\r2\r", "carriage return"),
        (b"n\xe4me,b\n1,2\n", "invalid UTF-8"),
        (b"a;b\n1;2\n", "no ',' in the first record, but ';'"),
        (b'a,"b\n1,2\n', "the first record has no end"),
        (b"<html><body>Not found</body></html>", "web page"),
        (b"PK\x03\x04", "zip archive"),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error(content: bytes, problem: str) -> None:
    with pytest.raises(SourceError, match=problem) as caught:
        parse(content)

    assert caught.value.hint


def test_a_header_longer_than_the_first_look_is_read() -> None:
    names = [f"column_{i}" for i in range(10_000)]

    (row,) = parse((",".join(names) + "\n" + ",".join("1" * 10_000) + "\n").encode(), block=1 << 16)

    assert list(row) == names


def test_all_files_have_the_same_header() -> None:
    transport = MemoryTransport({"a.csv": b"x,y\n1,2\n", "b.csv": b"", "c.csv": b"x,z\n1,2\n"})
    reader = Csv(SourceOptions(), transport)

    with pytest.raises(SourceError, match=r"c\.csv has other columns than a\.csv: 'y' is missing"):
        [reader.extents(file) for file in transport.files()]


def test_the_delimiter_is_an_option_and_a_tab_for_tsv() -> None:
    assert parse(b"a;b\n1;2,5\n", delimiter=";") == [{"a": "1", "b": "2,5"}]
    assert parse(b"a\tb\n1\t2\n", uri="memory/x.tsv") == [{"a": "1", "b": "2"}]
    assert parse(b"a\tb\n1\t2\n", kind=Tsv) == [{"a": "1", "b": "2"}]
    assert parse(b"a|b\n1\n", delimiter=",") == [{"a|b": "1"}]


@pytest.mark.parametrize("delimiter", ["", ",,", "\n", '"', "é"])
def test_an_impossible_delimiter_is_refused(delimiter: str) -> None:
    with pytest.raises(ConfigError, match=r"source_options\.delimiter"):
        Csv(SourceOptions(delimiter=delimiter), MemoryTransport({}))


def test_quotes_may_be_plain_characters() -> None:
    assert parse(b'a\tb\n"open\tx"y\n', kind=Tsv, quotes=False) == [{"a": '"open', "b": 'x"y'}]


def test_columns_are_selected_in_the_order_of_the_option() -> None:
    assert parse(b"a,b,c\n1,2,3\n", columns=("c", "a")) == [{"c": "3", "a": "1"}]
    with pytest.raises(ConfigError, match="'d'") as caught:
        parse(b"a,b,c\n1,2,3\n", columns=("d",))
    assert "a, b, c" in caught.value.hint


def test_an_empty_cell_is_null_and_a_quoted_empty_one_is_empty() -> None:
    assert parse(b'a,b\n,""\n') == [{"a": None, "b": ""}]


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (
            "int64",
            {"7": 7, " -7 ": -7, "+8": 8, "007": 7, "9223372036854775807": 2**63 - 1, "-9223372036854775808": -(2**63)},
        ),
        (
            "float64",
            {"1": 1.0, ".5": 0.5, "-1.5e3": -1500.0, "+2.": 2.0, "inf": float("inf"), "-Infinity": float("-inf")},
        ),
        ("bool", {"true": True, "FALSE": False, " True ": True}),
        ("string", {" 7 ": " 7 "}),
    ],
)
def test_declared_types_are_parsed(kind: str, good: dict[str, Any]) -> None:
    content = b"k,v\n" + "".join(f'x,"{text}"\n' for text in good).encode()

    assert [row["v"] for row in parse(content, csv_types={"v": kind})] == list(good.values())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int64", t)
        for t in ("1.0", "x", "0x1F", "9223372036854775808", "-9223372036854775809", "9" * 70, "1_000", "- 1", "NaN")
    ]
    + [("float64", t) for t in ("1,5", "x", "1e400", "0x1p3", "--1", "1e")]
    + [("bool", t) for t in ("1", "yes", "t")],
)
def test_a_cell_that_does_not_parse_as_its_type_is_a_failure_naming_column_and_value(kind: str, text: str) -> None:
    rows = parse(f'k,v\na,\nb,"{text}"\nc,""\n'.encode(), csv_types={"v": kind}, block=1_000)

    assert [rows[0], rows[2]] == [{"k": "a", "v": None}, {"k": "c", "v": None}]
    assert isinstance(rows[1], RowFailure)
    assert rows[1].reason == f"column 'v': {text!r} is not {kind}"
    assert rows[1].where == "memory/data.csv line 3"


def test_a_type_of_an_unknown_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"csv_types: .* has no column 'w'"):
        parse(b"k,v\n1,2\n", csv_types={"w": "int64"})


def test_the_probe_names_every_column_with_its_type() -> None:
    transport = MemoryTransport({URI: b"id,x,t\n1,0.5,a\n2,,b\n"})

    probe = Csv(SourceOptions(csv_types={"id": "int64", "x": "float64"}), transport).probe(transport.files())

    assert probe.fields == (
        Field(name="id", type="int64", nullable=False),
        Field(name="x", type="double"),
        Field(name="t", type="string", nullable=False),
    )
    assert probe.rows == [{"id": 1, "x": 0.5, "t": "a"}, {"id": 2, "x": None, "t": "b"}]


def test_the_probe_of_a_header_alone_still_names_the_columns() -> None:
    transport = MemoryTransport({URI: b"id,x\n"})

    assert Csv(SourceOptions(), transport).probe(transport.files()).fields == (
        Field(name="id", type="string"),
        Field(name="x", type="string"),
    )


def test_batches_are_arrow_columns_of_at_most_a_thousand_rows() -> None:
    transport = MemoryTransport({URI: b"a,b\n" + b"1,2\n" * 2_500})

    batches = list(Csv(SourceOptions(), transport).read([FilePiece(transport.stat(URI))], None))

    assert [batch.count for batch in batches] == [834, 833, 833]
    assert all(isinstance(batch.rows, ArrowRows) for batch in batches)


def test_bad_records_of_later_batches_leave_the_good_ones_in_place() -> None:
    lines = [f"{i},x\n" for i in range(2_500)]
    lines[3], lines[1_200], lines[1_300], lines[2_499] = "oops,x\n", "oops,x\n", "1,2,3\n", "-,x\n"

    every = parse(("n,s\n" + "".join(lines)).encode(), block=1 << 20, csv_types={"n": "int64"})

    bad = [i for i, one in enumerate(every) if isinstance(one, RowFailure)]
    assert bad == [3, 1_200, 1_300, 2_499]
    assert all(one == {"n": i, "s": "x"} for i, one in enumerate(every) if i not in bad)
    assert every[1_300].where == "memory/data.csv line 1302"


def test_after_a_resume_a_failure_names_the_byte() -> None:
    transport = MemoryTransport({URI: b"a,b\n1,2\n3,4\nbad\n"})
    reader = Csv(SourceOptions(), transport)

    (_, failure) = read_all(reader, [FilePiece(transport.stat(URI))], [0, 8])

    assert isinstance(failure, RowFailure)
    assert failure.where == "memory/data.csv byte 12"


def test_a_number_of_thousands_of_digits_is_a_failure_and_not_a_crash() -> None:
    (failure, row) = parse(
        ("n\n" + "9" * 5_000 + "\n" + "0" * 5_000 + "7\n").encode(), block=1 << 20, csv_types={"n": "int64"}
    )

    assert isinstance(failure, RowFailure)
    assert row == {"n": 7}
