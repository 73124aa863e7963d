"""What a config may say of stages and writers, and what is refused with a word that helps."""

from typing import Any

import pytest
from pydantic import ValidationError

from data_bridge.config import Settings
from data_bridge.pipelines.sinks import sink_settings


def pipeline(**values: Any) -> Any:
    return Settings.model_validate({"pipeline": {"input_uri": "x.jsonl", **values}}).pipeline


def test_an_option_of_another_format_is_refused_by_the_name_of_its_writer() -> None:
    with pytest.raises(ValidationError, match="does not apply to format: webdataset"):
        pipeline(writers=[{"name": "x", "compression": "zstd"}, {"name": "y"}])


def test_what_a_writer_does_not_say_is_as_the_pipeline_has_it_where_it_means_something() -> None:
    settings = pipeline(
        output_format="tar.gz",
        key_field="id",
        samples_per_shard=7,
        writers=[{"name": "a", "samples_per_shard": 9}, {"name": "b", "format": "litdata", "compression": "zstd"}],
    )

    a, b = sink_settings(settings, "a"), sink_settings(settings, "b")

    assert (a.name, a.output_format, a.key_field, a.samples_per_shard) == ("webdataset", "tar.gz", "id", 9)
    assert (b.name, b.compression, b.key_field, b.samples_per_shard) == ("litdata", "zstd", None, 7)
