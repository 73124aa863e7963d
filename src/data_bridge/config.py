"""Settings: the only reader of config files and environment.

Every field says whether it changes the bytes of the output (`byte=True`); the config hash is made of those.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from data_bridge.errors import ConfigError

SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
              "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_size(value: object) -> object:
    """`"1GB"`, `"64MiB"` or a plain number of bytes -> int; anything else is left for validation to refuse."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace("_", "").replace(" ", "")
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = SIZE_UNITS.get(text[len(number):])
    if unit is None or not number.replace(".", "", 1).isdigit():
        raise ValueError(f"{value!r} is not a size: write 500MB, 1GB, 64MiB or a number of bytes")
    return round(float(number) * unit)


Size = Annotated[int, BeforeValidator(parse_size)]


def _field(default: Any = ..., *, byte: bool, **extra: Any) -> Any:
    """A settings field that says whether it is part of the config hash."""
    return Field(default, json_schema_extra={"byte": byte}, **extra)


class Section(BaseModel):
    """A closed, frozen block of the config."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class VastSettings(Section):
    """A rented machine; read only with `--use-vast`."""

    api_key: SecretStr | None = _field(None, byte=False, description="Vast.ai API key")
    offer_id: int | None = _field(None, byte=False, description="rent exactly this offer")
    image: str | None = _field(None, byte=False, description="container image of the machine")
    storage_gb: int | None = _field(None, byte=False, gt=0, description="disk to rent, GB")
    repo_url: str | None = _field(None, byte=False, description="repository to install on the machine")
    repo_ref: str | None = _field(None, byte=False, description="commit, tag or branch of `repo_url`")


class R2Settings(Section):
    """Cloudflare R2: credentials and bucket behind `r2://` URIs, and the default destination."""

    account_id: str | None = _field(None, byte=False, description="Cloudflare account; gives the endpoint")
    access_key_id: SecretStr | None = _field(None, byte=False, description="R2 access key")
    secret_access_key: SecretStr | None = _field(None, byte=False, description="R2 secret key")
    session_token: SecretStr | None = _field(None, byte=False, description="token of temporary credentials")
    bucket: str | None = _field(None, byte=False, description="bucket of the default destination")
    prefix: str = _field("", byte=False, description="key prefix of the default destination")
    region: str = _field("auto", byte=False, description="R2 knows only `auto`")
    jurisdiction: Literal["default", "eu", "fedramp", "us"] = _field(
        "default", byte=False, description="jurisdiction the bucket was made in; part of the endpoint"
    )
    endpoint_url: str | None = _field(None, byte=False, description="overrides the endpoint made from `account_id`")


class S3Settings(Section):
    """Any S3 store behind `s3://` URIs. Empty fields fall back to the AWS credential chain."""

    endpoint_url: str | None = _field(None, byte=False, description="endpoint of a store that is not AWS")
    region: str | None = _field(None, byte=False, description="region; `auto` where the store has none")
    profile: str | None = _field(None, byte=False, description="profile of ~/.aws/config")
    access_key_id: SecretStr | None = _field(None, byte=False, description="access key")
    secret_access_key: SecretStr | None = _field(None, byte=False, description="secret key")
    session_token: SecretStr | None = _field(None, byte=False, description="token of temporary credentials")


class SourceOptions(Section):
    """How to read the source; each format uses the ones it knows and refuses the rest."""

    split: str | None = _field(None, byte=True, description="Hub: split to read")
    config: str | None = _field(None, byte=True, description="Hub: dataset configuration (subset)")
    revision: str | None = _field(None, byte=True, description="Hub: branch, tag or commit; pinned to a commit at plan time")
    load_kwargs: dict[str, Any] = _field(
        {}, byte=True, description="Hub: further arguments of `datasets.load_dataset`; `token` is a secret and not hashed"
    )
    streaming: Literal["auto", "always"] = _field(
        "auto", byte=True, description="Hub: `always` reads everything through `datasets` streaming"
    )
    columns: tuple[str, ...] | None = _field(None, byte=True, description="read only these columns (Parquet, Arrow, CSV, Hub)")
    delimiter: str | None = _field(None, byte=True, description="CSV: field delimiter (default `,`, for .tsv a tab)")
    header: bool = _field(True, byte=True, description="CSV: the first line names the columns")
    quotes: bool = _field(True, byte=True, description="CSV: `\"` protects delimiters and line ends; false = it is a plain character")
    csv_types: dict[str, Literal["int64", "float64", "bool", "string"]] | None = _field(
        None, byte=True, description="CSV: types of columns that are not text (`{id: int64, score: float64}`)"
    )
    text_field: str = _field("text", byte=True, description="text: name of the one field")
    keep_empty_lines: bool = _field(False, byte=True, description="text: blank lines are samples too")


    @field_validator("load_kwargs")
    @classmethod
    def _hide_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What sounds like a secret is one: it must not appear in a repr either."""
        return {k: SecretStr(v) if isinstance(v, str) and is_secret_name(k) else v for k, v in value.items()}


class PipelineSettings(Section):
    """What to read, how to cut it, where to put it."""

    name: Literal["webdataset", "litdata"] = _field("webdataset", byte=True, description="output format")
    input_uri: str | tuple[str, ...] = _field(
        byte=True,
        description="`hf://org/name[@rev]`, `s3://`, `r2://`, `https://`, `file://` or a path; globs, `{000..123}`, lists",
    )
    input_format: Literal[
        "auto", "huggingface", "jsonl", "csv", "tsv", "parquet", "arrow", "text", "tar", "files"
    ] = _field("auto", byte=True, description="format of the source; `auto` goes by scheme and extension")
    source_options: SourceOptions = _field(SourceOptions(), byte=True, description="how to read the source")
    output_uri: str | None = _field(
        None, byte=False, description="destination: a path, `file://`, `s3://` or `r2://`; default from `r2`, else ./data-bridge-out"
    )
    output_format: Literal["tar", "tar.gz", "tar.zst"] = _field("tar", byte=True, description="webdataset: file format of a shard")
    compression: Literal["none", "zstd"] = _field("none", byte=True, description="litdata: compression of chunks")
    litdata_layout: Literal["auto", "classic", "arrow"] = _field(
        "auto", byte=True, description="litdata: `classic` opens in every reader since 0.2.50, `arrow` (0.2.74) keeps nulls and bytes"
    )
    samples_per_shard: int = _field(
        2048, byte=True, gt=0, validation_alias=AliasChoices("samples_per_shard", "shards"), description="samples in a shard"
    )
    max_shard_bytes: Size | None = _field(None, byte=True, gt=0, description="close a shard earlier at this size (`1GB`)")
    members: dict[str, str] | None = _field(
        None, byte=True, description="webdataset: field -> member extension; fields not named go into `json`; `null` default by type"
    )
    key_field: str | None = _field(None, byte=True, description="field that holds the sample's key; default: its index")
    schema_: dict[str, str] | None = _field(
        None, byte=True, alias="schema", description="declared Arrow type of fields (`{id: int64, text: string}`)"
    )
    on_error: Literal["fail", "skip", "quarantine"] = _field(
        "fail", byte=True, description="a bad sample: stop, leave it out, or leave it out and keep its raw bytes"
    )
    max_failures: int | None = _field(None, byte=False, ge=0, description="stop when more samples than this failed")
    partition_bytes: Size = _field(256_000_000, byte=True, gt=0, description="size of the unit of work")
    max_lag_samples: int | None = _field(
        None, byte=True, gt=0, description="close a shard after this many source samples even if few were written; default 64 x samples_per_shard"
    )
    limit: int | None = _field(None, byte=True, gt=0, description="only the first N samples; a dataset of its own")
    allow_empty: bool = _field(False, byte=False, description="a source without samples is not an error")
    workers: int | None = _field(None, byte=False, ge=0, description="worker processes; 0 = in this process; default: usable cores")
    upload_concurrency: int = _field(2, byte=False, gt=0, description="shards each worker uploads at the same time")
    staging_dir: Path | None = _field(None, byte=False, description="where shards wait for upload; default: the user's cache folder")
    staging_bytes: Size = _field(20_000_000_000, byte=False, gt=0, description="most bytes that may wait there")
    hang_timeout_s: float = _field(300.0, byte=False, gt=0, description="a worker silent for this long is replaced")


    @model_validator(mode="after")
    def _options_fit(self) -> "PipelineSettings":
        """An option of one format under another would silently do nothing."""
        foreign = {"webdataset": ("compression", "litdata_layout"), "litdata": ("output_format", "members", "key_field")}
        for name in foreign[self.name]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` does not apply to name: {self.name}")
        return self


class Settings(Section):
    """The whole config file."""

    pipeline: PipelineSettings = _field(byte=True, description="what to read, how to cut it, where to put it")
    r2: R2Settings | None = _field(None, byte=False, description="Cloudflare R2")
    s3: S3Settings | None = _field(None, byte=False, description="any other S3 store")
    vast: VastSettings | None = _field(None, byte=False, description="rented machine")


def load_settings(path: Path, env: Mapping[str, str] = os.environ) -> Settings:
    """Read a YAML, TOML or JSON config.

    `${VAR}` in a value takes the variable's content (`$${VAR}` stays as it is); one that is missing is an error,
    unless it stands in a block that this config does not use. Raises ConfigError that lists every problem with the
    path of its key.
    """
    raw = _parse(path)
    missing: list[str] = []
    used = _used_blocks(raw)
    values = {
        block: _interpolated(value, env, (block,), missing if block in used else None) for block, value in raw.items()
    }
    if missing:
        raise ConfigError(f"{path}:\n" + "\n".join(missing), hint="set the variable, or write the value into the file")
    try:
        return Settings.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(
            f"{path}:\n" + "\n".join(_problem(e) for e in error.errors(include_input=False, include_url=False)),
            hint="`data-bridge schema` prints every key; docs/config.md explains them",
        ) from None


def _parse(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no config file at {path}", hint="`data-bridge init` writes one to start from")
    text = path.read_text(encoding="utf-8-sig")
    try:
        raw = _PARSERS[path.suffix.lower()](text)
    except KeyError:
        raise ConfigError(f"{path}: not a config file", hint="name it .yaml, .toml or .json") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be parsed: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no settings", hint="`data-bridge init` writes a file to start from")
    return {str(k): v for k, v in raw.items()}


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".yaml": lambda text: yaml.load(text, _UniqueKeys),  # noqa: S506 - a SafeLoader
    ".yml": lambda text: yaml.load(text, _UniqueKeys),  # noqa: S506
    ".toml": tomllib.loads,
    ".json": json.loads,
}


def _used_blocks(raw: Mapping[str, Any]) -> set[str]:
    """Blocks whose variables must exist: the pipeline, and the stores its URIs name."""
    pipeline = raw.get("pipeline")
    pipeline = pipeline if isinstance(pipeline, dict) else {}
    uris = json.dumps([pipeline.get("input_uri"), pipeline.get("output_uri")])
    used = {"pipeline"}
    if "r2://" in uris or not pipeline.get("output_uri"):
        used.add("r2")
    if "s3://" in uris:
        used.add("s3")
    return used | (set(raw) - {"r2", "s3", "vast"})


_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _interpolated(value: Any, env: Mapping[str, str], path: tuple[str, ...], missing: list[str] | None) -> Any:
    """A config value with its variables filled in; problems go to `missing`, or make the value None where it is None."""
    if isinstance(value, dict):
        return {k: _interpolated(v, env, (*path, str(k)), missing) for k, v in value.items()}
    if isinstance(value, list):
        return [_interpolated(v, env, (*path, str(i)), missing) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    absent = [name for escape, name in _VARIABLE.findall(value) if not escape and name not in env]
    if absent:
        if missing is not None:
            missing.extend(f"{'.'.join(path)}: the environment has no variable {name}" for name in absent)
        return None
    return _VARIABLE.sub(lambda m: m[0][1:] if m[1] else env[m[2]], value)


def _problem(error: Mapping[str, Any]) -> str:
    """One validation error as `path: what is wrong`."""
    loc = [part for part in error["loc"] if not (isinstance(part, str) and part.startswith(("tuple[", "function-")))]
    where = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(loc[-1]), _keys_at(loc[:-1]), n=1)
        return f"{where}: unknown key" + (f", did you mean `{close[0]}`?" if close else "")
    if error["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _keys_at(loc: Sequence[Any]) -> list[str]:
    """The keys a block at this path may hold."""
    section: type[Section] = Settings
    for part in loc:
        inner = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        candidates = [inner, *get_args(inner)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), section)
    return [info.alias or name for name, info in section.model_fields.items()]


def overridden(settings: Settings, **values: Any) -> Settings:
    """The settings with pipeline values replaced by those of command line flags that were given (not None), checked anew."""
    given = {k: v for k, v in values.items() if v is not None}
    return settings.model_copy(update={"pipeline": settings.pipeline.model_copy(update=given)}) if given else settings


def secrets_in(settings: Settings) -> set[str]:
    """Every secret value of the settings: what no message may contain."""
    return {s for s in _secret_values(settings) if s}


def _secret_values(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secret_values(getattr(value, name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _secret_values(inner)


def byte_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the bytes of the output, secrets removed, as plain JSON values.

    Two configs with equal values here give the same shards of the same source.
    """
    return _marked(settings.pipeline, byte=True)


def redacted(settings: Settings) -> dict[str, Any]:
    """The pipeline settings as they may be shown and stored: everything except secrets."""
    return {**_marked(settings.pipeline, byte=True), **_marked(settings.pipeline, byte=False)}


def config_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 of `byte_settings`, hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _marked(section: Section, *, byte: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        assert isinstance(extra, dict), f"{type(section).__name__}.{name} does not say whether it changes bytes"
        value = getattr(section, name)
        if isinstance(value, Section):
            inner = _marked(value, byte=byte)
            if inner:
                values[info.alias or name] = inner
        elif extra["byte"] is byte and not isinstance(value, SecretStr):
            values[info.alias or name] = without_secrets(to_jsonable_python(value))
    return values


SECRET_WORDS = ("token", "secret", "password", "credential", "api_key", "access_key", "authorization")


def is_secret_name(name: object) -> bool:
    return any(word in str(name).lower() for word in SECRET_WORDS)


def without_secrets(value: Any) -> Any:
    """A JSON value with every mapping entry left out whose name sounds like a secret (`load_kwargs.token`)."""
    if isinstance(value, dict):
        return {k: without_secrets(v) for k, v in value.items() if not is_secret_name(k)}
    return [without_secrets(v) for v in value] if isinstance(value, list) else value


def hf_endpoint(env: Mapping[str, str] = os.environ) -> str:
    """Where the Hugging Face Hub is, as `huggingface_hub` finds it."""
    return (env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hf_token(env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """The Hub token of the environment or of the file that `hf auth login` wrote; None = anonymous."""
    if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    token = env.get("HF_TOKEN") or env.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        cache = Path(env.get("XDG_CACHE_HOME") or "~/.cache")
        home = Path(env.get("HF_HOME") or cache / "huggingface")
        file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
        token = file.read_text(encoding="utf-8") if file.is_file() and os.access(file, os.R_OK) else ""
    token = token.strip()
    return SecretStr(token) if token else None


def http_proxy(url: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The proxy that the environment (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`) sets for a URL."""
    scheme, _, rest = url.partition("://")
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    proxy = next((env[name] for name in names if env.get(name)), None)
    if proxy is None:
        return None
    from urllib.request import proxy_bypass_environment

    bypass = env.get("no_proxy") or env.get("NO_PROXY") or ""
    host = rest.partition("/")[0].rpartition("@")[2]
    return None if proxy_bypass_environment(host, {"no": bypass}) else proxy  # type: ignore[attr-defined]
