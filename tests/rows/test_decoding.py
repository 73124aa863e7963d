import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Media, Row
from data_bridge.rows.arrow import count_nonfinite
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined


def lines(*texts: str | bytes) -> LineRows:
    parts = [t.encode() if isinstance(t, str) else t for t in texts]
    ends = np.cumsum([len(p) + 1 for p in parts], dtype=np.int64) - 1
    return LineRows(b"\n".join(parts) + b"\n", ends - np.array([len(p) for p in parts], dtype=np.int64), ends)


def column(array: Any) -> list[Any]:
    """Values of one column through `decode`, which must be the same for a slice of the batch."""
    rows, _, failures = decode(ArrowRows(pa.record_batch({"x": array})))
    assert not failures
    padded = pa.concat_arrays([array.slice(0, 1), array, array.slice(0, 1)]) if len(array) else array
    cut, _, _ = decode(ArrowRows(pa.record_batch({"x": padded})).slice(1, len(array) + 1))
    values = [r["x"] for r in rows]
    assert [plain(r["x"]) for r in cut] == [plain(v) for v in values]
    return values


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def only_failure(rows: LineRows | ArrowRows) -> str:
    good, positions, failures = decode(rows)
    assert (good, len(positions), len(failures)) == ([], 0, 1)
    return failures[0].reason


@pytest.mark.parametrize(
    "line",
    [
        '{"a":1,"a":2}',
        '{"a" :1,"a":2,"b":3}',
        '{"a":1,"\\u0061":2}',
        '{"x":[{"a":1,"b":0,"a":2}]}',
        '{"a": "\\":" , "a": 1}',
    ],
)
def test_a_duplicate_key_at_any_depth_is_a_failure_that_names_it(line: str) -> None:
    assert only_failure(lines(line)) == "duplicate key 'a'"


def test_text_that_looks_like_keys_is_no_duplicate() -> None:
    row = {"a": '{"a": 1, "a": 2}', 'quote"': 'x":y', "b": [{"a": 1}, {"a": 2}]}

    assert decode(lines(json.dumps(row)))[0] == [row]


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**40, 1, -1])
def test_integers_of_any_size_keep_their_digits(number: int) -> None:
    rows, _, _ = decode(lines(f'{{"n":{number},"deep":[{{"n":{number}}}]}}'))

    assert rows == [{"n": number, "deep": [{"n": number}]}]
    assert type(rows[0]["n"]) is int


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":NaN}', "NaN"),
        (b'{"a":', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a":"\xff"}', "not JSON"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "too deeply"),
        (b'{"a":' + b"1" * 5000 + b"}", "5000 digits"),
    ],
)
def test_a_bad_line_is_a_failure_with_its_raw_bytes(line: bytes, reason: str) -> None:
    good, positions, failures = decode(lines('{"a":0}', line, '{"a":2}'))

    assert good == [{"a": 0}, {"a": 2}]
    assert positions.tolist() == [0, 2]
    assert [(f.offset, f.raw) for f in failures] == [(1, line)]
    assert reason in failures[0].reason


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=4), min_size=1, max_size=4), st.booleans())
def test_lines_decode_exactly_as_the_standard_library_reads_them(rows: list[dict[str, Any]], ascii_only: bool) -> None:
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]

    good, positions, failures = decode(lines(*[t.encode(errors="surrogatepass") for t in texts]))

    assert failures == ()
    assert positions.tolist() == list(range(len(rows)))
    assert [repr(g) for g in good] == [repr(json.loads(t)) for t in texts]


pairs = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "\\u0061", 'x\\"', '\\": 1']),
        st.sampled_from(["", " ", "\t"]),
        st.sampled_from(
            ["1", '"a\\":"', '" :"', "9223372036854775808", "1e300", "[[{}]]", '{"a":{"a":1}}', '[{"a":1,"a":2}]']
        ),
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=5))
def test_lines_decode_together_as_each_does_alone(objects: list[list[tuple[str, str, str]]]) -> None:
    texts = ["{" + ",".join(f'"{key}"{space}:{value}' for key, space, value in each) + "}" for each in objects]

    good, positions, failures = decode(lines(*texts))

    alone = [decode(lines(text)) for text in texts]
    assert repr(good) == repr([row for rows, _, _ in alone for row in rows])
    assert positions.tolist() == [i for i, (rows, _, _) in enumerate(alone) if rows]
    assert [(f.offset, f.reason) for f in failures] == [
        (i, bad[0].reason) for i, (_, _, bad) in enumerate(alone) if bad
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=8), st.sampled_from(["\n", "\n\n", "\r\n", "\n \n"]))
def test_lines_in_any_order_left_out_or_repeated_are_what_they_are(order: list[int], between: str) -> None:
    rows = [{"n": n, "text": "\n" * n} for n in range(6)]
    texts = [json.dumps(row) for row in rows]
    starts = np.cumsum([0, *(len(text) + len(between) for text in texts[:-1])])
    every = LineRows(between.join(texts).encode(), starts, starts + [len(text) for text in texts])

    good, positions, _ = decode(LineRows(every.data, every.starts[order], every.ends[order]))

    assert good == [rows[n] for n in order]
    assert len(positions) == len(order)


def test_rows_of_several_buffers_hold_nothing_of_the_bad_lines_between_them() -> None:
    def good_lines(data: bytes, *spans: tuple[int, int]) -> LineRows:
        return LineRows(data, np.array([a for a, _ in spans]), np.array([b for _, b in spans]))

    first = b'{"i":0}\n{},{},{"x":"\n{}'  # the line in the middle is bad
    last = b'{}\n"}\n{"i":9}'
    rows = joined([good_lines(first, (0, 7), (21, 23)), good_lines(b"{}", (0, 2)), good_lines(last, (0, 2), (6, 13))])

    assert rows is not None
    assert decode(rows)[0] == [{"i": 0}, {}, {}, {}, {"i": 9}]


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(15, 24),
    st.sampled_from(["", "-"]),
    st.sampled_from(["", ".5", "e2", ".0000000000000000000001"]),
    st.booleans(),
    st.sampled_from([1, 16, 17, 18, 19, 22, 40]),
)
def test_integers_keep_their_digits_wherever_they_stand_among_flat_lines(
    before: int, digits: int, sign: str, more: str, of_nines: bool, behind_the_point: int
) -> None:
    number = sign + ("9" * digits if of_nines else "1" + "2" * (digits - 1)) + more
    texts = ['{"x":"' + "y" * before + '"}', f'{{"n":{number},"f":0.{"3" * behind_the_point}}}', '{"z":[1,2]}']

    good, _, _ = decode(lines(*texts))

    assert repr(good) == repr([json.loads(text) for text in texts])


def test_dictionaries_pass_unchanged() -> None:
    rows: list[Row] = [{"a": 1}, {"b": object}]

    good, positions, failures = decode(DictRows(rows))

    assert (good, positions.tolist(), failures) == (rows, [0, 1], ())


def test_timestamps_keep_every_digit_of_their_unit() -> None:
    assert column(pa.array([1_577_836_800_123_456_789, None, -1], pa.timestamp("ns"))) == [
        "2020-01-01T00:00:00.123456789",
        None,
        "1969-12-31T23:59:59.999999999",
    ]
    assert column(pa.array([1_577_836_800], pa.timestamp("s"))) == ["2020-01-01T00:00:00"]
    assert column(pa.array([5], pa.timestamp("ms", "Europe/Paris"))) == ["1970-01-01T00:00:00.005Z"]
    assert column(pa.array([253_402_300_800], pa.timestamp("s"))) == ["10000-01-01T00:00:00"]


def test_dates_times_and_durations_become_iso_text() -> None:
    assert column(pa.array([dt.date(1999, 12, 31), None])) == ["1999-12-31", None]
    assert column(pa.array([dt.date(1999, 12, 31)], pa.date64())) == ["1999-12-31"]
    assert column(pa.array([1, None], pa.time64("ns"))) == ["00:00:00.000000001", None]
    assert column(pa.array([3661], pa.time32("s"))) == ["01:01:01"]
    assert column(pa.array([1500, -1, None], pa.duration("ms"))) == ["PT1.500S", "-PT0.001S", None]
    assert column(pa.array([(1, 2, 3)], pa.month_day_nano_interval())) == [{"months": 1, "days": 2, "nanoseconds": 3}]


def test_decimals_dictionaries_and_uuids_keep_their_values() -> None:
    assert column(pa.array([Decimal("1.10"), None])) == [Decimal("1.10"), None]
    assert column(pa.array(["a", "b", None, "a"]).dictionary_encode()) == ["a", "b", None, "a"]
    identifier = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\x01" * 16, None], pa.binary(16)))
    assert column(identifier) == ["01010101-0101-0101-0101-010101010101", None]
    assert column(pa.array([1.5, None], pa.float16())) == [1.5, None]
    runs: Any = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", "y"]))
    assert [r["x"] for r in decode(ArrowRows(pa.record_batch({"x": runs})))[0]] == ["x", "x", "y"]


def test_media_structs_become_media_in_either_field_order() -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    other = pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])
    cells = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": b"", "path": None}, None, {"bytes": None, "path": None}]

    expected = [Media(b"x", "a.jpg"), Media(b""), None, None]

    assert column(pa.array(cells, kind)) == expected
    assert column(pa.array(cells, other)) == expected


def test_media_with_only_a_path_is_a_failure_of_that_row_alone() -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    array = pa.array(
        [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "/b.jpg"}, {"bytes": b"y", "path": "c"}], kind
    )

    good, positions, failures = decode(ArrowRows(pa.record_batch({"image": array})))

    assert [row["image"].data for row in good] == [b"x", b"y"]
    assert positions.tolist() == [0, 2]
    assert [(f.offset, f.reason) for f in failures] == [
        (1, "field 'image': there is only a path ('/b.jpg'), not the file's bytes")
    ]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int32()), pa.large_list(pa.int32()), pa.list_view(pa.int32()), pa.list_(pa.int32(), 2)]
)
def test_lists_of_numbers_become_arrays_of_their_type(kind: pa.DataType) -> None:
    values = column(pa.array([[1, 2], None, [3, 4]], kind))

    assert values[1] is None
    if not pa.types.is_fixed_size_list(kind):
        assert [v.dtype for v in (values[0], values[2])] == [np.int32, np.int32]
    assert [plain(v) for v in values] == [[1, 2], None, [3, 4]]


def test_nested_columns_keep_nulls_at_every_level() -> None:
    kind = pa.list_(pa.struct([("a", pa.list_(pa.float64())), ("t", pa.timestamp("us"))]))
    values = column(pa.array([[{"a": [1.0, None], "t": dt.datetime(2020, 1, 1)}, None], [], None], kind))

    assert values == [[{"a": [1.0, None], "t": "2020-01-01T00:00:00.000000"}, None], [], None]


def test_maps_with_text_keys_become_objects_and_others_entries() -> None:
    assert column(pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))) == [{"a": 1}, None]
    assert column(pa.array([[(1, "x")]], pa.map_(pa.int64(), pa.string()))) == [[{"key": 1, "value": "x"}]]
    twice = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    assert "twice" in only_failure(ArrowRows(pa.record_batch({"m": twice})))


def test_text_that_is_not_utf8_is_a_failure_of_that_row_alone() -> None:
    array = pa.array([b"ok", b"\xff"]).view(pa.string())

    good, _, failures = decode(ArrowRows(pa.record_batch({"t": array})))

    assert good == [{"t": "ok"}]
    assert [(f.offset, f.reason) for f in failures] == [(1, "field 't': the text is not valid UTF-8 (byte 0)")]


def test_nonfinite_numbers_are_counted_at_any_depth() -> None:
    nan, inf = float("nan"), float("inf")

    assert count_nonfinite(pa.array([nan, 1.0, None, -inf])) == 2
    assert count_nonfinite(pa.array([nan, 1.0], pa.float16())) == 1
    assert count_nonfinite(pa.array([[nan], None, [1.0, inf]]).slice(1)) == 1
    assert count_nonfinite(pa.array([{"a": [nan]}, None])) == 1
    assert count_nonfinite(pa.array([[("k", nan)]], pa.map_(pa.string(), pa.float64()))) == 1
    assert count_nonfinite(pa.array(["a"])) == 0


def test_a_batch_without_columns_keeps_its_rows() -> None:
    batch = pa.record_batch({"x": pa.array([1, 2])}).select([])

    assert decode(ArrowRows(batch))[0] == [{}] * batch.num_rows


def test_orjson_writes_what_decode_gives() -> None:
    rows, _, _ = decode(ArrowRows(pa.record_batch({"v": pa.array([[0.1, 2.5]], pa.list_(pa.float32()))})))

    assert orjson.dumps(rows[0], option=orjson.OPT_SERIALIZE_NUMPY) == b'{"v":[0.1,2.5]}'
