"""What a config may say.

Every field says whether it changes the bytes of the output (`byte=True`); the config hash is made of those.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, SecretStr, field_validator, model_validator

from data_bridge.config.fields import Count, Failures, Section, Size, field
from data_bridge.config.monitoring import MetricsSettings
from data_bridge.config.secrets import Hidden
from data_bridge.config.stages import PoolSettings, StageSettings, WriterSettings, numbered
from data_bridge.config.vast import VastSettings


class R2Settings(Section):
    """Cloudflare R2: credentials and bucket behind `r2://` URIs, and the default destination."""

    account_id: str | None = field(None, byte=False, description="Cloudflare account; gives the endpoint")
    access_key_id: SecretStr | None = field(None, byte=False, description="R2 access key")
    secret_access_key: SecretStr | None = field(None, byte=False, description="R2 secret key")
    session_token: SecretStr | None = field(None, byte=False, description="token of temporary credentials")
    bucket: str | None = field(None, byte=False, description="bucket of the default destination")
    prefix: str = field("", byte=False, description="key prefix of the default destination")
    region: str = field("auto", byte=False, description="R2 knows only `auto`")
    jurisdiction: Literal["default", "eu", "fedramp", "us"] = field(
        "default", byte=False, description="jurisdiction the bucket was made in; part of the endpoint"
    )
    endpoint_url: str | None = field(None, byte=False, description="overrides the endpoint made from `account_id`")


class S3Settings(Section):
    """Any S3 store behind `s3://` URIs. Empty fields fall back to the AWS credential chain."""

    endpoint_url: str | None = field(None, byte=False, description="endpoint of a store that is not AWS")
    region: str | None = field(None, byte=False, description="region; `auto` where the store has none")
    profile: str | None = field(None, byte=False, description="profile of ~/.aws/config")
    access_key_id: SecretStr | None = field(None, byte=False, description="access key")
    secret_access_key: SecretStr | None = field(None, byte=False, description="secret key")
    session_token: SecretStr | None = field(None, byte=False, description="token of temporary credentials")


class SourceOptions(Section):
    """How to read the source; each format uses the ones it knows and refuses the rest."""

    split: str | None = field(None, byte=True, description="Hub: split to read")
    config: str | None = field(None, byte=True, description="Hub: dataset configuration (subset)")
    revision: str | None = field(
        None, byte=True, description="Hub: branch, tag or commit; pinned to a commit at plan time"
    )
    load_kwargs: Hidden = field(
        {},
        byte=True,
        description="Hub: further arguments of `datasets.load_dataset`; `token` is a secret and not hashed",
    )
    streaming: Literal["auto", "always"] = field(
        "auto", byte=True, description="Hub: `always` reads everything through `datasets` streaming"
    )
    columns: tuple[str, ...] | None = field(
        None, byte=True, description="read only these columns (Parquet, Arrow, CSV, Hub)"
    )
    delimiter: str | None = field(None, byte=True, description="CSV: field delimiter (default `,`, for .tsv a tab)")
    header: bool = field(True, byte=True, description="CSV: the first line names the columns")
    quotes: bool = field(
        True, byte=True, description='CSV: `"` protects delimiters and line ends; false = it is a plain character'
    )
    csv_types: dict[str, Literal["int64", "float64", "bool", "string"]] | None = field(
        None, byte=True, description="CSV: types of columns that are not text (`{id: int64, score: float64}`)"
    )
    text_field: str = field("text", byte=True, description="text: name of the one field")
    keep_empty_lines: bool = field(False, byte=True, description="text: blank lines are samples too")
    arguments: Hidden = field(
        {}, byte=True, description="`python://`: arguments of the function, or options of the class"
    )


FOREIGN: Mapping[str, tuple[str, ...]] = {
    "webdataset": ("compression", "litdata_layout"),
    "litdata": ("output_format", "members", "key_field"),
}
"""Options that mean nothing to a format."""


class PipelineSettings(Section):
    """What to read, how to cut it, where to put it."""

    name: Literal["webdataset", "litdata"] = field("webdataset", byte=True, description="output format")
    input_uri: str | tuple[str, ...] = field(
        byte=True,
        description="`hf://org/name[@rev]`, `s3://`, `r2://`, `https://`, `python://module:name`, `file://` or a path; globs, `{000..123}`, lists",
    )
    input_format: str = field(
        "auto",
        byte=True,
        description="format of the source: `huggingface`, `jsonl`, `csv`, `tsv`, `parquet`, `arrow`, `text`, `tar`, `files`, `python`, or "
        "one of an installed package; `auto` goes by scheme and extension",
    )
    source_options: SourceOptions = field(SourceOptions(), byte=True, description="how to read the source")
    output_uri: str | None = field(
        None,
        byte=False,
        description="destination: a path, `file://`, `s3://` or `r2://`; default from `r2`, else ./data-bridge-out",
    )
    output_format: Literal["tar", "tar.gz", "tar.zst"] = field(
        "tar", byte=True, description="webdataset: file format of a shard"
    )
    compression: Literal["none", "zstd"] = field("none", byte=True, description="litdata: compression of chunks")
    litdata_layout: Literal["auto", "classic", "arrow", "tokens"] = field(
        "auto",
        byte=True,
        description="litdata: `classic` opens in every reader since 0.2.50, `arrow` (0.2.74) keeps nulls and bytes, "
        "`tokens` is one field of numbers for `TokensLoader`",
    )
    samples_per_shard: Count = field(
        2048,
        byte=True,
        gt=0,
        validation_alias=AliasChoices("samples_per_shard", "shards"),
        description="samples in a shard",
    )
    max_shard_bytes: Size | None = field(
        None, byte=True, gt=0, description="close a shard earlier at this size (`1GB`)"
    )
    members: dict[str, str] | None = field(
        None,
        byte=True,
        description="webdataset: field -> member extension; fields not named go into `json`; `null` default by type",
    )
    key_field: str | None = field(None, byte=True, description="field that holds the sample's key; default: its index")
    schema_: dict[str, str] | None = field(
        None, byte=True, alias="schema", description="declared Arrow type of fields (`{id: int64, text: string}`)"
    )
    on_error: Literal["fail", "skip", "quarantine"] = field(
        "fail", byte=True, description="a bad sample: stop, leave it out, or leave it out and keep its raw bytes"
    )
    max_failures: Failures | None = field(
        None,
        byte=False,
        description="stop when more samples than this failed: a number, or a share of the source's (`0.5%`)",
    )
    partition_bytes: Size = field(256_000_000, byte=True, gt=0, description="size of the unit of work")
    max_lag_samples: Count | None = field(
        None,
        byte=True,
        gt=0,
        description="close a shard after this many source samples even if few were written; default 64 x samples_per_shard",
    )
    stages: tuple[StageSettings, ...] = field((), byte=True, description="what is done to the samples, in order")
    pools: dict[str, PoolSettings] = field({}, byte=False, description="memory for packets that wait, by name")
    writers: tuple[WriterSettings, ...] = field(
        (), byte=True, description="default: one for each output that no stage reads"
    )
    limit: Count | None = field(None, byte=True, gt=0, description="only the first N samples; a dataset of its own")
    allow_empty: bool = field(False, byte=False, description="a source without samples is not an error")
    workers: Count | None = field(
        None,
        byte=False,
        ge=0,
        description="cores to use, in worker processes; 0 = in this process; default: usable cores",
    )
    upload_concurrency: Count = field(2, byte=False, gt=0, description="shards each worker uploads at the same time")
    staging_dir: Path | None = field(
        None, byte=False, description="where shards wait for upload; default: the user's cache folder"
    )
    staging_bytes: Size = field(20_000_000_000, byte=False, gt=0, description="most bytes that may wait there")
    memory_bytes: Size | None = field(
        None,
        byte=False,
        gt=0,
        description="most bytes in flight of the whole run (ranges read ahead, batches, parts sent), shared by the workers; "
        "default: 512 MB for each, at most a quarter of the memory",
    )
    hang_timeout_s: float = field(300.0, byte=False, gt=0, description="a worker silent for this long is replaced")

    @field_validator("stages")
    @classmethod
    def _one_name_each(cls, value: tuple[StageSettings, ...]) -> tuple[StageSettings, ...]:
        return numbered(value)

    @model_validator(mode="after")
    def _pools_exist(self) -> "PipelineSettings":
        for stage in self.stages:
            if stage.pool is not None and stage.pool not in self.pools:
                known = ", ".join(self.pools) or "none"
                raise ValueError(
                    f"stages.{stage.name}.pool: there is no pool {stage.pool!r} in `pools`; there is {known}"
                )
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> "PipelineSettings":
        """An option of one format under another would silently do nothing."""
        for name in FOREIGN[self.name]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` does not apply to name: {self.name}")
        for writer in self.writers:
            form = writer.format or self.name
            for name in FOREIGN[form]:
                if getattr(writer, name) is not None:
                    raise ValueError(f"writers.{writer.name}: `{name}` does not apply to format: {form}")
        return self


class Settings(Section):
    """The whole config file."""

    pipeline: PipelineSettings = field(byte=True, description="what to read, how to cut it, where to put it")
    r2: R2Settings | None = field(None, byte=False, description="Cloudflare R2")
    s3: S3Settings | None = field(None, byte=False, description="any other S3 store")
    vast: VastSettings | None = field(None, byte=False, description="rented machine")
    metrics: MetricsSettings = field(MetricsSettings(), byte=False, description="where a run's metrics go")
