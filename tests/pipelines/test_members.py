import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Media, Row
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.content import member_bytes
from data_bridge.pipelines.members import Layout, freeze, split
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.magic import file_kind

JPEG, PNG = b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\n\x1a\nrest"


def frozen(types: dict[str, str], rows: Sequence[Row] = (), *, declared: bool = True, **options: Any) -> dict[str, Any]:
    fields = tuple(Field(name=name, type=kind) for name, kind in types.items())
    found = freeze(PipelineSettings(input_uri="in", **options), Probe(fields, declared, list(rows)))
    assert json.loads(json.dumps(found)) == found
    return found


def members(types: dict[str, str], rows: Sequence[Row] = (), **options: Any) -> dict[str, str]:
    found: dict[str, str] = frozen(types, rows, **options)["members"]
    return found


def test_plain_fields_share_one_json_member() -> None:
    found = frozen({"id": "int64", "text": "string", "tags": "list<item: binary>", "s": "struct<bytes: binary>"})

    assert (found["members"], found["rest"]) == ({}, "json")


def test_a_source_without_known_fields_gets_a_json_member() -> None:
    assert frozen({}, declared=False)["rest"] == "json"


@pytest.mark.parametrize(
    ("value", "extension"),
    [
        (Media(PNG, "photos/A.JPG"), "jpg"),
        (Media(PNG, "a.b/noext"), "png"),
        (Media(JPEG, "weird.ex t"), "jpg"),
        (Media(JPEG, "x.waytoolongext"), "jpg"),
        (Media(b"?", ""), "bin"),
        (Media(b"?", "clip.flac"), "flac"),
        (JPEG, "jpg"),
        (b"", "bin"),
        (None, "bin"),
    ],
)
def test_the_extension_is_that_of_the_path_else_of_the_content(value: object, extension: str) -> None:
    assert members({"pic": "media", "n": "int64"}, [{"pic": value}]) == {"pic": extension}
    assert members({"pic": "large_binary", "n": "int64"}, [{"pic": value}]) == {"pic": extension}


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "fixed_size_binary[16]", "media"])
def test_every_binary_type_is_a_member(kind: str) -> None:
    found = frozen({"blob": kind})

    assert (found["members"], found["rest"]) == ({"blob": "bin"}, None)


def test_observed_fields_are_members_when_every_value_seen_is_a_file() -> None:
    rows: list[Row] = [{"a": None, "b": b"x", "c": Media(b"y")}, {"a": b"x", "b": 1, "c": None}]

    assert members({"a": "json", "b": "json", "c": "json"}, rows, declared=False) == {"a": "bin", "c": "c.bin"}


def test_the_first_file_seen_decides_and_mixed_kinds_are_told() -> None:
    found = frozen({"pic": "binary"}, [{"pic": PNG}, {"pic": JPEG}])

    assert found["members"] == {"pic": "png"}
    assert "png and jpg" in found["warnings"][0]


def test_nulls_seen_in_a_member_are_told() -> None:
    assert "null in 1 of the first 2" in frozen({"pic": "binary"}, [{"pic": PNG}, {"pic": None}])["warnings"][0]


def test_a_second_field_of_one_kind_is_named_after_its_field() -> None:
    found = members({"image": "media", "My Thumb": "media", "my_thumb": "media", "_": "media"},
                    [dict.fromkeys(["image", "My Thumb", "my_thumb", "_"], Media(JPEG))])  # fmt: skip

    assert found == {"image": "jpg", "My Thumb": "my_thumb.jpg", "my_thumb": "my_thumb2.jpg", "_": "field.jpg"}


def test_members_of_a_tar_source_keep_their_names() -> None:
    names = ["jpg", "json", "seg.png", "image", "input_ids.npy", "txt"]
    rows: list[Row] = [{"__key__": "k", **dict.fromkeys(names, b"{}")}]

    found = frozen({"__key__": "string", **dict.fromkeys(names, "binary")}, rows, declared=False)

    assert found["members"] == {name: name for name in names}
    assert (found["rest"], found["drop"]) == (None, ["__key__"])


def test_names_of_a_tar_source_that_are_unfit_are_tamed() -> None:
    found = members(
        {"__key__": "string", "JPG": "binary", "a b": "binary"}, [{"JPG": JPEG, "a b": PNG}], declared=False
    )

    assert found == {"JPG": "jpg", "a b": "png"}


def test_a_binary_column_named_like_an_extension_keeps_it_and_others_do_not() -> None:
    assert members({"png": "binary", "image": "binary"}, [{"png": JPEG, "image": JPEG}]) == {
        "png": "png",
        "image": "jpg",
    }


@pytest.mark.parametrize("name", ["cls", "id", "index", "inx", "cls2", "a.cls"])
def test_integer_extensions_are_only_for_whole_numbers(name: str) -> None:
    fields = {"__key__": "string", name: "binary"}

    assert members(fields, [{name: b"12\n"}], declared=False) == {name: name}
    found = frozen(fields, [{name: b"12"}, {name: b"cat"}], declared=False)
    assert found["members"] == {name: f"{name}.bin"}
    assert name in found["warnings"][0]


def test_a_file_extension_that_means_a_number_is_tamed_too() -> None:
    assert members({"f": "media"}, [{"f": Media(b"xyz", "a.id")}]) == {"f": "id.bin"}


def test_the_json_of_other_fields_makes_room_for_a_member_of_that_name() -> None:
    fields = {"json": "binary", "n": "int64"}

    found = frozen(fields, [{"json": b"{}", "n": 1}])

    assert (found["members"], found["rest"]) == ({"json": "json"}, "fields.json")


def test_a_file_that_is_json_leaves_the_json_member_to_the_other_fields() -> None:
    found = frozen({"doc": "binary", "n": "int64"}, [{"doc": b'{"a": 1}', "n": 1}])

    assert (found["members"], found["rest"]) == ({"doc": "doc.json"}, "json")


def test_the_config_decides_before_the_data() -> None:
    rows: list[Row] = [{"image": JPEG, "thumb": JPEG, "caption": "x", "label": 3, "meta": {"a": 1}}]
    types = {"image": "binary", "thumb": "binary", "caption": "string", "label": "int64", "meta": "json"}

    found = frozen(types, rows, members={"thumb": ".jpg", "caption": "txt", "label": "cls"})

    assert found["members"] == {"thumb": "jpg", "caption": "txt", "label": "cls", "image": "image.jpg"}
    assert found["rest"] == "json"


def test_an_entry_that_does_not_exist_is_a_config_error_with_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.members names the field 'captoin'") as caught:
        frozen({"caption": "string", "id": "int64"}, members={"captoin": "txt"})
    assert "did you mean 'caption'" in caught.value.hint

    with pytest.raises(ConfigError, match=r"pipeline\.key_field names the field 'key'"):
        frozen({"caption": "string"}, key_field="key")


@pytest.mark.parametrize("extension", ["", ".", "a b", "a/b", "ä", "../x", "a..b", "_x", "x" * 60])
def test_an_unfit_extension_is_a_config_error(extension: str) -> None:
    with pytest.raises(ConfigError, match="no member extension"):
        frozen({"a": "string"}, members={"a": extension})


@pytest.mark.parametrize(
    ("value", "extension"), [("a cat", "cls"), (1.5, "id"), ("x", "jpg"), ([1, "a"], "npy"), ([1], "txt"), ({}, "txt")]
)
def test_an_extension_the_values_do_not_fit_is_a_config_error_naming_the_field(value: object, extension: str) -> None:
    with pytest.raises(ConfigError, match="the field 'a' cannot be a"):
        frozen({"a": "json"}, [{"a": None}, {"a": value}], members={"a": extension})


@pytest.mark.parametrize(
    ("value", "extension", "content"),
    [
        ("žluť", "txt", "žluť".encode()),
        (5, "txt", b"5"),
        (5, "cls", b"5"),
        (True, "cls", b"1"),
        (True, "txt", b"true"),
        ("17", "id", b"17"),
        (np.int8(4), "index", b"4"),
        (b"\xff\x00", "txt", b"\xff\x00"),
        (b"raw", "json", b"raw"),
        ({"a": [1]}, "json", b'{"a":[1]}'),
        ("text", "json", b'"text"'),
        ([1, 2], "meta.json", b"[1,2]"),
        (Media(JPEG, "x"), "jpg", JPEG),
        (memoryview(b"ab"), "bin", b"ab"),
    ],
)
def test_the_content_follows_from_value_and_extension(value: object, extension: str, content: bytes) -> None:
    assert member_bytes(value, extension) == content


def test_lists_become_arrays_in_npy_members() -> None:
    for value in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]).T.copy().T):
        assert np.load(io.BytesIO(member_bytes(value, "npy"))).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("value", "extension"), [("\ud800", "txt"), (b"1.0", "cls"), ([[1], [1, 2]], "npy"), (None, "txt")]
)
def test_content_that_does_not_fit_says_why(value: object, extension: str) -> None:
    with pytest.raises(BadRow):
        member_bytes(value, extension)


def test_a_row_is_split_into_members_and_the_rest() -> None:
    layout = Layout.load(frozen({"a": "binary", "b": "int64"}, declared=False))

    assert split(layout, {"b": 1, "a": b"x", "c": 2}) == ({"bin": b"x"}, {"b": 1, "c": 2}, 1)
    assert layout.order == ("bin", "json")


def test_frozen_members_do_not_depend_on_the_order_of_stored_keys() -> None:
    found = frozen({"a": "binary", "b": "binary", "c": "int64"}, [{"a": JPEG, "b": PNG}])
    stored = json.loads(json.dumps(found, sort_keys=True))

    assert Layout.load(stored).order == Layout.load(found).order == ("jpg", "json", "png")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (JPEG, "jpg"),
        (PNG, "png"),
        (b"GIF89a", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "wav"),
        (b"RIFF\x00\x00\x00\x00????", None),
        (b"BM\x00\x01\x00\x00\x00\x00\x00\x00", "bmp"),
        (b"BMW is a car", None),
        (b"II*\x00", "tiff"),
        (b"fLaC", "flac"),
        (b"ID3\x04", "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"OggS", "ogg"),
        (b"\x00\x00\x00\x20ftypisom", "mp4"),
        (b"\x00\x00\x00\x20ftypM4A ", "m4a"),
        (b"\x93NUMPY", "npy"),
        (b"%PDF-1.7", "pdf"),
        (b'[{"a": 1}]', "json"),
        (b"{not json", None),
        (b"", None),
        (b"plain text", None),
    ],
)
def test_files_are_known_by_their_first_bytes(start: bytes, kind: str | None) -> None:
    assert file_kind(start) == kind


@pytest.mark.parametrize("declared", [True, False])
def test_a_field_called_key_is_data_where_the_source_is_no_tar(declared: bool) -> None:
    fields = (Field(name="__key__", type="string"), Field(name="n", type="int64"))
    found = freeze(PipelineSettings(input_uri="x"), Probe(fields, declared, [{"__key__": "a", "n": 1}]))

    assert (found["members"], found["rest"], found["drop"]) == ({}, "json", [])
