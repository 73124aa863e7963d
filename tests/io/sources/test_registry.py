"""Formats by name and by extension, and options only where they mean something."""

from pathlib import Path
from typing import Any

import pytest

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import ConfigError
from data_bridge.io.sources import registry
from data_bridge.io.sources.csv import Csv, Tsv
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

CHANGED: dict[str, Any] = {
    "split": "train",
    "config": "en",
    "revision": "main",
    "load_kwargs": {"trust": 1},
    "streaming": "always",
    "columns": ("a",),
    "delimiter": ";",
    "header": False,
    "quotes": False,
    "csv_types": {"a": "int64"},
    "text_field": "line",
    "keep_empty_lines": True,
    "arguments": {"a": 1},
}


def transport(uri: str | tuple[str, ...] = "data") -> Transport:
    return Transport(Settings(pipeline=PipelineSettings(input_uri=uri)))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("s3://b/a.JSON.zst", "jsonl"),
        ("a.csv.bz2", "csv"),
        ("a.tsv", "tsv"),
        ("a.parquet", "parquet"),
        ("a.pq", "parquet"),
        ("a.arrow", "arrow"),
        ("a.feather", "arrow"),
        ("a.ipc", "arrow"),
        ("a.txt.xz", "text"),
        ("a.text", "text"),
        ("a.tar", "tar"),
        ("a.tar.gz", "tar"),
        ("a.tgz", "tar"),
        ("a.tar.zst", "tar"),
        ("https://host/a.parquet?X-Amz-Signature=a.csv", "parquet"),
        ("photo.jpg", "files"),
        ("noise.flac", "files"),
        ("no-extension", "files"),
        ("data.gz", "files"),
        ("hf://org/name", "huggingface"),
        ("hf://datasets/org/name@main", "huggingface"),
        ("hf://datasets/org/name@main/train.csv", "csv"),
    ],
)
def test_the_format_goes_by_the_extension_under_any_compression(uri: str, name: str) -> None:
    assert registry.detect([SourceFile(uri=uri)]) == name
    assert registry.detect([uri, uri]) == name


def test_a_mixture_of_formats_is_refused_with_two_examples_and_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"x/a\.jsonl is jsonl, x/c\.parquet is parquet") as caught:
        registry.detect(["x/a.jsonl", "x/b.jsonl.gz", "x/c.parquet"])

    assert "input_format" in caught.value.hint


def test_a_refused_mixture_shows_no_signature() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.detect(["https://host/a.csv?sig=secret", "https://host/b.tar?sig=secret"])

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(registry.FORMATS))
def test_every_format_of_the_table_exists_and_bears_its_name(name: str) -> None:
    reader = registry.make(name, SourceOptions(), transport())

    assert reader.name == name
    assert isinstance(reader.counted, bool)


@pytest.mark.parametrize("key", sorted(CHANGED))
@pytest.mark.parametrize("name", sorted(registry.FORMATS))
def test_an_option_is_used_or_refused_by_name(name: str, key: str) -> None:
    options = SourceOptions(**{key: CHANGED[key]})
    if key in registry._OPTIONS[name]:
        assert registry.make(name, options, transport()).name == name
        return

    with pytest.raises(ConfigError, match=rf"source_options\.{key} does not apply to {name}") as caught:
        registry.make(name, options, transport())
    assert "it is for" in caught.value.hint


def test_every_source_option_belongs_to_some_format() -> None:
    used = {key for keys in registry._OPTIONS.values() for key in keys}

    assert used == set(SourceOptions.model_fields) == set(CHANGED)


def test_files_of_a_hub_dataset_may_carry_the_options_that_found_them() -> None:
    options = SourceOptions(split="train", revision="main")

    assert registry.make("parquet", options, transport("hf://org/name")).name == "parquet"
    with pytest.raises(ConfigError, match=r"source_options\.delimiter"):
        registry.make("parquet", SourceOptions(delimiter=";"), transport("hf://org/name"))


def test_an_unknown_format_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="unknown format 'parqet', did you mean 'parquet'"):
        registry.make("parqet", SourceOptions(), transport())


def test_a_third_party_adds_a_format_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thirdparty.py").write_text(
        "from data_bridge.io.sources.jsonl import Jsonl\nclass Logs(Jsonl):\n    name = 'logs'\n"
    )
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[data_bridge.sources]\nlogs = thirdparty:Logs\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert registry.make("logs", SourceOptions(), transport()).name == "logs"
    with pytest.raises(ConfigError, match="did you mean 'logs'"):
        registry.make("log", SourceOptions(), transport())


def test_csv_and_tsv_differ_in_their_default_alone() -> None:
    assert type(registry.make("csv", SourceOptions(), transport())) is Csv
    assert type(registry.make("tsv", SourceOptions(), transport())) is Tsv


def test_a_metadata_file_among_media_files_describes_them() -> None:
    assert registry.detect(["x/a.jpg", "x/metadata.jsonl", "x/b.jpg"]) == "files"
    assert registry.detect(["x/metadata.jsonl"]) == "jsonl"
    with pytest.raises(ConfigError, match="mixes formats"):
        registry.detect(["x/a.jpg", "x/other.jsonl"])
