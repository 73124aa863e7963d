"""The Hugging Face Hub: what a dataset is at one commit, and its samples through `datasets` streaming.

The only module that imports `datasets` and `huggingface_hub`; their errors become ours in `hub_errors`.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from data_bridge.clients.hub_errors import hub_errors
from data_bridge.errors import ConfigError, RetryableError, SourceError
from data_bridge.utils.retry import Retry

if TYPE_CHECKING:
    import pyarrow as pa

_URI = re.compile(r"hf://(?:datasets/)?(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>.+?))?/?")
_MODEL = re.compile(r"hf://(?:models/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^@]+))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RETRY = Retry(tries=4, total_s=45.0)
_PATHS_AT_ONCE = 1000
_OWN_KEYS = {"path": "input_uri", "name": "source_options.config", "split": "source_options.split",
             "revision": "source_options.revision", "streaming": "source_options.streaming"}  # fmt: skip


class HubFile(msgspec.Struct, frozen=True):
    """One data file of the split. `path` is relative to the repository; None where the file lies elsewhere."""

    uri: str
    path: str | None
    size: int | None = None
    sha256: str | None = None


class Dataset(msgspec.Struct, frozen=True):
    """One split of one configuration at one commit: all that is needed to read it again, and the same."""

    repo: str
    commit: str
    config: str
    split: str  # a name, or several joined by `+`
    kwargs: Mapping[str, Any]
    """Further arguments of `load_dataset_builder`, without the token."""


class Resolved(msgspec.Struct, frozen=True):
    """What the Hub says of a dataset."""

    dataset: Dataset
    builder: str
    """Name of the packaged loader: `parquet`, `json`, `csv`, `text`, `webdataset`, `imagefolder`, …"""
    options: Mapping[str, Any]
    """The loader's options that are not at their default."""
    files: tuple[HubFile, ...]
    features: Mapping[str, Any]
    """Features the dataset card declares, as `Features.to_dict`; empty where it declares none."""


def parse(uri: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of `hf://org/name[@rev]`. Raises ConfigError when it names no dataset."""
    match = _URI.fullmatch(uri)
    if ":" in uri.removeprefix("hf://").rpartition("@")[0]:
        raise ConfigError(
            "an hf:// URI holds a user or password",
            hint="write hf://org/name; a token goes into HF_TOKEN or pipeline.source_options.load_kwargs.token",
        )
    if match is None or match["repo"].split("/")[0] in ("models", "spaces", "buckets"):
        raise ConfigError(f"{uri} is no dataset of the Hub", hint="write hf://org/name or hf://org/name@revision")
    found = (match["revision"] or "").replace("%2F", "/").replace("%2f", "/") or None
    if found and revision and found != revision:
        raise ConfigError(
            f"{uri} names revision {found}, pipeline.source_options.revision names {revision}", hint="give one of them"
        )
    return match["repo"], found or revision


def resolve(
    uri: str,
    *,
    config: str | None,
    split: str | None,
    revision: str | None,
    kwargs: Mapping[str, Any],
    token: str | None,
) -> Resolved:
    """Pin the dataset to a commit and find its configuration, split and files.

    Raises ConfigError once for what the user can mend (missing, gated or private, bad revision, configuration or
    split with the choices, no data), RetryableError when the Hub cannot be reached.
    """
    _refuse_keys(kwargs)
    name, wanted = parse(uri, revision)
    with hub_errors(f"hf://{name}" + (f"@{wanted}" if wanted else "")):
        repo, commit = _RETRY(lambda: _pin(name, wanted, token))
        builder = _RETRY(lambda: _builder(Dataset(repo, commit, config or "", "", kwargs), token))
        data_files = {str(k): list(v) for k, v in (builder.config.data_files or {}).items()}
        chosen = _choose_split(repo, split, list(data_files))
        dataset = Dataset(repo, commit, builder.config.name, chosen, kwargs)
        uris = [file for part in chosen.split("+") for file in data_files.get(part, [])]
        files = _RETRY(lambda: _stat(dataset, uris, token))
    return Resolved(
        dataset=dataset,
        builder=type(builder).__module__.rpartition(".")[2],
        options=_changed_options(builder.config),
        files=files,
        features=builder.info.features.to_dict() if builder.info.features else {},
    )


def _refuse_keys(kwargs: Mapping[str, Any]) -> None:
    where = "pipeline.source_options.load_kwargs"
    if "trust_remote_code" in kwargs:
        raise ConfigError(f"{where}.trust_remote_code: code of a dataset is never run", hint="remove the key")
    for key in kwargs:
        if key in _OWN_KEYS:
            raise ConfigError(f"{where}.{key} has a place of its own", hint=f"set pipeline.{_OWN_KEYS[key]} instead")
    try:
        json.dumps(dict(kwargs))
    except TypeError as error:
        raise ConfigError(
            f"{where}: only plain values can be kept in a plan: {error}", hint="use text, numbers, lists"
        ) from error


def _pin(name: str, revision: str | None, token: str | None) -> tuple[str, str]:
    """Today's name and the commit."""
    from huggingface_hub import HfApi

    with hub_errors(f"hf://{name}" + (f"@{revision}" if revision else "")):
        info = HfApi(token=_auth(token)).dataset_info(name, revision=revision, timeout=30.0)
    if not info.sha:
        raise SourceError(f"hf://{name}: the Hub names no commit", hint="try again, or name one: hf://org/name@commit")
    return info.id, info.sha


def _builder(dataset: Dataset, token: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # its errors reach the user through ours
    with hub_errors(f"hf://{dataset.repo}"):
        try:
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{dataset.repo}",
                dataset.config or None,
                revision=dataset.commit,
                token=_auth(token),
                **dataset.kwargs,
            )
        except ValueError as error:
            text = str(error)
            if "Config name is missing" in text or ("BuilderConfig" in text and "not found" in text):
                raise _bad_config(dataset, token, error) from error
            if "BuilderConfig" in text and "doesn't have" in text:
                key = text.rpartition("doesn't have")[2].strip(" .")
                raise ConfigError(
                    f"pipeline.source_options.load_kwargs: the loader of hf://{dataset.repo} does not have {key}",
                    hint="remove the key",
                ) from error
            raise
    if type(builder).__module__.endswith(".cache"):
        raise RetryableError(
            f"hf://{dataset.repo}: the Hub cannot be reached", hint="only an old copy of unknown age is here"
        )
    return builder


def _auth(token: str | None) -> str | bool:
    """The token as the libraries take it; False keeps them from looking for one themselves."""
    return token if token is not None else False


def _bad_config(dataset: Dataset, token: str | None, error: ValueError) -> ConfigError:
    from datasets import get_dataset_config_names

    choices = get_dataset_config_names(f"hf://datasets/{dataset.repo}", revision=dataset.commit, token=_auth(token))
    what = f"has no configuration {dataset.config!r}" if dataset.config else "has several configurations"
    return ConfigError(
        f"hf://{dataset.repo} {what}",
        hint=f"set pipeline.source_options.config to one of: {', '.join(choices)}" if choices else str(error),
    )


def _choose_split(repo: str, split: str | None, choices: Sequence[str]) -> str:
    """The split expression, checked. Raises ConfigError listing the splits there are."""
    if not choices:
        raise ConfigError(f"hf://{repo} has no data files that `datasets` can read", hint="check the repository")
    hint = f"set pipeline.source_options.split to one of: {', '.join(choices)}; several are joined by `+`"
    if split is None:
        if len(choices) > 1:
            raise ConfigError(f"hf://{repo} has several splits", hint=hint)
        return choices[0]
    if "[" in split:
        raise ConfigError(
            f"pipeline.source_options.split: {split!r} slices a split, which a stream cannot do",
            hint="for the first samples alone set pipeline.limit",
        )
    parts = list(choices) if split == "all" else [part.strip() for part in split.split("+")]
    missing = [part for part in parts if part not in choices]
    if missing:
        raise ConfigError(f"hf://{repo} has no split {', '.join(map(repr, missing))}", hint=hint)
    return "+".join(parts)


def _changed_options(config: Any) -> dict[str, Any]:
    """Options of the loader's configuration that differ from its defaults."""
    named = {"name", "version", "data_dir", "data_files", "description"}
    default = type(config)()
    fields = [f.name for f in dataclasses.fields(config) if f.name not in named]
    return {name: getattr(config, name) for name in fields if getattr(config, name) != getattr(default, name)}


def _stat(dataset: Dataset, uris: Sequence[str], token: str | None) -> tuple[HubFile, ...]:
    """The files with size and, where the Hub knows it, SHA-256."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    prefix = f"hf://datasets/{dataset.repo}@{dataset.commit}/"
    paths = [uri.removeprefix(prefix) if uri.startswith(prefix) else None for uri in uris]
    inside = [path for path in paths if path is not None]
    api = HfApi(token=_auth(token))
    known: dict[str, RepoFile] = {}
    with hub_errors(f"hf://{dataset.repo}"):
        for lo in range(0, len(inside), _PATHS_AT_ONCE):
            found = api.get_paths_info(
                dataset.repo, inside[lo : lo + _PATHS_AT_ONCE], revision=dataset.commit, repo_type="dataset"
            )
            known |= {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
    return tuple(
        HubFile(uri, path, known[path].size, lfs.sha256 if (lfs := known[path].lfs) else None)
        if path in known
        else HubFile(uri, path)
        for uri, path in zip(uris, paths, strict=True)
    )


class Stream:
    """A split as `datasets` streams it, in `shards` parts that together are the whole, in order."""

    def __init__(self, dataset: Dataset, token: str | None) -> None:
        self._dataset = dataset
        self._label = f"hf://{dataset.repo}@{dataset.commit[:12]} {dataset.config}/{dataset.split}"
        with hub_errors(self._label):
            split = _builder(dataset, token).as_streaming_dataset(split=dataset.split)
            if not split.features:
                split = _with_observed_features(split)
            # media stay as they are stored: bytes, or the path of their file
            self._split = (split.decode(False) if split.features else split).with_format("arrow")
            self.shards: int = self._split.num_shards

    @property
    def schema(self) -> "pa.Schema | None":
        """The declared or inferred schema, None where there are no rows to tell."""
        features = self._split.features
        return features.arrow_schema if features else None

    def read(self, shard: int, of: int, rows: int, state: Mapping[str, Any] | None) -> Iterator[tuple[Any, "pa.Table"]]:
        """Tables of `rows` rows of one part, each with the state that re-opens exactly at its first row."""
        where = f"{self._label} shard {shard} of {of}"
        with hub_errors(where):
            part = self._split.shard(of, shard, contiguous=True)
            if state is not None:
                part.load_state_dict(json.loads(json.dumps(state)))
            tables = iter(part.iter(batch_size=rows))
        while True:
            with hub_errors(where):
                state = json.loads(json.dumps(part.state_dict()))
                table = next(tables, None)
            if table is None:
                return
            yield state, table


def _with_observed_features(split: Any) -> Any:
    """The split cast to what its first block holds: without that each block would have types of its own."""
    from datasets import Features

    first = next(iter(split.with_format("arrow").iter(batch_size=1000)), None)
    return split if first is None else split.cast(Features.from_arrow_schema(first.schema))


@lru_cache(maxsize=2)
def _opened(text: str, token: str | None) -> Stream:
    return Stream(Dataset(**json.loads(text)), token)


def stream(dataset: Dataset, token: str | None) -> Stream:
    """The split, opened once per process: opening asks the Hub a dozen questions."""
    return _opened(json.dumps(msgspec.structs.asdict(dataset), sort_keys=True), token)


def read_file(path: str, token: str | None) -> bytes:
    """A file as `datasets` names it, also inside an archive (`zip://a.png::hf://…`)."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    with hub_errors(path), xopen(path, "rb", download_config=DownloadConfig(token=_auth(token))) as file:
        content: bytes = file.read()
    return content


def model_file(uri: str, name: str, token: str | None) -> Path:
    """A file of a model's repository, in the Hub's own cache: once there, no network is needed.

    Raises ConfigError unless the URI names a commit, for anything less may be another file tomorrow.
    """
    match = _MODEL.fullmatch(uri)
    if match is None:
        raise ConfigError(f"{uri} is no model of the Hub", hint="write hf://org/name@commit")
    repo, revision = match["repo"], match["revision"]
    if not _COMMIT.fullmatch(revision or ""):
        raise ConfigError(
            f"{uri} names no commit, and a branch or a tag may change",
            hint=f"today it is {_today(repo, revision, token)}",
        )
    from huggingface_hub import hf_hub_download

    def download() -> str:
        with hub_errors(f"hf://{repo}@{revision[:12]}/{name}"):
            found: str = hf_hub_download(repo, name, revision=revision, token=_auth(token))
            return found

    return Path(_RETRY(download))


def _today(repo: str, revision: str | None, token: str | None) -> str:
    """The URI with the commit that a name stands for now."""
    from huggingface_hub import HfApi

    with hub_errors(f"hf://{repo}" + (f"@{revision}" if revision else "")):
        sha = HfApi(token=_auth(token)).model_info(repo, revision=revision, timeout=30.0).sha
    return f"hf://{repo}@{sha}"
