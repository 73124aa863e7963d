import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.rows import buffers

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
NUMBERS = [*INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
PIECES = [
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
    pa.list_(pa.int32()), pa.large_list(pa.int32()), pa.list_(pa.int32(), 3),
]  # fmt: skip


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        return st.integers(0, 100)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_floating(kind):
        return st.floats(width=16, allow_nan=False)
    if pa.types.is_fixed_size_list(kind):
        return st.lists(st.integers(0, 9), min_size=3, max_size=3)
    return st.lists(st.integers(0, 9), max_size=4) if pa.types.is_nested(kind) else st.binary(max_size=4)


@st.composite
def columns(draw: st.DrawFn, kinds: list[Any]) -> Any:
    """A column that is a slice of a larger one, with or without nulls."""
    kind = draw(st.sampled_from(kinds))
    value = value_of(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        value = st.text(st.characters(codec="utf-8"), max_size=4)
    values = draw(st.lists(st.none() | value if draw(st.booleans()) else value, max_size=20))
    first = draw(st.integers(0, len(values)))
    return pa.array(values, kind).slice(first, draw(st.integers(0, len(values) - first)))


@given(columns(NUMBERS))
def test_numbers_and_nulls_are_those_of_the_column(array: Any) -> None:
    values, found = array.to_pylist(), buffers.numbers(array)

    assert buffers.valid(array).tolist() == [value is not None for value in values]
    assert len(found) == len(values)
    assert found.dtype == (np.uint8 if array.type == pa.bool_() else array.type.to_pandas_dtype())
    assert [None if value is None else number for number, value in zip(found.tolist(), values, strict=True)] == values


@given(columns(PIECES))
def test_lengths_are_those_of_the_values(array: Any) -> None:
    sizes = [
        0 if value is None else len(value.encode() if isinstance(value, str) else value) for value in array.to_pylist()
    ]

    assert buffers.lengths(array).tolist() == sizes
    assert buffers.bounds(buffers.lengths(array)).tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]


@given(columns(NUMBERS).filter(lambda array: not array.null_count), st.sampled_from("<>"))
def test_a_column_of_numpy_values_holds_them_in_any_byte_order(array: Any, order: str) -> None:
    values = array.to_numpy(zero_copy_only=False)

    made = buffers.column(np.repeat(values, 2).astype(values.dtype.newbyteorder(order))[::2])

    made.validate(full=True)
    assert made.equals(array)


@given(st.lists(st.binary(max_size=5)))
def test_joined_values_are_a_column(values: list[bytes]) -> None:
    made = buffers.joined(values)

    made.validate(full=True)
    assert made.to_pylist() == values


PACK = """
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_bridge.config import PipelineSettings
from data_bridge.model.batch import ArrowRows, DictRows
from data_bridge.pipelines.litdata import LitDataWriter

layout, path = sys.argv[1:]
kinds = {"id": "int", "text": "str", "ok": "bool", "v": "numpy" if layout == "classic" else "tree"}
types = {"id": "int64", "text": "string", "ok": "bool", "v": "int32" if layout == "classic" else "list<int32>"}
frozen = {"layout": layout, "leaves": [{"name": name, "kind": kinds[name], "type": types[name]} for name in kinds]}
ends = pa.py_buffer(np.array([0, 1, 3], np.int32))
numbers = pa.Array.from_buffers(pa.int32(), 3, [None, ends])
columns = {
    "id": pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(np.arange(2))]),
    "text": pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"abc")]),
    "ok": pa.Array.from_buffers(pa.bool_(), 2, [None, pa.py_buffer(b"1")]),
    "v": pa.Array.from_buffers(pa.list_(pa.int32()), 2, [None, ends], children=[numbers]),
}
batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
rows = [{"id": i, "text": "a", "ok": True, "v": [1]} for i in range(300)]
writer = LitDataWriter(PipelineSettings(name="litdata", input_uri="x.jsonl"), frozen)
writer.begin(Path(path))
for each in (ArrowRows(batch), DictRows(rows)):
    run = writer.encode(each, [])
    writer.write(run, 0, len(run))
assert writer.finish().samples == 302
assert "pandas" not in sys.modules
"""


@pytest.mark.parametrize("layout", ["classic", "arrow"])
def test_packing_columns_and_dictionaries_does_not_import_pandas(tmp_path: Path, layout: str) -> None:
    assert find_spec("pandas") is not None
    subprocess.run([sys.executable, "-c", PACK, layout, str(tmp_path / "chunk")], check=True)
