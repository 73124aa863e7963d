from typing import Any

import pytest
from support.litdata_chunks import ROW, declared, frozen, kinds, observed

from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media, Row
from data_bridge.model.source import Field, Probe

LEAVES = {
    "id": ("int", "int64"),
    "ok": ("bool", "bool"),
    "x": ("float", "float64"),
    "text": ("str", "string"),
    "tokens": ("numpy", "int64"),
    "weights": ("numpy", "float64"),
}


class TestWhichLayout:
    def test_plain_leaves_are_classic(self) -> None:
        found = frozen(observed([ROW, ROW]))

        assert (found["layout"], kinds(found), found["warnings"]) == ("classic", LEAVES, [])

    @pytest.mark.parametrize(
        ("value", "leaf"),
        [
            (None, ("json", "string")),
            (b"\x00", ("bytes", "binary")),
            (Media(b"\xff\xd8", "a.jpg"), ("bytes", "binary")),
            ({"a": 1, "b": ["c"]}, ("tree", "struct<a: int64, b: list<string>>")),
            ([[1], [2, 3]], ("tree", "list<list<int64>>")),
            ([1, None], ("tree", "list<int64>")),
            (["a"], ("tree", "list<string>")),
            ([1, "a"], ("json", "string")),
            ([], ("json", "string")),
            ({}, ("json", "string")),
            (2**63, ("json", "string")),
        ],
    )
    def test_anything_else_is_arrow_and_says_which_field(self, value: Any, leaf: tuple[str, str]) -> None:
        found = frozen(observed([{"id": 1, "other": value}]))

        assert found["layout"] == "arrow"
        assert kinds(found) == {"id": ("int", "int64"), "other": leaf}
        assert "'other'" in found["warnings"][0]
        assert "0.2.74" in found["warnings"][0]

    def test_a_field_that_is_missing_somewhere_is_arrow(self) -> None:
        found = frozen(observed([{"id": 1, "text": "a"}, {"id": 2}]))

        assert found["layout"] == "arrow"
        assert kinds(found)["text"] == ("str", "string")

    def test_declared_types_bind(self) -> None:
        types = {
            "a": "int32",
            "b": "float32",
            "c": "list<int32>",
            "d": "list<float16>[4]",
            "e": "uint8",
            "f": "list<bool>",
        }

        found = frozen(declared(types, [{"a": 1, "b": 0.5, "c": [1], "d": [0.5] * 4, "e": 3, "f": [True]}]))

        assert found["layout"] == "classic"
        assert kinds(found) == {
            "a": ("int", "int64"),
            "b": ("float", "float64"),
            "c": ("numpy", "int32"),
            "d": ("numpy", "float16"),
            "e": ("int", "int64"),
            "f": ("numpy", "bool"),
        }

    @pytest.mark.parametrize(
        ("kind", "leaf"),
        [
            ("timestamp[us, tz=UTC]", ("text", "string")),
            ("decimal128(10, 2)", ("text", "string")),
            ("date32[day]", ("text", "string")),
            ("media", ("bytes", "binary")),
            ("fixed_size_binary[16]", ("bytes", "binary")),
            ("map<string, int32>", ("tree", "list<struct<key: string, value: int32>>")),
            ("struct<a: int64, b: list<item: timestamp[s] not null>>", ("tree", "struct<a: int64, b: list<string>>")),
            ("list<struct<a: int8>>", ("tree", "list<struct<a: int8>>")),
            ("month_day_nano_interval", ("json", "string")),
            ("no such type", ("json", "string")),
        ],
    )
    def test_declared_types_without_a_classic_leaf_are_arrow(self, kind: str, leaf: tuple[str, str]) -> None:
        found = frozen(declared({"id": "int32", "other": kind}))

        assert found["layout"] == "arrow"
        assert kinds(found) == {"id": ("int", "int32"), "other": leaf}

    def test_a_declared_nullable_field_without_nulls_is_classic(self) -> None:
        assert frozen(declared({"id": "int64"}, [{"id": 1}]))["layout"] == "classic"
        assert frozen(declared({"id": "int64"}, [{"id": 1}, {"id": None}]))["layout"] == "arrow"

    def test_classic_by_option_refuses_what_it_cannot_hold(self) -> None:
        with pytest.raises(ConfigError, match="'meta'") as caught:
            frozen(observed([{"id": 1, "meta": {"a": 1}}]), litdata_layout="classic")

        assert "litdata_layout" in caught.value.hint

    def test_classic_by_option_takes_bytes_and_warns_of_memoryview(self) -> None:
        found = frozen(observed([{"id": 1, "jpg": b"\xff\xd8"}]), litdata_layout="classic")

        assert kinds(found)["jpg"] == ("bytes", "binary")
        assert "'jpg'" in found["warnings"][0]
        assert "memoryview" in found["warnings"][0]

    def test_whole_compressed_chunks_come_with_a_warning_of_readers_that_replace_them(self) -> None:
        assert "local:" in frozen(observed([ROW]), compression="zstd")["warnings"][0]
        assert frozen(observed([ROW]), compression="zstd", litdata_layout="arrow")["warnings"] == []

    def test_the_schema_of_the_config_binds_before_what_is_observed(self) -> None:
        rows: list[Row] = [{"x": 1, "v": [1, 2], "meta": {"a": 1}}]

        found = frozen(observed(rows), schema={"x": "float64", "v": "list<float32>", "meta": "json", "late": "string"})

        assert found["layout"] == "arrow"
        assert kinds(found) == {
            "x": ("float", "float64"),
            "v": ("tree", "list<float32>"),
            "meta": ("json", "string"),
            "late": ("str", "string"),
        }

    def test_a_schema_of_unreadable_types_is_refused_by_name(self) -> None:
        with pytest.raises(ConfigError, match=r"'integer' for field 'x'"):
            frozen(observed([{"x": 1}]), schema={"x": "integer"})

    def test_two_fields_of_one_name_are_refused(self) -> None:
        twice = Probe((Field(name="a", type="int64"), Field(name="a", type="string")), declared=True)
        with pytest.raises(ConfigError, match="'a'"):
            frozen(twice)


class TestWhatALayoutCannotHold:
    def test_uint64_goes_to_the_arrow_layout_unless_the_config_says_otherwise(self) -> None:
        probe = declared({"n": "uint64"}, [{"n": 1}])

        assert (frozen(probe)["layout"], kinds(frozen(probe))) == ("arrow", {"n": ("int", "uint64")})
        assert kinds(frozen(probe, litdata_layout="classic")) == {"n": ("int", "int64")}

    def test_a_type_deeper_than_arrow_files_allow_is_stored_as_json(self) -> None:
        value: object = 1
        for _ in range(60):
            value = {"a": value}

        assert kinds(frozen(observed([{"deep": value}]))) == {"deep": ("json", "string")}
