import pytest
from support.folders import PNG, metadata, named, read, remote
from support.source_contract import good

from data_bridge.errors import ConfigError, SourceError
from data_bridge.model.batch import Media
from data_bridge.model.source import SourceFile


class TestNames:
    def test_names_are_relative_to_the_deepest_common_folder(self) -> None:
        assert named("/data/x/a.png", "/data/x/b/c.png", "/data/x/b/d/e.png") == ["a.png", "b/c.png", "b/d/e.png"]
        assert named("/data/x/a.png") == ["a.png"]
        assert named("/data/ab/x.png", "/data/a/y.png") == ["ab/x.png", "a/y.png"]
        assert named() == []

    def test_two_buckets_and_two_schemes_stay_apart(self) -> None:
        assert named("s3://one/a.png", "s3://two/a.png") == ["one/a.png", "two/a.png"]
        assert named("s3://one/a.png", "r2://one/a.png") == ["s3://one/a.png", "r2://one/a.png"]

    def test_signatures_of_presigned_urls_never_get_into_names(self) -> None:
        urls = [f"https://host/set/{n}.png?X-Amz-Signature=s3cret/x" for n in ("a%20b", "c/d")]

        assert named(*urls) == ["a b.png", "c/d.png"]

    def test_question_marks_in_object_keys_are_kept(self) -> None:
        assert named("s3://one/a?.png", "s3://one/b#.png") == ["a?.png", "b#.png"]

    def test_the_field_goes_by_the_extension_and_mixed_kinds_are_files(self) -> None:
        def field(*names: str) -> list[str]:
            _, files = remote({f"s3://b/{name}": b"x" for name in names})
            return [file.extra["field"] for file in files]

        assert field("a.JPG", "b.webp") == ["image", "image"]
        assert field("a.flac") == ["audio"]
        assert field("a.mp4") == ["video"]
        assert field("a.bin", "b") == ["file", "file"]
        assert field("a.png", "b.wav") == ["file", "file"]

    def test_a_flat_folder_has_no_labels(self) -> None:
        reader, files = remote({"s3://b/set/a.png": PNG, "s3://b/set/b.png": PNG})

        assert read(reader, files)[0] == {"path": "a.png", "image": Media(PNG, "a.png")}

    def test_a_file_beside_the_class_folders_has_a_null_label(self) -> None:
        reader, files = remote({"s3://b/cat/a.png": PNG, "s3://b/x.png": PNG, "s3://b/train/dog/c.png": PNG})

        assert [row["label"] for row in good(read(reader, files))] == ["cat", None, "dog"]
        assert [(f.name, f.type, f.nullable) for f in reader.probe(files).fields] == [
            ("path", "string", False),
            ("image", "media", False),
            ("label", "string", True),
        ]


class TestMetadata:
    def test_json_rows_join_their_files_by_name(self) -> None:
        rows = metadata({"file_name": "b.png", "caption": "two", "n": 2}, {"file_name": "sub/a.png", "box": [1, 2]})
        reader, files = remote({"s3://b/b.png": PNG, "s3://b/metadata.jsonl": rows, "s3://b/sub/a.png": PNG})

        every = read(reader, files)

        assert every == [
            {"path": "b.png", "image": Media(PNG, "b.png"), "caption": "two", "n": 2, "box": None},
            {"path": "sub/a.png", "image": Media(PNG, "sub/a.png"), "caption": None, "n": None, "box": [1, 2]},
        ]
        assert [(f.name, f.type, f.nullable) for f in reader.probe(files).fields[2:]] == [
            ("caption", "string", True),
            ("n", "int64", True),
            ("box", "list<int64>", True),
        ]

    def test_a_file_without_a_row_has_nulls(self) -> None:
        rows = metadata({"file_name": "a.png", "caption": "one"})
        reader, files = remote({"s3://b/a.png": PNG, "s3://b/b.png": PNG, "s3://b/metadata.jsonl": rows})

        assert [row["caption"] for row in good(read(reader, files))] == ["one", None]

    def test_csv_columns_become_numbers_where_all_cells_are(self) -> None:
        text = (
            "\ufefffile_name,n,x,id,big,zip\r\n"
            'a.png,1,0.5,"a, ""b""\u2028c",123456789012345678901,00501\r\nb.png,,2,,1.5,10001\r\n'
        )
        reader, files = remote({"s3://b/a.png": PNG, "s3://b/b.png": PNG, "s3://b/metadata.csv": text.encode()})

        first, second = good(read(reader, files))

        assert list(first.values())[2:] == [1, 0.5, 'a, "b"\u2028c', "123456789012345678901", "00501"]
        assert list(second.values())[2:] == [None, 2.0, None, "1.5", "10001"]
        assert isinstance(second["x"], float)

    def test_each_folder_may_have_its_own_metadata(self) -> None:
        contents = {
            "s3://b/test/a.png": PNG,
            "s3://b/test/metadata.jsonl": metadata({"file_name": "a.png", "t": "test"}),
            "s3://b/train/a.png": PNG,
            "s3://b/train/metadata.csv": b"file_name,t\na.png,train\n",
        }
        reader, files = remote(contents)

        assert [(row["path"], row["t"]) for row in good(read(reader, files))] == [
            ("test/a.png", "test"),
            ("train/a.png", "train"),
        ]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("metadata.jsonl", metadata({"file_name": "a.png"}, {"file_name": "no.png"}), "line 2 names 'no.png'"),
            ("metadata.jsonl", metadata({"file_name": "../a.png"}), "line 1 names '../a.png'"),
            (
                "metadata.jsonl",
                metadata({"file_name": "a.png"}, {"file_name": "./a.png"}),
                "line 2 describes './a.png' a second",
            ),
            ("metadata.jsonl", metadata({"file": "a.png"}), "line 1 has no text in 'file_name'"),
            ("metadata.jsonl", metadata({"file_name": "a.png", "image": 1}), "line 1 has a column 'image'"),
            ("metadata.jsonl", b'{"file_name": "a.png"}\n{"file', "line 2 is not JSON"),
            ("metadata.jsonl", b"[1]\n", "line 1 is not an object"),
            ("metadata.csv", b"file_name,x\na.png\n", "line 2 has 1 fields, the header 2"),
            ("metadata.csv", b"file_name,x,x\na.png,1,2\n", "line 1 names a column twice"),
            ("metadata.csv", b"file_name,x\nb.png,1\n", "line 2 names 'b.png'"),
            ("metadata.csv", b"file_name,x\n\xff,1\n", "cannot be read as CSV"),
            ("metadata.csv", b'file_name,x\na.png,"1', "cannot be read as CSV"),
        ],
    )
    def test_a_bad_metadata_file_is_an_error_that_names_the_line(self, name: str, content: bytes, message: str) -> None:
        with pytest.raises(SourceError) as caught:
            remote({"s3://b/a.png": PNG, f"s3://b/{name}": content})

        assert caught.value.message.startswith(f"s3://b/{name}")
        assert message in caught.value.message
        assert caught.value.hint

    def test_metadata_without_files_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="holds none"):
            remote({"s3://b/metadata.jsonl": metadata({"a": 1})})

    def test_what_prepare_found_survives_the_plan(self) -> None:
        rows = metadata({"file_name": "a.png", "caption": "ü", "box": [1.5]})
        reader, files = remote({"s3://b/a.png": PNG, "s3://b/metadata.jsonl": rows})

        again = [SourceFile.model_validate_json(file.model_dump_json()) for file in files]

        assert read(reader, again) == read(reader, files)
