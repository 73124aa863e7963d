"""Declared types bind in every source and format, or are refused at plan time."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from support.writer_contract import raw_lines

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import DictRows, Row
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.schema import apply
from data_bridge.pipelines.webdataset import WebDatasetWriter


def settings(schema: Mapping[str, str] | None, **more: Any) -> PipelineSettings:
    return PipelineSettings.model_validate({"input_uri": "x", "schema": schema, **more})


def observed(*rows: Row, types: Mapping[str, str] | None = None) -> Probe:
    names = types or {name: "json" for row in rows for name in row}
    return Probe(tuple(Field(name=n, type=t) for n, t in names.items()), declared=False, rows=list(rows))


def declared(**types: str) -> Probe:
    return Probe(tuple(Field(name=n, type=t) for n, t in types.items()), declared=True)


def types_of(probe: Probe) -> dict[str, str]:
    return {field.name: field.type for field in probe.fields}


def test_without_a_schema_the_probe_stays() -> None:
    probe = observed({"a": 1})

    assert apply(settings(None), probe, "jsonl") is probe


class TestJsonLines:
    def test_declared_types_take_the_place_of_observed_ones_and_fields_may_come_later(self) -> None:
        found = apply(settings({"a": "double", "late": "string"}), observed({"a": 1, "b": 2}), "jsonl")

        assert types_of(found) == {"a": "double", "b": "json", "late": "string"}
        assert not found.declared

    def test_a_type_that_no_value_fits_is_refused_with_the_first_reason(self) -> None:
        with pytest.raises(ConfigError, match=r"'a' fits int64: field 'a' is str"):
            apply(settings({"a": "int64"}), observed({"a": "1"}, {"a": None}), "jsonl")

    def test_a_type_that_some_values_fit_is_left_to_their_samples(self) -> None:
        assert types_of(apply(settings({"a": "int64"}), observed({"a": "1"}, {"a": 1}), "jsonl")) == {"a": "int64"}

    @pytest.mark.parametrize("kind", ["integer", "list<", "month_day_nano_interval"])
    def test_what_is_no_type_is_refused(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="'a'"):
            apply(settings({"a": kind}), observed({"a": 1}), "jsonl")


class TestSourcesThatDeclare:
    @pytest.mark.parametrize(
        ("own", "wanted"),
        [
            ("int32", "int64"),
            ("uint32", "int64"),
            ("int32", "double"),
            ("float", "float64"),
            ("large_string", "string"),
            ("list<int32>", "list<int64>"),
            ("null", "string"),
            ("struct<a: int64>", "json"),
            ("timestamp[us, tz=UTC]", "timestamp[us, tz=UTC]"),
            ("decimal128(10, 2)", "decimal128(10,2)"),
            ("media", "media"),
        ],
    )
    def test_a_type_without_loss_is_taken(self, own: str, wanted: str) -> None:
        assert types_of(apply(settings({"a": wanted}), declared(a=own, b="bool"), "parquet")) == {
            "a": wanted,
            "b": "bool",
        }

    @pytest.mark.parametrize(
        ("own", "wanted"),
        [
            ("int64", "int32"),
            ("int64", "double"),
            ("int64", "uint64"),
            ("uint64", "int64"),
            ("double", "float32"),
            ("string", "int64"),
            ("int64", "string"),
            ("list<int64>", "int64"),
            ("media", "binary"),
            ("timestamp[us]", "timestamp[ms]"),
        ],
    )
    def test_any_other_is_refused(self, own: str, wanted: str) -> None:
        with pytest.raises(ConfigError, match=r"'a' is .* in the source, not"):
            apply(settings({"a": wanted}), declared(a=own), "parquet")

    def test_a_field_that_is_not_there_is_refused_with_those_that_are(self) -> None:
        with pytest.raises(ConfigError, match="no field 'c'") as caught:
            apply(settings({"c": "int64"}), declared(a="int64", b="bool"), "arrow")

        assert "a, b" in caught.value.hint

    @pytest.mark.parametrize(
        ("source", "types", "hint"),
        [("csv", {"a": "string"}, "csv_types"), ("text", {"a": "string"}, "text"), ("tar", {"a": "binary"}, "bytes")],
    )
    def test_formats_that_give_text_or_bytes_say_what_to_do(
        self, source: str, types: dict[str, str], hint: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            apply(settings({"a": "int64"}), observed(types=types), source)

        assert hint in caught.value.hint

    def test_a_csv_column_may_be_declared_as_it_is_read(self) -> None:
        probe = observed(types={"id": "int64", "t": "string"})

        assert types_of(apply(settings({"id": "int64", "t": "string"}), probe, "csv")) == {"id": "int64", "t": "string"}


class TestTarShards:
    LINES: Sequence[bytes] = (
        b'{"n":1,  "t":"a"}',
        b'{"n":"1","t":"a"}',
        b'{"t":"a"}',
        b'{"n":null,"t":"a","more":[1]}',
        b'{"n":1.5,"t":"a"}',
    )

    def writer(self, schema: Mapping[str, str], **more: Any) -> WebDatasetWriter:
        options = settings(schema, **more)
        probe = apply(options, observed({"n": 1, "t": "a"}), "jsonl")
        return WebDatasetWriter(options, WebDatasetWriter.freeze(options, probe))

    def test_a_sample_that_does_not_fit_fails_by_its_field(self) -> None:
        run = self.writer({"n": "int64"}).encode(raw_lines(self.LINES), [f"{i}" for i in range(5)])

        assert run.rows.tolist() == [0, 2, 3]
        assert [(f.offset, f.raw) for f in run.failures] == [(1, self.LINES[1]), (4, self.LINES[4])]
        assert "'n' is str, not int64" in run.failures[0].reason
        assert "'n' is float, not int64" in run.failures[1].reason

    def test_the_same_holds_for_members_of_their_own_and_for_dictionaries(self) -> None:
        writer = self.writer({"n": "int64"}, members={"n": "txt"})
        run = writer.encode(DictRows([{"n": 1, "t": "a"}, {"n": "x", "t": "a"}]), ["a", "b"])

        assert run.rows.tolist() == [0]
        assert "'n' is str, not int64" in run.failures[0].reason

    def test_a_plan_made_with_a_schema_is_loaded_with_it(self) -> None:
        options = settings({"n": "int64"})
        frozen = WebDatasetWriter.freeze(options, observed({"n": 1}))

        assert frozen["types"] == {"n": "int64"}
        assert "types" not in WebDatasetWriter.freeze(settings(None), observed({"n": 1}))
