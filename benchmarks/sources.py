"""Generated sources, the same for every contestant and every machine; kept between runs where asked."""

import gzip
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

SEED = 20
IMAGE_BYTES = 50_000
WORDS = 40
TOKENS = 512
_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@dataclass(frozen=True, slots=True)
class Source:
    """A generated file, and what it holds."""

    path: Path
    samples: int

    def rows(self) -> Iterator[tuple[bytes | None, object]]:
        """Every sample as (image or None, its other fields), in order."""
        if self.path.suffix == ".parquet":
            yield from _image_rows(self.path)
            return
        with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as file:
            for line in file:
                yield None, orjson.loads(line)


def images(samples: int, folder: Path) -> Source:
    """Parquet of about 50 KB a row, incompressible."""
    return _kept(samples, folder / f"images-{samples}.parquet", _write_images)


def lines(samples: int, folder: Path) -> Source:
    """JSON lines of about 400 bytes."""
    return _kept(samples, folder / f"rows-{samples}.jsonl", _write_rows)


def gzipped(samples: int, folder: Path) -> Source:
    """The same lines, gzipped as one stream."""
    plain = lines(samples, folder).path
    return _kept(samples, plain.with_suffix(".jsonl.gz"), lambda path, _: _compress(plain, path))


def dicts(samples: int, folder: Path) -> Source:
    """Parquet of {id, text of about 120 characters, 512 tokens}."""
    return _kept(samples, folder / f"dicts-{samples}.parquet", _write_dicts)


def _kept(samples: int, path: Path, write: Callable[[Path, int], None]) -> Source:
    """The file of a run before, or a new one."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        write(part, samples)
        part.replace(path)
    return Source(path, samples)


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


def _write_dicts(path: Path, samples: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(SEED)
    alphabet = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)
    types = {"id": pa.int64(), "text": pa.string(), "tokens": pa.list_(pa.int32())}
    schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, samples, 10_000):
            numbers = np.arange(first, min(first + 10_000, samples))
            ends = np.cumsum(rng.integers(100, 141, len(numbers)))
            letters = alphabet[rng.integers(0, len(alphabet), ends[-1])].tobytes().decode()
            tokens: Any = pa.array(rng.integers(0, 50_000, len(numbers) * TOKENS, np.int32))
            edges: Any = np.arange(len(numbers) + 1, dtype=np.int32) * TOKENS
            columns = {
                "id": numbers,
                "text": [letters[start:end] for start, end in pairwise([0, *ends.tolist()])],
                "tokens": pa.ListArray.from_arrays(edges, tokens),
            }
            writer.write_table(pa.table(columns, schema=schema))


def _image_rows(path: Path) -> Iterator[tuple[bytes, object]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(500):
            for row in batch.to_pylist():
                yield row.pop("jpg"), row
