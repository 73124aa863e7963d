"""The work: generated sources, the same for every contestant and every machine."""

import gzip
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

SEED = 20
IMAGE_BYTES = 50_000
WORDS = 40
_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@dataclass(frozen=True, slots=True)
class Workload:
    """One source and how many of its samples a shard takes."""

    name: str
    title: str
    source: Path
    samples: int
    per_shard: int

    @property
    def is_images(self) -> bool:
        return self.source.suffix == ".parquet"

    def rows(self) -> Iterator[tuple[bytes | None, object]]:
        """Every sample as (image or None, its other fields), in order."""
        if self.is_images:
            yield from _image_rows(self.source)
            return
        with gzip.open(self.source) if self.source.suffix == ".gz" else self.source.open("rb") as file:
            for line in file:
                yield None, orjson.loads(line)


def make(name: str, scale: float, folder: Path) -> Workload:
    """The workload of that name, generated unless its source is there from a run before."""
    folder.mkdir(parents=True, exist_ok=True)
    samples, per_shard = (20_000, 2_000) if name == "W1" else (1_000_000, 20_000)
    samples = max(1, round(samples * scale))
    if name == "W1":
        source = _kept(folder / f"images-{samples}.parquet", lambda path: _write_images(path, samples))
        return Workload(name, f"{samples:,} images of ~50 KB, Parquet → tar", source, samples, per_shard)
    lines = _kept(folder / f"rows-{samples}.jsonl", lambda path: _write_rows(path, samples))
    if name == "W2":
        return Workload(name, f"{samples:,} JSON lines of ~400 B → tar", lines, samples, per_shard)
    packed = _kept(lines.with_suffix(".jsonl.gz"), lambda path: _compress(lines, path))
    return Workload(name, f"{samples:,} gzipped JSON lines of ~400 B → tar", packed, samples, per_shard)


def _kept(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        part = path.with_name(f".{path.name}.part")
        write(part)
        part.replace(path)
    return path


def _write_rows(path: Path, samples: int) -> None:
    rng = random.Random(SEED)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöü", k=rng.randint(2, 11))) for _ in range(5_000)]
    with path.open("wb") as file:
        for number in range(samples):
            row = {
                "id": number,
                "text": " ".join(rng.choices(words, k=WORDS)),
                "source": f"https://example.org/{number % 977}/{number}",
                "lang": "en",
                "score": rng.random(),
                "tokens": [number % 7, number % 11],
            }
            file.write(orjson.dumps(row) + b"\n")


def _compress(source: Path, path: Path) -> None:
    with source.open("rb") as file, gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) as packed:
        shutil.copyfileobj(file, packed, 1 << 20)


def _write_images(path: Path, samples: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(SEED)
    types = {"jpg": pa.binary(), "id": pa.int64(), "caption": pa.string(), "label": pa.int32(), "score": pa.float64()}
    schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, samples, 1_000):
            numbers = range(first, min(first + 1_000, samples))
            columns = {
                "jpg": [
                    _JPEG + rng.randbytes(rng.randint(IMAGE_BYTES - 10_000, IMAGE_BYTES + 10_000)) for _ in numbers
                ],
                "id": list(numbers),
                "caption": [f"picture {n} of a {n % 13}-sided thing" for n in numbers],
                "label": [n % 1_000 for n in numbers],
                "score": [rng.random() for _ in numbers],
            }
            writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000)


def _image_rows(path: Path) -> Iterator[tuple[bytes, object]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(500):
            for row in batch.to_pylist():
                yield row.pop("jpg"), row
