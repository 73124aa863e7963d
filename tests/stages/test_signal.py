import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Row, Rows
from data_bridge.model.source import Field
from data_bridge.rows.buffers import numbers
from data_bridge.rows.decoding import decode
from data_bridge.rows.values import dump
from data_bridge.runtime.flow import Flow, Lot
from data_bridge.runtime.stage import Result, StageBatch
from data_bridge.stages.build import build
from data_bridge.stages.signal import filtered
from data_bridge.testing import StageContract, assert_same_however_cut, run_stage, stage_of

NUMBERS = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)


def made(value: Any, **options: Any) -> Any:
    run = run_stage({"signal": {"field": "x", **options}}, [{"x": value}])
    assert run.reasons == {}
    return run.samples[0]["x"]


class TestSignal(StageContract):
    kind = "signal"
    options = {"field": "x", "scale": 0.5, "offset": 1, "coeffs": [0.5, 0.25, 0.25]}
    samples = [{"x": [1.0, 2.0, 3.0, 4.0], "y": 1}, {"x": [], "y": 2}, {"x": None, "y": 3}, {"x": [5.5], "y": 4}]
    refused = [
        {},
        {"field": "x", "coeffs": []},
        {"field": "x", "coeffs": [1, float("nan")]},
        {"field": "x", "coeffs": [10**400]},
        {"field": "x", "coeffs": ["1"]},
        {"field": "x", "coeffs": [True]},
        {"field": "x", "coeffs": 1},
        {"field": "x", "scale": float("inf")},
        {"field": "x", "dtype": "int16"},
        {"field": "y"},
        {"field": "z"},
    ]


class TestWithFailures(StageContract):
    kind = "signal"
    options = {"field": "x", "coeffs": [1, -1]}
    samples = [
        {"x": [1.0, None, 2.0]},
        {"x": [1.5, 2.0]},
        {"x": "text"},
        {"x": [True]},
        {},
        {"x": [[1.0, 2.0], [3.0]]},
        {"x": [[1.0], None]},
    ]

    def test_what_is_no_list_of_numbers_is_a_failure_that_says_why(self) -> None:
        run = run_stage(self.config(), self.samples)

        assert run.samples == [{"x": [1.5, 0.5]}, {}, {"x": [[1.0, 1.0], [3.0]]}]
        assert run.reasons == {
            0: "field 'x' holds null among its numbers",
            2: "field 'x' is of type str, not a list of numbers",
            3: "field 'x' holds a value of type bool among its numbers",
            6: "field 'x' is of type NoneType, not a list of numbers",
        }


def test_numbers_are_scaled_then_filtered() -> None:
    assert made([2, 4, 6]) == [2.0, 4.0, 6.0]
    assert made([2, 4, 6], scale=0.5, offset=1) == [2.0, 3.0, 4.0]
    assert made([1, 0, 0, 0], coeffs=[3, 2, 1]) == [3.0, 2.0, 1.0, 0.0]
    assert made([2, 4, 6], scale=0.5, coeffs=[1, 1]) == [1.0, 3.0, 5.0]


def test_each_channel_is_a_signal_of_its_own() -> None:
    assert made([[1, 1], [2, 2, 2]], coeffs=[1, 1]) == [[1.0, 2.0], [2.0, 4.0, 4.0]]
    assert made(np.ones((2, 3)), coeffs=[1, 1]) == [[1.0, 2.0, 2.0]] * 2


@settings(deadline=None)
@given(st.lists(NUMBERS, max_size=30), st.lists(st.floats(-10, 10), min_size=1, max_size=12))
def test_the_filter_is_the_convolution_begun_with_zeros(values: list[float], coeffs: list[float]) -> None:
    expected = np.convolve(values, coeffs)[: len(values)] if values else np.array([])

    assert np.allclose(made([float(v) for v in values], coeffs=coeffs), expected, rtol=1e-9, atol=1e-3)


@settings(deadline=None)
@given(
    st.lists(st.lists(NUMBERS, max_size=6), min_size=1, max_size=6),
    st.lists(st.floats(-10, 10), min_size=1, max_size=8),
)
def test_a_signal_is_the_same_to_the_last_bit_whatever_its_neighbours_are(
    signals: list[list[float]], coeffs: list[float]
) -> None:
    flat = np.array([x for signal in signals for x in signal], dtype=np.float64)
    ends = np.concatenate([[0], np.cumsum([len(signal) for signal in signals])]).astype(np.int64)

    together = filtered(flat, ends, coeffs)

    alone = [filtered(np.array(s, dtype=np.float64), np.array([0, len(s)], dtype=np.int64), coeffs) for s in signals]
    assert together.tobytes() == np.concatenate(alone).tobytes()


COLUMNS: list[Any] = [pa.list_(pa.int16()), pa.large_list(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.uint8(), 3),
                      pa.list_(pa.list_(pa.float32())), pa.list_(pa.float16())]  # fmt: skip


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    kind = draw(st.sampled_from(COLUMNS))
    item: st.SearchStrategy[Any] = st.integers(0, 200)
    if draw(st.booleans()):
        item = st.none() | item
    if pa.types.is_nested(kind.value_type):
        item = st.lists(item, max_size=3)
    sizes: Any = {"min_size": 3, "max_size": 3} if pa.types.is_fixed_size_list(kind) else {"max_size": 5}
    return kind, draw(st.lists(st.none() | st.lists(item, **sizes), max_size=7))


@settings(deadline=None, max_examples=100)
@given(columns(), st.sampled_from(["float32", "float64"]), st.integers(0, 2))
def test_columns_and_single_values_are_filtered_alike(given: tuple[Any, list[Any]], dtype: str, first: int) -> None:
    kind, values = given
    if kind == pa.list_(pa.float16()):
        values = [None if v is None else [None if i is None else np.float16(i) for i in v] for v in values]
    table = ArrowRows(pa.record_batch({"x": pa.array(values, kind)})).slice(min(first, len(values)), len(values))
    config = {"signal": {"field": "x", "scale": 0.1, "coeffs": [0.3, -0.2, 0.7], "dtype": dtype}}

    found, expected = run_stage(config, table), run_stage(config, DictRows(decode(table)[0]))

    assert [failure.offset for failure in found.failures] == [failure.offset for failure in expected.failures]
    assert [dump(row) for row in found.samples] == [dump(row) for row in expected.samples]


def test_the_field_has_the_type_of_the_numbers_made() -> None:
    for kind, dtype, told in [
        ("list<int16>", "float32", "list<float>"),
        ("list<list<float>>", "float64", "list<list<double>>"),
    ]:
        fields = stage_of({"signal": {"field": "x", "dtype": dtype}}).fields((Field(name="x", type=kind),))

        assert fields is not None
        assert fields[0].type == told


def test_text_is_refused_when_the_plan_is_made() -> None:
    with pytest.raises(ConfigError, match="not a list of numbers"):
        stage_of({"signal": {"field": "x"}}).fields((Field(name="x", type="string"),))


def test_coefficients_may_change_in_a_running_stage_and_empty_ones_are_refused() -> None:
    options = stage_of({"signal": {"field": "x", "coeffs": [1]}}).options

    changed = options.model_validate({**options.model_dump(), "coeffs": [0.5, 0.5]})

    assert changed.coeffs == (0.5, 0.5)
    assert type(options).model_fields["coeffs"].json_schema_extra == {"live": "any"}
    with pytest.raises(ValidationError):
        options.model_validate({**options.model_dump(), "coeffs": []})


@settings(deadline=None, max_examples=25)
@given(st.lists(st.fixed_dictionaries({"x": st.none() | st.lists(st.floats(-9, 9), max_size=4)}), max_size=8))
def test_it_makes_the_same_however_samples_are_cut(samples: list[Row]) -> None:
    assert_same_however_cut({"signal": {"field": "x", "coeffs": [0.5, 0.3, 0.2]}}, samples)


CHANNELS, FRAMES = 8, 256


def chain(*stages: dict[str, Any], **more: Any) -> Flow:
    """Two stages: numbers of an amplifier become volts, and go through a filter."""
    given = [
        {"signal": {"field": "eeg", "scale": 0.25}, "name": "volts"},
        {"signal": {"field": "eeg", "coeffs": [0.5, 0.3, 0.2]}, "name": "fir", "input": "volts"},
        *stages,
    ]
    return Flow(build(PipelineSettings.model_validate({"input_uri": "eeg.parquet", "stages": given, **more})))


def epochs(count: int, kind: Any = None) -> NDArray[Any]:
    raw = np.random.default_rng(5).integers(-3000, 3000, (count, CHANNELS, FRAMES))
    return raw.astype(kind or np.int16)


def as_columns(raw: NDArray[Any]) -> ArrowRows:
    lists = pa.array([list(epoch) for epoch in raw], pa.list_(pa.list_(pa.int16())))
    return ArrowRows(pa.record_batch({"epoch": range(len(raw)), "eeg": lists}))


def lot_of(rows: Rows) -> Lot:
    places = np.arange(len(rows), dtype=np.int64)
    return Lot(rows, places, places)


def memory_of(rows: Rows) -> NDArray[Any]:
    """The numbers of all channels of a lot of columns, over the same memory."""
    assert isinstance(rows, ArrowRows)
    column: Any = rows.batch.column(1)
    return numbers(column.flatten().flatten())


def convolved(raw: NDArray[Any]) -> NDArray[np.float64]:
    every = [np.convolve(channel * 0.25, [0.5, 0.3, 0.2])[:FRAMES] for epoch in raw for channel in epoch]
    return np.array(every).reshape(raw.shape)


def test_columns_that_the_stage_before_made_are_filtered_in_their_own_memory() -> None:
    raw = epochs(50)
    flow = chain()
    transit = flow.begin(lot_of(as_columns(raw)))
    flow.advance(transit, 1)
    volts = memory_of(transit.lots["volts.out"].rows)
    assert np.array_equal(volts, raw.ravel() * 0.25)

    made = memory_of(flow.rest(transit).lots["fir.out"].rows)

    assert made.ctypes.data == volts.ctypes.data
    assert len(made) == len(volts) == raw.size
    assert np.allclose(made, convolved(raw).ravel(), atol=1e-9)


@pytest.mark.parametrize("kind", [np.int16, np.float64])
def test_arrays_that_the_stage_before_made_are_filtered_in_their_own_memory(kind: Any) -> None:
    raw = epochs(20, kind)
    given = raw.copy()
    flow = chain()
    transit = flow.begin(lot_of(DictRows([{"eeg": epoch} for epoch in given])))
    flow.advance(transit, 1)
    volts = transit.lots["volts.out"].rows
    assert isinstance(volts, DictRows)
    channels = [channel for row in volts.rows for channel in row["eeg"]]

    made = flow.rest(transit).lots["fir.out"].rows

    assert isinstance(made, DictRows)
    assert all(a is b for a, b in zip(channels, (c for row in made.rows for c in row["eeg"]), strict=True))
    assert np.allclose([row["eeg"] for row in made.rows], convolved(raw), atol=1e-9)
    assert np.array_equal(given, raw), "the source's own numbers stay"


def test_filtering_in_place_takes_no_memory_for_the_numbers() -> None:
    flow = chain()
    transit = flow.begin(lot_of(as_columns(epochs(1000))))
    flow.advance(transit, 1)
    size = memory_of(transit.lots["volts.out"].rows).nbytes
    tracemalloc.start()
    try:
        flow.advance(transit, 2)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert size > 16_000_000
    assert taken < size / 8


def test_what_a_writer_gets_too_is_not_filtered_under_it() -> None:
    raw = epochs(30)
    flow = chain(writers=[{"name": "volts", "input": "volts"}, {"name": "fir", "input": "fir"}])

    passed = flow(lot_of(as_columns(raw)))

    assert np.array_equal(memory_of(passed.lots["volts.out"].rows), raw.ravel() * 0.25)
    assert np.allclose(memory_of(passed.lots["fir.out"].rows), convolved(raw).ravel(), atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(columns(), st.sampled_from(["float32", "float64"]), st.booleans())
def test_the_same_is_made_in_place_and_beside_it(given: tuple[Any, list[Any]], dtype: str, as_rows: bool) -> None:
    kind, values = given
    if kind == pa.list_(pa.float16()):
        values = [None if v is None else [None if i is None else np.float16(i) for i in v] for v in values]
    rows: Rows = ArrowRows(pa.record_batch({"x": pa.array(values, kind)}))
    rows = DictRows(decode(rows)[0]) if as_rows else rows
    options = {"field": "x", "scale": 0.1, "offset": 0.7, "dtype": dtype}
    first, second = stage_of({"signal": options}), stage_of({"signal": {**options, "coeffs": [0.3, -0.2, 0.7]}})
    made = first.process(StageBatch(rows, np.arange(len(rows), dtype=np.int64)))
    assert isinstance(made, Result)
    indices = np.arange(len(made.rows), dtype=np.int64)

    beside = second.process(StageBatch(made.rows, indices))
    assert isinstance(beside, Result)
    expected = [dump(row) for row in decode(beside.rows)[0]]
    there = second.process(StageBatch(made.rows, indices, mine=made.made))

    assert isinstance(there, Result)
    assert [dump(row) for row in decode(there.rows)[0]] == expected
