from typing import Any

import pyarrow as pa
import pytest

from data_bridge.errors import ConfigError
from data_bridge.model.batch import ArrowRows
from data_bridge.model.source import Field
from data_bridge.runtime.stage import StageBatch
from data_bridge.testing import StageContract, run_stage, stage_of

SAMPLES: list[dict[str, Any]] = [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": "y", "c": [1.5]}, {"b": "z", "a": 3}]
FIELDS = (Field(name="a", type="int64"), Field(name="b", type="string"), Field(name="c", type="list<double>"))


def names(config: dict[str, Any]) -> list[str]:
    told = stage_of(config).fields(FIELDS)
    assert told is not None
    return [field.name for field in told]


class TestSelect(StageContract):
    kind = "select"
    options = {"fields": ["c", "a"]}
    samples = SAMPLES
    refused = [{}, {"fields": []}, {"fields": ["a", "a"]}, {"fields": ["d"]}, {"fields": ["a"], "more": 1}]

    def test_it_keeps_the_named_fields_in_the_order_named(self) -> None:
        made = run_stage(self.config(), self.samples).samples

        assert [list(row.items()) for row in made] == [[("c", None), ("a", 1)], [("c", [1.5]), ("a", 2)], [("a", 3)]]
        assert names(self.config()) == ["c", "a"]


class TestDrop(StageContract):
    kind = "drop"
    options = {"fields": ["b"]}
    samples = SAMPLES
    refused = [{}, {"fields": []}, {"fields": ["B"]}, {"fields": ["a", "b", "c"]}]

    def test_it_leaves_out_the_named_fields(self) -> None:
        assert run_stage(self.config(), self.samples).samples == [{"a": 1, "c": None}, {"a": 2, "c": [1.5]}, {"a": 3}]
        assert names(self.config()) == ["a", "c"]


class TestRename(StageContract):
    kind = "rename"
    options = {"fields": {"a": "b", "b": "a"}}
    samples = SAMPLES
    refused = [{}, {"fields": {}}, {"fields": {"a": "x", "b": "x"}}, {"fields": {"a": "b"}}, {"fields": {"d": "e"}}, {"fields": {"a": ""}}]  # fmt: skip

    def test_names_may_be_swapped_and_fields_stay_in_their_places(self) -> None:
        made = run_stage(self.config(), self.samples[:1]).samples

        assert list(made[0].items()) == [("b", 1), ("a", "x"), ("c", None)]
        assert names(self.config()) == ["b", "a", "c"]

    def test_a_name_that_only_one_sample_has_already_is_its_failure(self) -> None:
        run = run_stage({"rename": {"fields": {"a": "d"}}}, [{"a": 1}, {"a": 2, "d": 3}])

        assert run.samples == [{"d": 1}]
        assert run.reasons == {1: "there is a field 'd' already"}


@pytest.mark.parametrize("config", [{"select": {"fields": ["x"]}}, {"drop": {"fields": ["y"]}}, {"rename": {"fields": {"x": "z"}}}])  # fmt: skip
def test_columns_are_chosen_without_being_read(config: dict[str, Any]) -> None:
    import numpy as np

    batch = pa.record_batch({"x": pa.array([1, 2]), "y": pa.array(["a", "b"])})

    made = stage_of(config).process(StageBatch(ArrowRows(batch), np.arange(2, dtype=np.int64)))

    assert not isinstance(made, dict)
    assert isinstance(made.rows, ArrowRows)  # type: ignore[union-attr]
    assert made.rows.batch.column(0).buffers()[1].address == batch.column(0).buffers()[1].address  # type: ignore[union-attr]


def test_the_hint_names_the_field_that_was_meant() -> None:
    with pytest.raises(ConfigError) as refused:
        stage_of({"select": {"fields": ["txt"]}}).fields((Field(name="text", type="string"),))

    assert "did you mean 'text'?" in refused.value.hint


def test_where_nothing_is_known_of_the_fields_nothing_is_refused() -> None:
    assert stage_of({"select": {"fields": ["text"]}}).fields(()) == ()
