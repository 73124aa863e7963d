from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows, DictRows, Row
from data_bridge.model.source import Field
from data_bridge.rows.decoding import decode
from data_bridge.rows.values import dump
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
