from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tar_shards import MEDIA, encode, pipeline, tar_members, writer_for
from support.writer_contract import arrow_rows, line_rows, pack_shard

from data_bridge.model.batch import ArrowRows, DictRows, Row
from data_bridge.model.keys import IndexKeys
from data_bridge.model.shards import Encoded
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.members import Layout
from data_bridge.pipelines.samples import Samples, encode_samples, from_rows
from data_bridge.pipelines.tarfmt import pack
from data_bridge.pipelines.webdataset import WebDatasetWriter
from data_bridge.rows.decoding import decode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
python_values = (
    json_values
    | st.floats()
    | st.integers(-(10**30), 10**30)
    | st.datetimes()
    | st.decimals(allow_nan=True)
    | st.binary(max_size=4)
    | st.just("null")
    | st.lists(st.floats(), max_size=2).map(np.array)
    | st.just(object())
)
COLUMNS = pa.schema(
    [
        ("n", pa.int64()),
        ("f", pa.float64()),
        ("s", pa.string()),
        ("label", pa.int32()),
        ("caption", pa.large_string()),
        ("blob", pa.large_binary()),
        ("uid", pa.binary(3)),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("floats", pa.list_(pa.float32())),
        ("counts", pa.large_list(pa.uint64())),
        ("matrix", pa.list_(pa.list_(pa.float64(), 2))),
        ("deep", pa.list_(pa.struct([("x", pa.float64()), ("b", pa.binary())]))),
        ("t", pa.timestamp("us")),
        ("image", MEDIA),
    ]
)
column_rows = st.fixed_dictionaries(
    {
        "n": st.none() | numbers,
        "f": st.none() | st.floats(),
        "s": st.none() | texts,
        "label": st.integers(-5, 5),
        "caption": texts,
        "blob": st.binary(max_size=600),
        "uid": st.binary(min_size=3, max_size=3),
        "kind": st.none() | st.sampled_from(["a", "b"]),
        "floats": st.none() | st.lists(st.none() | st.floats(width=32), max_size=3),
        "counts": st.none() | st.lists(st.integers(0, 2**64 - 1), max_size=3),
        "matrix": st.none() | st.lists(st.none() | st.lists(st.floats(), min_size=2, max_size=2), max_size=2),
        "deep": st.none()
        | st.lists(
            st.none() | st.fixed_dictionaries({"x": st.none() | st.floats(), "b": st.binary(max_size=4)}), max_size=2
        ),
        "t": st.none() | st.datetimes(),
        "image": st.fixed_dictionaries({"bytes": st.binary(max_size=2000), "path": st.none() | texts}),
    }
)
many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def told(made: Encoded | Samples) -> dict[str, list[int]]:
    return {name: sums.tolist() for name, sums in made.warnings.items()}


def assert_same(fast: Encoded, general: Encoded) -> None:
    assert fast.payload == general.payload
    assert fast.keys == general.keys
    assert told(fast) == told(general)
    assert fast.ends.tolist() == general.ends.tolist()
    assert fast.rows.tolist() == general.rows.tolist()
    assert [(f.offset, f.reason) for f in fast.failures] == [(f.offset, f.reason) for f in general.failures]


@many
@given(st.lists(st.dictionaries(texts, json_values, max_size=4), min_size=1, max_size=6))
def test_copied_lines_equal_the_general_path(rows: list[Row]) -> None:
    writer = writer_for([{"a": 1}])
    lines = line_rows(rows)

    general = encode(writer, DictRows(decode(lines)[0]))

    copied = encode(writer, lines)
    assert copied.payload == general.payload
    assert (copied.ends.tolist(), copied.failures) == (general.ends.tolist(), ())


@many
@given(st.lists(st.dictionaries(st.sampled_from("abc"), python_values, max_size=3), min_size=1, max_size=6))
def test_dumped_rows_equal_the_general_path(rows: list[Row]) -> None:
    layout = Layout({}, "json", known=frozenset("ab"))
    keys = IndexKeys("", np.arange(len(rows), dtype=np.int64), 6)

    fast, general = encode_samples(layout, None, DictRows(rows), keys), from_rows(layout, None, DictRows(rows), keys)

    assert list(fast.keys) == list(general.keys)
    assert fast.rows.tolist() == general.rows.tolist()
    assert pack(fast.keys, fast.columns)[0] == pack(general.keys, general.columns)[0]
    assert told(fast) == told(general)
    assert fast.failures == general.failures


@many
@given(st.lists(column_rows, min_size=1, max_size=5), st.integers(0, 4), st.sampled_from(["none", "own", "all"]))
def test_arrow_columns_equal_the_general_path(rows: list[Row], start: int, mapping: str) -> None:
    own = {"caption": "txt", "label": "cls", "floats": "json", "uid": "bin"}
    members = {"none": None, "own": own, "all": {**own, "n": "txt", "deep": "jsn"}}[mapping]
    writer = writer_for([], COLUMNS, members=members)
    batch = arrow_rows(rows, COLUMNS).slice(min(start, len(rows) - 1), len(rows))

    decoded, positions, failures = decode(batch)

    assert failures == ()
    assert positions.tolist() == list(range(len(batch)))
    assert_same(encode(writer, batch), encode(writer, DictRows(decoded)))


def test_a_bad_cell_of_a_column_fails_as_on_the_general_path() -> None:
    schema = pa.schema({"image": pa.binary(), "text": MEDIA.field("path").type})
    rows: list[Row] = [
        {"image": b"x", "text": "ok"},
        {"image": None, "text": "no image"},
        {"image": b"y", "text": "ok"},
    ]
    writer = writer_for(rows, schema)

    fast, general = encode(writer, arrow_rows(rows, schema)), encode(writer, DictRows(rows))

    assert_same(fast, general)
    assert [(f.offset, f.stage) for f in fast.failures] == [(1, "write")]
    assert "field 'image' is null" in fast.failures[0].reason


@pytest.mark.parametrize(
    "kind", [pa.binary_view(), pa.large_binary(), pa.dictionary(pa.int8(), pa.binary()), pa.binary(2)]
)
def test_every_binary_type_is_a_member_of_its_own(tmp_path: Path, kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("blob", kind)])
    batch = ArrowRows(pa.record_batch([pa.array([b"ab", b"cd", b"ef"], kind)], schema=schema)).slice(1, 3)
    writer = WebDatasetWriter(
        pipeline(), WebDatasetWriter.freeze(pipeline(), Probe((Field(name="blob", type="binary"),), declared=True))
    )

    pack_shard(writer, tmp_path / "a.tar", [encode(writer, batch)])

    assert tar_members(tmp_path / "a.tar") == {"000000.bin": b"cd", "000001.bin": b"ef"}


def test_text_that_is_not_utf8_fails_alone_even_as_a_member() -> None:
    schema = pa.schema([("t", pa.string())])
    writer = writer_for([{"t": "x"}], schema, members={"t": "txt"})
    bad = ArrowRows(pa.record_batch({"t": pa.array([b"ok", b"\xff", b"ok"]).view(pa.string())}))

    run = encode(writer, bad)

    assert run.rows.tolist() == [0, 2]
    assert [(f.offset, f.reason) for f in run.failures] == [(1, "field 't': the text is not valid UTF-8 (byte 0)")]


@many
@given(
    st.lists(st.dictionaries(texts, json_values, max_size=3), min_size=1, max_size=4),
    st.sampled_from(["", "00001-", "__", "bad key", "long" * 24]),
    st.integers(0, 200),
)
def test_numbered_keys_give_the_samples_that_text_keys_give(rows: list[Row], prefix: str, first: int) -> None:
    writer = writer_for([{"a": 1}])
    keys = IndexKeys(prefix, np.arange(first, first + len(rows)), 2)

    assert_same(writer.encode(line_rows(rows), keys), writer.encode(line_rows(rows), list(keys)))
