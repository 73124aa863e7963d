"""Other ways to the same shards, and the least that any way must do; one per process: `python -m benchmarks.peers.tars`."""

import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

Sample = dict[str, Any]


def _lines(source: Path) -> IO[bytes]:
    return gzip.open(source) if source.suffix == ".gz" else source.open("rb")  # type: ignore[return-value]


def _write(samples: Iterator[Sample], out: Path, per_shard: int, **options: Any) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{out}/%06d.tar", maxcount=per_shard, maxsize=1e12, verbose=0, **options) as sink:
        for sample in samples:
            sink.write(sample)


def _with_image(number: int, row: Sample) -> Sample:
    return {"__key__": f"{number:08d}", "jpg": row.pop("jpg"), "json": row}


def datasets(source: Path, out: Path, per_shard: int) -> None:
    """`datasets` streaming into `webdataset.ShardWriter`, as their manuals show it."""
    from datasets import load_dataset

    kind = "parquet" if source.suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=str(source), split="train", streaming=True)
    if kind == "parquet":
        _write((_with_image(i, row) for i, row in enumerate(rows)), out, per_shard)
        return
    _write(({"__key__": f"{i:08d}", "json": row} for i, row in enumerate(rows)), out, per_shard)


def _image_rows(source: Path) -> Iterator[Sample]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(1_000):
            yield from batch.to_pylist()


def loop(source: Path, out: Path, per_shard: int) -> None:
    """A plain loop over `json` or `pyarrow` into `webdataset.ShardWriter`."""
    if source.suffix == ".parquet":
        _write((_with_image(i, row) for i, row in enumerate(_image_rows(source))), out, per_shard)
        return
    with _lines(source) as file:
        rows = (json.loads(line) for line in file)
        _write(({"__key__": f"{i:08d}", "json": row} for i, row in enumerate(rows)), out, per_shard)


def tuned(source: Path, out: Path, per_shard: int) -> None:
    """The loop with everything that makes `ShardWriter` faster: no time, no encoder, orjson."""
    import orjson

    options = {"mtime": 0, "encoder": False}
    if source.suffix == ".parquet":
        samples = (_with_image(i, row) for i, row in enumerate(_image_rows(source)))
        _write(({**sample, "json": orjson.dumps(sample["json"])} for sample in samples), out, per_shard, **options)
        return
    with _lines(source) as file:
        texts = (orjson.dumps(orjson.loads(line)) for line in file)
        _write(({"__key__": f"{i:08d}", "json": text} for i, text in enumerate(texts)), out, per_shard, **options)


_OWNER = b"0000444\0" + b"0000000\0" * 2
_TIME = b"0" * 11 + b"\0"
_REST = b"\0 0".ljust(103, b"\0") + (b"ustar\x0000bigdata".ljust(40, b"\0") + b"bigdata").ljust(255, b"\0")
_PLAIN = sum(_OWNER) + sum(_TIME) + sum(_REST) - ord(" ") + 8 * ord(" ")


def _member(name: bytes, content: bytes | memoryview) -> list[bytes | memoryview]:
    octal = b"%011o" % len(content)
    name = name.ljust(100, b"\0")
    checksum = b"%06o" % (_PLAIN + sum(name) + sum(octal))
    return [b"".join((name, _OWNER, octal, b"\0", _TIME, checksum, _REST)), content, bytes(-len(content) % 512)]


def floor(source: Path, out: Path, per_shard: int) -> None:
    """Header and payload of every sample, written in blocks: no check, no hash, nothing safe."""
    members: Iterator[list[bytes | memoryview]]
    if source.suffix == ".parquet":
        import orjson

        members = (
            _member(b"%08d.jpg" % i, image) + _member(b"%08d.json" % i, orjson.dumps(row))
            for i, (image, row) in enumerate(_image_columns(source))
        )
        _blocks(members, out, per_shard)
        return
    with _lines(source) as file:
        _blocks((_member(b"%08d.json" % i, line[:-1]) for i, line in enumerate(file)), out, per_shard)


def _image_columns(source: Path) -> Iterator[tuple[memoryview, Sample]]:
    """Images where they lie in Arrow's buffers, and the other fields."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(40, use_threads=False):
            images: Any = batch.column("jpg")
            _, offsets, content = images.buffers()
            edges = np.frombuffer(offsets, np.int32)[images.offset : images.offset + len(images) + 1].tolist()
            data = memoryview(content)
            rows = batch.drop_columns(["jpg"]).to_pylist()
            yield from ((data[edges[i] : edges[i + 1]], row) for i, row in enumerate(rows))


def _blocks(members: Iterator[list[bytes | memoryview]], out: Path, per_shard: int) -> None:
    parts: list[bytes | memoryview] = []
    file: IO[bytes] | None = None
    size = 0
    for number, member in enumerate(members):
        if number % per_shard == 0:
            _end(file, parts)
            file, parts, size = (out / f"{number // per_shard:06d}.tar").open("wb", buffering=0), [], 0
        parts += member
        size += sum(map(len, member))
        if file is not None and size >= 1 << 20:
            file.write(b"".join(parts))
            parts, size = [], 0
    _end(file, parts)


def _end(file: IO[bytes] | None, parts: list[bytes | memoryview]) -> None:
    if file is None:
        return
    with file:
        file.write(b"".join(parts))
        size = file.tell()
        file.write(bytes(1_024 + -(size + 1_024) % 10_240))


def sha256(source: Path, _out: Path, _per_shard: int) -> None:
    """SHA-256 of the stored source: about what hashing the output costs."""
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def copy(source: Path, out: Path, _per_shard: int) -> None:
    """The stored source copied in blocks of 1 MB."""
    with source.open("rb", buffering=0) as file, (out / "copy").open("wb", buffering=0) as copy:
        while block := file.read(1 << 20):
            copy.write(block)


def same_bytes(source: Path, out: Path, _per_shard: int) -> None:
    """Parquet read column by column, and every byte of the columns written; no rows, no headers."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file, (out / "bytes").open("wb", buffering=0) as written:
        for batch in file.iter_batches(40, use_threads=False):
            columns: list[Any] = batch.columns
            for column in columns:
                start, end = _extent(column)
                written.write(memoryview(column.buffers()[-1])[start:end])


def _extent(column: Any) -> tuple[int, int]:
    """Where the values of a slice lie in its last buffer."""
    import numpy as np

    if len(column.buffers()) == 3:
        edges = np.frombuffer(column.buffers()[1], np.int32)
        return int(edges[column.offset]), int(edges[column.offset + len(column)])
    width = column.type.bit_width // 8
    return column.offset * width, (column.offset + len(column)) * width


WAYS: dict[str, Callable[[Path, Path, int], None]] = {
    way.__name__: way for way in (datasets, loop, tuned, floor, sha256, copy, same_bytes)
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
