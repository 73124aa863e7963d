"""Small runs that between them use every kind of source and writer, with bad samples in them, to be killed."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.corpus import write_jsonl

from data_bridge.config import Settings


@dataclass(frozen=True)
class Case:
    """How to make a source, and how to pack it."""

    source: Callable[[Path], str]
    """Makes it in a folder and returns its URI."""
    pipeline: dict[str, Any] = field(default_factory=dict)

    def settings(self, folder: Path, **blocks: Any) -> Settings:
        values = {"input_uri": self.source(folder), "samples_per_shard": 20, "on_error": "quarantine", **self.pipeline}
        return Settings.model_validate({"pipeline": values, **blocks})


def json_lines(folder: Path) -> str:
    write_jsonl(folder / "source.jsonl", 150, bad_every=17)
    return str(folder / "source.jsonl")


def plain_lines(folder: Path) -> str:
    """Only what LitData's classic layout holds."""
    rows = [{"id": i, "text": "wört " * (i * 7 % 40), "score": i / 7, "tokens": [i, i + 1]} for i in range(150)]
    lines = [json.dumps(row) if row["id"] != 44 else "{broken" for row in rows]
    (folder / "plain.jsonl").write_text("\n".join(lines))
    return str(folder / "plain.jsonl")


def nullable_lines(folder: Path) -> str:
    rows = [{"id": i, "text": None if i % 3 else "ä" * i, "meta": {"a": [i, None]}} for i in range(150)]
    (folder / "nulls.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n[1]\n")
    return str(folder / "nulls.jsonl")


def gzipped_lines(folder: Path) -> str:
    for number, samples in enumerate((70, 45)):
        write_jsonl(folder / "part", samples, seed=number, bad_every=13)
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress((folder / "part").read_bytes()))
    return f"{folder}/*.jsonl.gz"


def parquet(folder: Path) -> str:
    """Counted rows; the keys of some cannot be keys."""
    for number, (first, count) in enumerate(((0, 90), (90, 75))):
        keys = [f"k {i}" if i % 19 == 18 else f"k{i:05d}" for i in range(first, first + count)]
        blobs = [bytes([i % 256]) * (i * 31 % 900) for i in range(first, first + count)]
        table = pa.table({"key": keys, "bin": pa.array(blobs, pa.binary()), "n": list(range(count))})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=15)
    return f"{folder}/*.parquet"


def recording(folder: Path) -> str:
    """Epochs of several channels; some hold null."""
    eeg = [[[(i * 7 + c * 3 + n * n) % 251 - 99 for n in range(12)] for c in range(3)] for i in range(130)]
    rows: list[Any] = [None if i % 19 == 18 else each for i, each in enumerate(eeg)]
    rows = [[[None, 1], [2]] if i % 23 == 22 else each for i, each in enumerate(rows)]
    table = pa.table({"id": range(130), "eeg": pa.array(rows, pa.list_(pa.list_(pa.int16())))})
    pq.write_table(table, folder / "recording.parquet", row_group_size=15)
    return str(folder / "recording.parquet")


def tars(folder: Path) -> str:
    """One sample of each file has a member twice."""
    for number, count in enumerate((50, 35)):
        with tarfile.open(folder / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for i in range(count):
                add(archive, f"set{number}-{i:04d}.bin", bytes([i]) * (i * 37 % 2000))
                add(archive, f"set{number}-{i:04d}.{'bin' if i == 31 else 'json'}", json.dumps({"i": i}).encode())
    return f"{folder}/*.tar"


def plain_files(folder: Path) -> str:
    """Some of them are empty."""
    for i in range(90):
        path = folder / f"{'cat' if i % 2 else 'dog'}" / f"{i:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"" if i % 23 == 22 else b"\xff\xd8\xff" + bytes([i]) * (i * 41 % 3000))
    return str(folder)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


STAGES = "support.stages"

CASES: dict[str, Case] = {
    "jsonl to tar.gz": Case(json_lines, {"output_format": "tar.gz", "partition_bytes": 6_000}),
    "jsonl to litdata classic": Case(
        plain_lines, {"name": "litdata", "litdata_layout": "classic", "partition_bytes": 6_000, "on_error": "skip"}
    ),
    "jsonl to litdata arrow": Case(
        nullable_lines, {"name": "litdata", "litdata_layout": "arrow", "partition_bytes": 2_000}
    ),
    "jsonl.gz to tar": Case(gzipped_lines, {"on_error": "skip"}),
    "parquet to tar": Case(parquet, {"key_field": "key", "partition_bytes": 6_000}),
    "parquet to tar by size": Case(
        parquet, {"key_field": "key", "partition_bytes": 6_000, "max_shard_bytes": 15_000, "on_error": "skip"}
    ),
    "tar to tar": Case(tars, {"key_field": "__key__", "partition_bytes": 30_000, "on_error": "skip"}),
    "files to tar": Case(plain_files, {"partition_bytes": 30_000}),
    "jsonl mapped and filtered": Case(
        json_lines,
        {
            "partition_bytes": 6_000,
            "stages": [{"filter": {"call": f"{STAGES}:is_even"}}, {"map": {"call": f"{STAGES}:stamped"}}],
        },
    ),
    "jsonl looked at beside the way": Case(
        json_lines,
        {
            "partition_bytes": 6_000,
            "pools": {"look": {"bytes": "20kB"}},
            "stages": [
                {
                    "map": {"call": f"{STAGES}:stamped"},
                    "outputs": [{"name": "out"}, {"name": "look", "queue_capacity": 1}],
                },
                {"preview": {"samples": 3}, "input": "map.out"},
                {f"{STAGES}:Look": {}, "input": "map.look", "pool": "look"},
            ],
            "writers": [{"name": "w", "input": "map.out"}],
        },
    ),
    "a source of one's own": Case(
        lambda _: "python://support.own_sources:Feed", {"source_options": {"arguments": {"parts": 2, "each": 75}}}
    ),
    "jsonl tallied": Case(
        json_lines, {"partition_bytes": 6_000, "max_shard_bytes": 7_000, "stages": [{f"{STAGES}:Tally": {}}]}
    ),
    "jsonl tallied in threads, multiplied and divided": Case(
        json_lines,
        {
            "stages": [
                {"map": {"call": f"{STAGES}:stamped"}, "executor": "thread", "workers": 3},
                {f"{STAGES}:Tally": {}, "name": "tally"},
                {f"{STAGES}:Copies": {}, "name": "copies"},
                {
                    f"{STAGES}:Parity": {},
                    "outputs": [{"name": "even"}, {"name": "odd"}, {"name": "rare"}],
                    "name": "parity",
                },
            ],
            "max_lag_samples": 70,
        },
    ),
    "arrays filtered in place": Case(
        recording,
        {
            "partition_bytes": 9_000,
            "on_error": "skip",
            "samples_per_shard": 10,
            "stages": [
                {"signal": {"field": "eeg", "scale": 0.25}, "name": "volts"},
                {"signal": {"field": "eeg", "coeffs": [0.5, 0.3, 0.2]}, "name": "fir"},
                {"signal": {"field": "eeg", "coeffs": [1, -1]}, "name": "edges"},
                {f"{STAGES}:Tally": {}},
            ],
        },
    ),
    "jsonl tallied before a shuffle": Case(
        json_lines,
        {"partition_bytes": 9_000, "stages": [{f"{STAGES}:Tally": {}}, {"shuffle": {"window": 16}}]},
    ),
    "parquet multiplied": Case(
        parquet,
        {
            "key_field": "key",
            "partition_bytes": 6_000,
            "max_shard_bytes": 15_000,
            "stages": [{f"{STAGES}:Copies": {"most": 5}}],
        },
    ),
    "parquet shuffled as a whole": Case(
        parquet,
        {
            "key_field": "key",
            "partition_bytes": 12_000,
            "stages": [{"shuffle": {"window": 40, "scope": "dataset"}}],
        },
    ),
    "jsonl shuffled": Case(
        json_lines, {"partition_bytes": 12_000, "samples_per_shard": 7, "stages": [{"shuffle": {"window": 16}}]}
    ),
    "jsonl to three writers": Case(
        json_lines,
        {
            "partition_bytes": 12_000,
            "samples_per_shard": 9,
            "max_lag_samples": 40,
            "stages": [
                {f"{STAGES}:Copies": {"most": 3}, "name": "copies"},
                {"shuffle": {"window": 16}},
                {f"{STAGES}:Parity": {}, "name": "parity"},
            ],
            "writers": [
                {"name": "odd", "input": "parity.odd"},
                {"name": "even", "input": "parity.even", "format": "litdata", "samples_per_shard": 5},
                {"name": "rare", "input": "parity.rare", "output_format": "tar.gz"},
            ],
        },
    ),
    "jsonl through threads": Case(
        json_lines,
        {
            "partition_bytes": 6_000,
            "stages": [
                {"filter": {"call": f"{STAGES}:is_even"}},
                {"map": {"call": f"{STAGES}:stamped"}, "executor": "thread", "workers": 5},
                {"shuffle": {"window": 16}},
                {"map": {"call": f"{STAGES}:is_even_too"}, "executor": "thread", "output": {"queue_capacity": 2}},
            ],
        },
    ),
    "parquet shuffled beside its own order": Case(
        parquet,
        {
            "partition_bytes": 12_000,
            "samples_per_shard": 10,
            "stages": [
                {"shuffle": {"window": 16}},
                {"map": {"call": f"{STAGES}:is_small_or_not"}, "input": "source", "name": "same"},
            ],
            "writers": [{"name": "same", "input": "same"}, {"name": "shuffled", "input": "shuffle"}],
        },
    ),
    "jsonl waited for and shuffled": Case(
        json_lines,
        {
            "samples_per_shard": 9,
            "stages": [
                {"map": {"call": f"{STAGES}:stamped"}, "executor": "thread", "workers": 3},
                {"shuffle": {"window": 100}},
            ],
        },
    ),
    "jsonl exploded with keys that repeat": Case(
        json_lines,
        {
            "key_field": "id",
            "max_lag_samples": 10,
            "samples_per_shard": 1000,
            "stages": [{f"{STAGES}:Copies": {"most": 4}}, {"map": {"call": f"{STAGES}:own_key"}}],
            "writers": [{"name": "plain", "input": "source"}, {"name": "copies", "input": "map"}],
        },
    ),
    "jsonl shuffled and deduped": Case(
        json_lines,
        {
            "partition_bytes": 6_000,
            "samples_per_shard": 5,
            "stages": [{"shuffle": {"window": 16}}, {"dedupe": {"fields": ["text"]}}],
        },
    ),
    "jsonl joined by name": Case(
        json_lines,
        {
            "partition_bytes": 6_000,
            "stages": [
                {f"{STAGES}:Copies": {"most": 3}, "name": "copies"},
                {"map": {"call": f"{STAGES}:stamped"}, "name": "stamp", "input": "source"},
                {f"{STAGES}:Captioned": {}, "name": "joined", "input": {"texts": "copies", "pictures": "stamp"}},
                {"map": {"call": f"{STAGES}:is_even_too"}, "name": "even", "input": "joined.both"},
            ],
            "writers": [{"name": "with", "input": "even"}, {"name": "without", "input": "joined.alone"}],
        },
    ),
    "parquet joined": Case(
        parquet,
        {
            "partition_bytes": 6_000,
            "stages": [
                {f"{STAGES}:Copies": {"most": 3}, "name": "copies"},
                {f"{STAGES}:Parity": {}, "name": "parity", "input": "source"},
                {"filter": {"call": f"{STAGES}:is_small"}, "input": ["copies", "parity.odd"]},
            ],
            "writers": [
                {"name": "joined", "input": "filter"},
                {"name": "even", "input": "parity.even"},
                {"name": "rare", "input": "parity.rare"},
            ],
        },
    ),
}


def names_of(tree: dict[str, bytes], ending: Sequence[str] = (".tar", ".tar.gz", ".bin")) -> list[str]:
    """The shards of a tree."""
    return [name for name in tree if name.endswith(tuple(ending))]
