from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from support.tar_shards import encode, pipeline, probe_of, shard, tar_members, writer_for
from support.writer_contract import ShardWriterContract, arrow_rows, line_rows, pack_shard, raw_lines

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError, DataError
from data_bridge.model.batch import DictRows, Media, Row, Rows
from data_bridge.model.shards import Cursor, ShardRecord
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.samples import NEW_FIELDS, NONFINITE
from data_bridge.pipelines.webdataset import WebDatasetWriter
from data_bridge.pipelines.writer import ShardWriter


class TestTar(ShardWriterContract):
    def writer_class(self) -> type[ShardWriter]:
        return WebDatasetWriter

    def settings(self) -> PipelineSettings:
        return pipeline()


class TestTarGz(TestTar):
    def settings(self) -> PipelineSettings:
        return pipeline(output_format="tar.gz")


class TestTarZst(TestTar):
    def settings(self) -> PipelineSettings:
        return pipeline(output_format="tar.zst")


class TestOwnMembers(TestTar):
    def settings(self) -> PipelineSettings:
        return pipeline(members={"text": "txt", "id": "cls"})


class TestKeyField(TestTar):
    def settings(self) -> PipelineSettings:
        return pipeline(key_field="id")

    def bad_row(self) -> Row:
        return {"id": "no/slash", "text": "", "score": 1.0}


@pytest.mark.parametrize("key", ["a.b", "", "a b", "a/b", "ä", "a\n", "../x", "__k", "x" * 96])
@pytest.mark.parametrize("form", [DictRows, line_rows, arrow_rows])
def test_a_key_readers_would_misread_is_a_failure(key: str, form: Callable[[list[Row]], Rows]) -> None:
    rows: list[Row] = [{"id": "good", "v": 1}, {"id": key, "v": 2}, {"id": "also-good_1", "v": 3}]
    by_field = writer_for(rows, key_field="id")
    by_caller = writer_for(rows)

    for run in (encode(by_field, form(rows)), by_caller.encode(form(rows), [row["id"] for row in rows])):
        assert run.rows.tolist() == [0, 2]
        assert run.keys is None or list(run.keys) == ["good", "also-good_1"]
        assert [f.offset for f in run.failures] == [1]
        assert "key" in run.failures[0].reason


def test_the_longest_name_is_a_hundred_bytes(tmp_path: Path) -> None:
    key = "k" * 95

    path = tmp_path / "a.tar"
    rows = [{"id": key}]
    writer = writer_for(rows, key_field="id")
    pack_shard(writer, path, [encode(writer, DictRows(rows))])

    assert list(tar_members(path)) == [f"{key}.json"]
    assert writer.check(path) == 1


@pytest.mark.parametrize("value", [None, 1.5, True, [1]])
def test_a_key_that_is_no_text_or_whole_number_is_a_failure(value: object) -> None:
    run = encode(writer_for([{"id": 1}], key_field="id"), DictRows([{"id": value}, {}]))

    assert ["'id' is" in f.reason for f in run.failures] == [True, True]


def test_the_key_field_stays_in_the_sample_and_lines_stay_as_they_are(tmp_path: Path) -> None:
    line = b'{ "id" : "a",  "n": 1.50 }'
    writer = writer_for([{"id": "a", "n": 1.5}], key_field="id")

    pack_shard(writer, tmp_path / "a.tar", [encode(writer, raw_lines([line]))])

    assert tar_members(tmp_path / "a.tar") == {"a.json": line}


def test_a_key_of_an_earlier_run_stops_the_shard_before_readers_would_merge_samples(tmp_path: Path) -> None:
    writer = writer_for([{"id": 1}], key_field="id")
    first, second = (encode(writer, DictRows(rows)) for rows in ([{"id": 1}, {"id": 2}], [{"id": 3}, {"id": 1}]))
    writer.begin(tmp_path / "a.tar")
    writer.write(first, 0, 2)

    with pytest.raises(DataError, match=r"'1' .* twice"):
        writer.write(second, 0, 2)
    writer.abort()


def test_a_sample_that_lacks_a_member_is_a_failure_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    rows: list[Row] = [{"image": b"a", "text": "t", "n": 1}] * 3
    writer = writer_for(rows, members={"text": "txt"})
    run = encode(writer, DictRows([rows[0], {"image": b"a", "n": 1}, {**rows[0], "text": None}, rows[0]]))

    pack_shard(writer, tmp_path / "a.tar", [run])

    assert ["'text' is missing" in run.failures[0].reason, "'text' is null" in run.failures[1].reason] == [True, True]
    assert list(tar_members(tmp_path / "a.tar")) == [
        *("000000.bin", "000000.json", "000000.txt"),
        *("000003.bin", "000003.json", "000003.txt"),
    ]


def test_new_fields_pass_inside_json_and_are_counted() -> None:
    writer = writer_for([{"a": 1}])

    run = encode(writer, DictRows([{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"b": 1}]))

    assert run.failures == ()
    assert run.warned(0, 3) == {NEW_FIELDS: 3}
    assert run.warned(0, 2) == {NEW_FIELDS: 2}


def test_a_new_field_is_a_failure_where_no_member_holds_other_fields() -> None:
    writer = writer_for([{"__key__": "k", "jpg": b"x"}], key_field="__key__")

    run = encode(writer, DictRows([{"__key__": "a", "jpg": b"x"}, {"__key__": "b", "jpg": b"x", "txt": b"y"}]))

    assert [(f.offset, "'txt'" in f.reason) for f in run.failures] == [(1, True)]


def test_numbers_that_are_not_finite_become_null_and_are_counted(tmp_path: Path) -> None:
    rows = [{"f": float("nan"), "l": [float("inf"), 1.0]}, {"f": 1.0, "l": []}]
    schema = pa.schema([("f", pa.float64()), ("l", pa.list_(pa.float64()))])
    for form in (DictRows(rows), arrow_rows(rows, schema)):
        run = encode(writer_for(rows, schema), form)

        assert run.warned(0, 2) == {NONFINITE: 2}
        assert run.warned(1, 2) == {}
        assert b'{"f":null,"l":[null,1.0]}' in run.payload


def test_shard_names_and_the_list_of_shards() -> None:
    writer = writer_for([{"a": 1}], output_format="tar.gz")

    names = [writer.shard_name("", 7, 0, 6), writer.shard_name("00012-", 7, 0, 6), writer.shard_name("", 7, 1, 6)]

    assert names == ["000007.tar.gz", "00012-000007.tar.gz", "000007_1.tar.gz"]
    records = [
        ShardRecord(token="t", key=key, cursor=Cursor()) for key in ("000000.tar.gz", None, "train/000002.tar.gz")
    ]
    assert writer.indexes(records) == {"shards.txt": b"000000.tar.gz\n000002.tar.gz\n"}
    assert writer.indexes([]) == {"shards.txt": b""}


def test_zstd_shards_come_with_a_warning_about_readers() -> None:
    frozen = WebDatasetWriter.freeze(pipeline(output_format="tar.zst"), probe_of([{"a": 1}]))

    assert ["tar.zst" in warning for warning in frozen["warnings"]] == [True]
    assert "warnings" not in WebDatasetWriter.freeze(pipeline(), probe_of([{"a": 1}]))


def test_media_of_any_source_form_is_written_from_its_bytes(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [{"audio": Media(b"fLaC", "x/Y.FLAC"), "n": 1}])

    assert tar_members(path) == {"000000.flac": b"fLaC", "000000.json": b'{"n":1}'}


def test_two_columns_of_one_name_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="two fields named 'a'"):
        WebDatasetWriter.freeze(pipeline(), Probe((Field(name="a", type="int64"),) * 2, declared=True))
