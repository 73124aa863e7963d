"""Datasets of the Hugging Face Hub: their files by our own readers at a pinned commit, or `datasets` streaming."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import SecretStr

from data_bridge import config
from data_bridge.clients import hub
from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.codecs import stem_extension
from data_bridge.io.sources import registry
from data_bridge.io.sources.arrow_rows import cut, plain_batch, probe_rows
from data_bridge.io.sources.arrow_schema import MEDIA, fields_of, plain_schema, reading, select
from data_bridge.io.sources.base import TARGET_BATCH_ROWS, read_each
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, Batch, Token
from data_bridge.model.source import Extent, FilePiece, Probe, SourceFile

NAME = "huggingface"
MEDIA_ROWS = 64
"""Rows asked for at a time where they hold images or audio."""
MEDIA_THREADS = 8
MOST_PARTS = 1024
"""Parts a split is read in at most; a dataset may have more shards than that."""
_FORMATS = {"parquet": "parquet", "arrow": "arrow", "json": "jsonl", "csv": "csv", "text": "text", "webdataset": "tar"}
_EXTENSIONS = {
    "parquet": {".parquet", ".pq"},
    "arrow": {".arrow"},
    "jsonl": {".jsonl", ".ndjson", ".json"},
    "csv": {".csv", ".tsv"},
    "tsv": {".csv", ".tsv"},
    "text": {".txt"},
    "tar": {".tar"},
}
_SPARSE_PEEKS = 5


def resolve_source(uri: str, options: SourceOptions, transport: Transport) -> tuple[str, list[SourceFile]]:
    """The format that reads the dataset, and its files at the commit `revision` (default: the main branch) has now.

    The format is our own where the files are plain Parquet, Arrow, JSON lines, CSV, text or tar and the loader has no
    special options; the files are then `hf://datasets/org/name@<commit>/path`. Otherwise, or with
    `streaming: always`, it is `huggingface` and each file is a part of the split:
    `hf://datasets/org/name@<commit>#config/split/part-3-of-8`.
    Raises ConfigError naming what to change, RetryableError when the Hub cannot be reached.
    """
    kwargs = _kwargs(options)
    resolved = hub.resolve(
        uri, config=options.config, split=options.split, revision=options.revision, kwargs=kwargs, token=_token(options)
    )
    name = _own_format(resolved, transport) if options.streaming == "auto" else None
    if name is None:
        return NAME, _parts(resolved, options)
    files = [SourceFile(uri=f.uri, size=f.size, sha256=f.sha256) for f in resolved.files]
    prepare = getattr(registry.make(name, options, transport), "prepare", None)
    return name, list(prepare(files) if prepare else files)


def _kwargs(options: SourceOptions) -> dict[str, Any]:
    """What `datasets` gets beside the token, its secrets in the clear."""
    kwargs: dict[str, Any] = config.with_open_secrets(options.load_kwargs)
    return {k: v for k, v in kwargs.items() if k != "token"}


def _token(options: SourceOptions) -> str | None:
    """The Hub token: what the config gives, else what the user is logged in with; None = anonymous."""
    given = options.load_kwargs.get("token")
    if given is False:
        return None
    token = config.hf_token() if given in (None, True) else given
    return token.get_secret_value() if isinstance(token, SecretStr) else token


def _own_format(resolved: hub.Resolved, transport: Transport) -> str | None:
    """Our reader of these files, None where `datasets` would make other samples of them."""
    name = _FORMATS.get(resolved.builder)
    changed = dict(resolved.options)
    if name == "csv" and changed.get("sep") == "\t":
        name = "tsv"
        del changed["sep"]
    if name is None or changed or any(f.path is None for f in resolved.files):
        return None
    if any(stem_extension(f.uri) not in _EXTENSIONS[name] for f in resolved.files):
        return None
    if name in ("csv", "tsv") and resolved.features:
        return None  # what a cell's text means is then for the card to say
    if name not in ("parquet", "arrow") and not _plain_features(resolved.features):
        return None
    return None if name == "jsonl" and not _json_lines(resolved, transport) else name


def _plain_features(features: Any) -> bool:
    """Whether the features only name types; a class label or an image would turn the stored values into others."""
    if isinstance(features, Mapping):
        kind = features.get("_type", "Value")
        return kind in ("Value", "List", "LargeList", "Sequence") and all(_plain_features(v) for v in features.values())
    return all(_plain_features(v) for v in features) if isinstance(features, list) else True


def _json_lines(resolved: hub.Resolved, transport: Transport) -> bool:
    """Whether the first file with content holds one object a line, not one array or object over many lines."""
    for file in resolved.files[:_SPARSE_PEEKS]:
        start = b""
        for block in transport.decoded(SourceFile(uri=file.uri, size=file.size)):
            start += block
            if start.strip():
                break
        first = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].strip()
        if first:
            return first.startswith(b"{") and first != b"{"
    return True


def _parts(resolved: hub.Resolved, options: SourceOptions) -> list[SourceFile]:
    """The split in parts, one per shard unless there are very many; sizes where they are known."""
    dataset = resolved.dataset
    shards = hub.stream(dataset, _token(options)).shards
    count = min(shards, MOST_PARTS)
    sizes = [f.size or 0 for f in resolved.files]
    per_shard = sizes if len(sizes) == shards else [sum(sizes) // shards] * shards
    wide = shards % count
    edges = [i * (shards // count) + min(i, wide) for i in range(count + 1)]
    return [
        SourceFile(
            uri=f"hf://datasets/{dataset.repo}@{dataset.commit}#{dataset.config}/{dataset.split}/part-{i}-of-{count}",
            extra={
                "repo": dataset.repo,
                "commit": dataset.commit,
                "config": dataset.config,
                "split": dataset.split,
                "part": i,
                "of": count,
                "bytes": sum(per_shard[lo:hi]),
            },
        )
        for i, (lo, hi) in enumerate(pairwise(edges))
    ]


class Hub:
    """Reads parts of a split through `datasets` streaming.

    Tokens are `[piece number, {state, skip}]`: the `state_dict` of the stream and the rows of its next table that
    come before. Resuming seeks to the file of the part and reads again inside it. Media whose bytes lie in files of
    their own are fetched, several at a time.
    """

    name = NAME
    counted = False

    def __init__(self, options: SourceOptions, transport: Transport) -> None:
        self._options = options
        self._transport = transport

    def extents(self, file: SourceFile) -> Sequence[Extent]:
        """The part as one run; its bytes are a share of the repository's files."""
        _dataset(file, self._options)
        return [Extent(start=0, end=None, bytes=file.extra.get("bytes"))]

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        """Fields as `datasets` declares or infers them, and the first rows."""
        batches = self.read([FilePiece(file) for file in files], None)
        first = next(batches, None)
        schema = (
            first.rows.batch.schema if first and isinstance(first.rows, ArrowRows) else self._stream(files[0]).schema
        )
        fields = fields_of(schema) if schema is not None else ()
        rows = probe_rows(chain([first], batches), fields) if first else []
        return Probe(fields, declared=True, rows=rows)

    def read(self, pieces: Sequence[FilePiece], token: Token | None) -> Iterator[Batch]:
        """Batches of ArrowRows."""
        return read_each(self._read_piece, pieces, token)

    def _stream(self, file: SourceFile) -> hub.Stream:
        return hub.stream(_dataset(file, self._options), _token(self._options))

    def _read_piece(self, piece: FilePiece, token: Token | None) -> Iterator[Batch]:
        stream = self._stream(piece.file)
        at = token or {"state": None, "skip": 0}
        skip = at["skip"]
        rows = MEDIA_ROWS if stream.schema is None or _has_media(stream.schema) else TARGET_BATCH_ROWS
        part, of = piece.file.extra["part"], piece.file.extra["of"]
        for state, table in stream.read(part, of, rows, at["state"]):
            with reading(piece.file.uri, "Arrow"):
                yield from self._batches(table, state, skip, piece.file.uri)
            skip = 0

    def _batches(self, table: pa.Table, state: Any, skip: int, uri: str) -> Iterator[Batch]:
        for stored in table.combine_chunks().to_batches():
            names = select(stored.schema.names, self._options.columns, uri)
            plain = plain_schema(stored.schema)
            rows = plain_batch(stored.slice(skip), pa.schema([plain.field(name) for name in names]))
            for batch in cut(self._with_media(rows), skip, uri):
                yield Batch({"state": state, "skip": batch.start}, batch.rows, batch.failures)

    def _with_media(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with the bytes of media that are given by path alone."""
        for number, field in enumerate(fields_of(rows.schema)):
            column: Any = rows.column(number)
            if field.type != MEDIA:
                continue
            data, paths = pc.struct_field(column, "bytes"), pc.struct_field(column, "path")
            missing = pc.is_null(data).to_pylist()
            needed = [gone and _fetchable(path) for gone, path in zip(missing, paths.to_pylist(), strict=True)]
            if any(needed):
                rows = rows.set_column(number, rows.schema.field(number), self._fetched(column, data, paths, needed))
        return rows

    def _fetched(self, column: Any, data: Any, paths: Any, needed: Sequence[bool]) -> "pa.Array[Any]":
        names = paths.to_pylist()
        with ThreadPoolExecutor(MEDIA_THREADS) as threads:
            content = list(threads.map(self._file, [n for n, fetch in zip(names, needed, strict=True) if fetch]))
        found = iter(content)
        values = [next(found) if fetch else value for value, fetch in zip(data.to_pylist(), needed, strict=True)]
        short = [n.rpartition("/")[2] if fetch else n for n, fetch in zip(names, needed, strict=True)]
        members: dict[str, Any] = {"bytes": pa.array(values, pa.binary()), "path": pa.array(short, pa.string())}
        fields = [column.type.field(i) for i in range(column.type.num_fields)]
        return pa.StructArray.from_arrays([members[f.name] for f in fields], fields=fields, mask=column.is_null())

    def _file(self, path: str) -> bytes:
        if "::" in path:
            return hub.read_file(path, _token(self._options))
        return b"".join(self._transport.blocks(SourceFile(uri=path)))


def _dataset(file: SourceFile, options: SourceOptions) -> hub.Dataset:
    if not {"repo", "commit", "config", "split"} <= file.extra.keys():
        raise SourceError(
            f"{file.uri} is no part of a Hub dataset", hint="give the dataset, hf://org/name, or another input_format"
        )
    names = {key: file.extra[key] for key in ("repo", "commit", "config", "split")}
    return hub.Dataset(**names, kwargs=_kwargs(options))


def _has_media(schema: pa.Schema) -> bool:
    return any(f.type == MEDIA for f in fields_of(schema))


def _fetchable(path: str | None) -> bool:
    """Whether media may be fetched from there: the Hub, or an archive on it. A dataset must not make us open local
    files or servers of its choice."""
    return path is not None and path.rpartition("::")[2].startswith("hf://datasets/")
