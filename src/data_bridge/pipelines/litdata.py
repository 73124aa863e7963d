"""LitData chunks and their index, written without litdata and without torch."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

from data_bridge.config import PipelineSettings
from data_bridge.errors import ConfigError
from data_bridge.model.batch import Rows
from data_bridge.model.shards import Encoded, Packed, ShardRecord
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.leaves import Leaf, arrow_leaf, check_types, classic_leaf, observed_type
from data_bridge.pipelines.litdata_arrow import ArrowChunk, ArrowLayout
from data_bridge.pipelines.litdata_classic import ClassicChunk, ClassicLayout
from data_bridge.pipelines.litdata_columns import columns
from data_bridge.pipelines.shardfile import ShardFile

DIGEST_CHARS: Final = 32
_BYTES_IN_CLASSIC: Final = (
    "field {name!r} holds bytes: since litdata 0.2.70 readers of classic chunks hand them out as memoryview, which "
    "torch's default collate takes for numbers; wrap them in bytes() first, or use `pipeline.litdata_layout: arrow`"
)
_ZSTD_IN_PLACE: Final = (
    "litdata 0.2.76 replaces compressed chunks by unpacked ones when it is given their folder itself: "
    "read a local copy as StreamingDataset('local:<folder>'), or `data-bridge verify` will miss them"
)
_ARROW_CHOSEN: Final = "field {name!r} {why}: chunks use LitData's Arrow layout, which opens in litdata 0.2.74 and later with pyarrow installed"


class LitDataWriter:
    """Chunks that `litdata.StreamingDataset` opens; `index.json` is made from the ledger alone.

    Every sample has the leaves fixed at plan time, in that order. What would change a value (a null in a classic
    leaf, text for a number, a field nobody declared) is a failure of its row, never a guess.
    """

    name: ClassVar[str] = "litdata"
    shard_names: ClassVar[re.Pattern[str]] = re.compile(r"chunk-(patch-)?\d+-\d+(_\d+)?(\.zstd)?\.bin")

    def __init__(self, settings: PipelineSettings, frozen: Mapping[str, Any]) -> None:
        self._leaves = tuple(Leaf(**leaf) for leaf in frozen["leaves"])
        self._classic = frozen["layout"] != "arrow"
        self._bare = frozen["layout"] == "tokens"
        self._zstd = settings.compression == "zstd"
        self._samples_per_shard = settings.samples_per_shard
        self._layout: ClassicLayout | ArrowLayout = (
            ClassicLayout(self._leaves, compressed=self._zstd, bare=self._bare)
            if self._classic
            else ArrowLayout(self._leaves, compressed=self._zstd)
        )
        self._file: ShardFile | None = None
        self._chunk: ClassicChunk | ArrowChunk | None = None
        self._samples = 0

    @classmethod
    def freeze(cls, settings: PipelineSettings, probe: Probe) -> dict[str, Any]:
        """Layout and leaves. `warnings` says why the Arrow layout was chosen and which leaves need care."""
        fields = _fields(settings, probe)
        if settings.litdata_layout == "tokens":
            return {"layout": "tokens", "leaves": [msgspec.structs.asdict(_tokens(settings, fields, probe))]}
        leaves: list[Leaf] = []
        warnings: list[str] = []
        layout = settings.litdata_layout
        for field in fields if layout != "arrow" else ():
            values = [row.get(field.name) for row in probe.rows]
            leaf = classic_leaf(field, values, binary=layout == "classic")
            if isinstance(leaf, Leaf):
                leaves.append(leaf)
                continue
            if layout == "classic":
                raise ConfigError(
                    f"field {field.name!r} {leaf}, which LitData's classic layout cannot hold",
                    hint="set pipeline.litdata_layout to `arrow` or `auto`, or leave the field out",
                )
            layout = "arrow"
            warnings.append(_ARROW_CHOSEN.format(name=field.name, why=leaf))
            break
        if layout == "arrow":
            leaves = [arrow_leaf(field) for field in fields]
        else:
            warnings += [_BYTES_IN_CLASSIC.format(name=leaf.name) for leaf in leaves if leaf.kind == "bytes"]
        warnings += [
            f"field {leaf.name!r} is stored as JSON text: its values have no type in common"
            for leaf in leaves
            if leaf.kind == "json"
        ]
        if settings.compression == "zstd" and layout != "arrow":
            warnings.append(_ZSTD_IN_PLACE)
        chosen = "arrow" if layout == "arrow" else "classic"
        return {"layout": chosen, "leaves": [msgspec.structs.asdict(leaf) for leaf in leaves], "warnings": warnings}

    @property
    def suffix(self) -> str:
        return ".zstd.bin" if self._whole_zstd else ".bin"

    @property
    def max_payload_bytes(self) -> int:
        """A chunk must be closed before its payload passes this."""
        return self._layout.max_payload_bytes

    @property
    def _whole_zstd(self) -> bool:
        # Arrow compresses its own buffers; readers tell whole compressed files by their name
        return self._zstd and self._classic

    def shard_name(self, prefix: str, number: int, part: int, digits: int) -> str:
        """`chunk-0-000007.bin`, `chunk-00012-000007.bin`, `chunk-0-000007_1.bin`; compressed: `….zstd.bin`."""
        return f"chunk-{prefix or '0-'}{number:0{digits}d}{f'_{part}' if part else ''}{self.suffix}"

    def encode(self, rows: Rows, keys: Sequence[str]) -> Encoded:
        del keys  # LitData's samples have none
        made = columns(rows, self._leaves, nullable=not self._classic)
        payload, sizes = self._layout.pack(made.arrays, len(made.rows))
        huge = np.flatnonzero(sizes > self.max_payload_bytes).tolist()
        if huge:
            reason = "the sample has {} bytes; a LitData chunk holds {} at most"
            made = made.without({i: reason.format(int(sizes[i]), self.max_payload_bytes) for i in huge}, rows)
            payload, sizes = self._layout.pack(made.arrays, len(made.rows))
        return Encoded(payload, np.cumsum(sizes), made.rows, made.failures)

    def begin(self, path: Path, *, behind: bool = False) -> None:
        frame = self._layout.compressor
        self._file = ShardFile(path, None if frame is None else lambda: frame, behind=behind)
        self._chunk = self._layout.open(path.parent)
        self._samples = 0

    def write(self, encoded: Encoded, lo: int, hi: int) -> None:
        assert self._chunk is not None, "begin() comes first"
        if hi > lo:
            self._chunk.add(encoded.payload, encoded.ends, lo, hi)
            self._samples += hi - lo

    def finish(self) -> Packed:
        assert self._chunk is not None and self._file is not None, "begin() comes first"
        if self._samples == 0:
            self.abort()
            raise ValueError("a chunk without samples: readers cannot open it")
        samples, meta = self._chunk.finish(self._file)
        size, sha256 = self._file.close()
        self._file = self._chunk = None
        return Packed(size, sha256, samples, meta)

    def abort(self) -> None:
        file, chunk = self._file, self._chunk
        self._file = self._chunk = None
        if file is not None:
            file.abort()
        if chunk is not None:
            chunk.abort()

    def indexes(self, shards: Sequence[ShardRecord]) -> dict[str, bytes]:
        """`index.json` for LitData's readers, whose caches go by the digest in `updated_at`, and `shards.txt`."""
        chunks = [_chunk_entry(record, record.key) for record in shards if record.key is not None]
        index = {"chunks": chunks, "config": self._config()}
        digest = hashlib.sha256(_json(index)).hexdigest()[:DIGEST_CHARS]
        names = "".join(f"{chunk['filename']}\n" for chunk in chunks)
        return {"index.json": _json({**index, "updated_at": digest}), "shards.txt": names.encode()}

    def check(self, path: Path, keys: list[str] | None = None) -> int:  # noqa: ARG002 - LitData samples have no keys
        return self._layout.check(path)

    def _config(self) -> dict[str, Any]:
        return {
            "chunk_bytes": None,
            "chunk_size": self._samples_per_shard,
            "compression": "zstd" if self._whole_zstd else None,
            "compression_batch_size": None,
            "compression_level": None,
            "data_format": [leaf.format for leaf in self._leaves],
            "data_spec": _BARE_SPEC if self._bare else _tree_spec([leaf.name for leaf in self._leaves]),
            "encryption": None,
            "ipc_compression": "zstd" if self._zstd and not self._classic else None,
            "item_loader": "TokensLoader" if self._bare else "PyTreeLoader",
            "types": {leaf.name: "json" if leaf.kind in ("numpy", "tree") else leaf.format for leaf in self._leaves},
        }


def _fields(settings: PipelineSettings, probe: Probe) -> list[Field]:
    """The dataset's fields with the types that bind: of pipeline.schema, else the source's own, else those observed."""
    _refuse_twins(probe.fields)
    given = dict(settings.schema_ or {})
    check_types(given)
    fields = []
    for field in probe.fields:
        kind = given.pop(field.name, None)
        if kind is None:
            kind = field.type if probe.declared else observed_type(row.get(field.name) for row in probe.rows)
        fields.append(field.model_copy(update={"type": kind}))
    return fields + [Field(name=name, type=kind) for name, kind in given.items()]


def _refuse_twins(fields: Sequence[Field]) -> None:
    """Raises ConfigError for two fields of one name."""
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise ConfigError(
                f"the source has two fields named {field.name!r}",
                hint="rename one, or pick fields with pipeline.source_options.columns",
            )
        seen.add(field.name)


def _chunk_entry(record: ShardRecord, key: str) -> dict[str, Any]:
    return {
        "chunk_bytes": record.meta["chunk_bytes"],
        "chunk_size": record.samples,
        "dim": record.meta.get("numbers"),
        "filename": key.removeprefix(f"{record.sink}/") if record.sink else key,
        "sha256": record.sha256,
    }


_BARE_SPEC: Final = json.dumps([1, {"type": None, "context": None, "children_spec": []}])


def _tokens(settings: PipelineSettings, fields: Sequence[Field], probe: Probe) -> Leaf:
    """The only leaf of the layout for `TokensLoader`. Raises ConfigError where there is another, or one of another kind."""
    where = "pipeline.litdata_layout: tokens"
    if len(fields) != 1:
        raise ConfigError(
            f"{where} holds one field, and samples have {', '.join(field.name for field in fields) or 'none'}",
            hint="`tokenize` with `block` leaves one; so does `select`",
        )
    if settings.compression != "none":
        raise ConfigError(f"{where} cannot be compressed: readers map the chunks", hint="set compression: none")
    leaf = classic_leaf(fields[0], [row.get(fields[0].name) for row in probe.rows], binary=False)
    if not isinstance(leaf, Leaf) or leaf.kind != "numpy":
        said = leaf if isinstance(leaf, str) else f"is {fields[0].type}"
        raise ConfigError(f"{where} holds lists of numbers, and the field {fields[0].name!r} {said}")
    return leaf


def _tree_spec(names: Sequence[str]) -> str:
    """LitData's text of the tree `{name: leaf, …}`."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    root = {"type": "builtins.dict", "context": json.dumps(names), "children_spec": [leaf] * len(names)}
    return json.dumps([1, root])


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
