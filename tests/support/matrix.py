"""One set of samples in every source format, and every reader's view of the datasets made of it."""

import base64
import csv
import gzip
import io
import itertools
import json
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.fake_hub import FakeHub
from support.litdata_chunks import arrow_rows_of

Sample = dict[str, Any]

HUB_CARD = b"""---
dataset_info:
  features:
  - name: id
    dtype: int64
  - name: caption
    dtype: string
  - name: score
    dtype: float64
  - name: note
    dtype: string
  - name: meta
    struct:
    - name: tags
      sequence: string
    - name: size
      struct:
      - name: w
        dtype: int64
      - name: h
        dtype: int64
  - name: image
    dtype: image
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
META = pa.struct([("tags", pa.list_(pa.string())), ("size", pa.struct([("w", pa.int64()), ("h", pa.int64())]))])
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption": pa.string(),
    "score": pa.float64(),
    "note": pa.string(),
    "meta": META,
}


@dataclass(frozen=True)
class Source:
    """Where the samples lie, and what a dataset made of them must hold, in order."""

    uri: str
    expected: list[Sample]
    """Fields by name; an image is bytes."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further settings of `pipeline`."""


def samples(count: int = 70) -> list[Sample]:
    """Text of any script, a number, a null, something nested, and an image."""
    return [
        {
            "id": i,
            "caption": f'räksmörgås "{i}", 寿司\nand a second line' + " 🍣" * (i % 7),
            "score": i / 3,
            "note": None if i % 3 else f"note {i}",
            "meta": {"tags": [f"t{n}" for n in range(i % 4)], "size": {"w": 8, "h": i}},
            "image": picture(i),
        }
        for i in range(count)
    ]


def picture(number: int) -> bytes:
    """A small PNG that only this number has."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def text_of(rows: Sequence[Sample]) -> list[Sample]:
    """The samples without what JSON cannot hold."""
    return [{name: value for name, value in row.items() if name != "image"} for row in rows]


def halves(rows: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Two uneven files."""
    return [rows[: len(rows) // 3], rows[len(rows) // 3 :]]


def parquet(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    columns = pa.schema([*COLUMNS.items(), ("image", pa.binary())])
    for number, part in enumerate(halves(rows)):
        pq.write_table(pa.Table.from_pylist(list(part), columns), folder / f"{number}.parquet", row_group_size=10)
    return Source(f"{folder}/*.parquet", list(rows))


def jsonl(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    for number, part in enumerate(halves(text_of(rows))):
        (folder / f"{number}.jsonl").write_bytes(_lines(part))
    return Source(f"{folder}/*.jsonl", text_of(rows), {"partition_bytes": 4000})


def jsonl_gz(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    for number, part in enumerate(halves(text_of(rows))):
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(_lines(part)))
    return Source(f"{folder}/*.jsonl.gz", text_of(rows))


def csv_(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    names = ("id", "caption", "score", "note")
    flat = [{name: row[name] for name in names} for row in rows]
    for number, part in enumerate(halves(flat)):
        with (folder / f"{number}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(part)
    options = {"source_options": {"csv_types": {"id": "int64", "score": "float64"}}, "partition_bytes": 2000}
    return Source(f"{folder}/*.csv", flat, options)


def images(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    """The layout that `datasets` calls an image folder: files beside a metadata.jsonl."""
    described = []
    for row in rows:
        name = f"{row['id']:04d}.png"
        (folder / name).write_bytes(row["image"])
        described.append({"file_name": name, **{k: v for k, v in row.items() if k != "image"}})
    (folder / "metadata.jsonl").write_bytes(_lines(described))
    return Source(str(folder), [{"path": f"{row['id']:04d}.png", **row} for row in rows])


def tar(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    for number, part in enumerate(halves(rows)):
        with tarfile.open(folder / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for row, text in zip(part, text_of(part), strict=True):
                for extension, content in (("png", row["image"]), ("json", json.dumps(text).encode())):
                    info = tarfile.TarInfo(f"set/{row['id']:05d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return Source(f"{folder}/*.tar", list(rows))


def hub(_folder: Path, rows: Sequence[Sample], server: FakeHub) -> Source:
    server.push("org/pictures", _hub_files(rows))
    return Source("hf://org/pictures", list(rows), {"source_options": {"split": "train"}})


def hub_streaming(_folder: Path, rows: Sequence[Sample], server: FakeHub) -> Source:
    server.push("org/streamed", _hub_files(rows))
    return Source("hf://org/streamed", list(rows), {"source_options": {"split": "train", "streaming": "always"}})


def plain_jsonl(folder: Path, rows: Sequence[Sample], _hub: FakeHub) -> Source:
    """Nothing that LitData's classic layout cannot hold."""
    plain = [
        {"id": r["id"], "caption": r["caption"], "score": r["score"], "even": r["id"] % 2 == 0, "tokens": [r["id"], 7]}
        for r in rows
    ]
    (folder / "plain.jsonl").write_bytes(_lines(plain))
    return Source(f"{folder}/plain.jsonl", plain)


SOURCES: dict[str, Callable[[Path, Sequence[Sample], FakeHub], Source]] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "jsonl.gz": jsonl_gz,
    "csv": csv_,
    "image folder": images,
    "tar": tar,
    "hub": hub,
    "hub, streaming": hub_streaming,
    "jsonl, plain values": plain_jsonl,
}


def _hub_files(rows: Sequence[Sample]) -> dict[str, bytes]:
    files = {"README.md": HUB_CARD}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = pa.schema([*COLUMNS.items(), ("image", image)])
    parts = halves(rows)
    for number, part in enumerate(parts):
        table = [{**row, "image": {"bytes": row["image"], "path": f"{row['id']}.png"}} for row in part]
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table, columns), out, row_group_size=10)
        files[f"data/train-{number:05d}-of-{len(parts):05d}.parquet"] = out.getvalue()
    return files


def _lines(rows: Sequence[Sample]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def from_tar(sample: Mapping[str, Any]) -> Sample:
    """A sample as `webdataset` gives it, raw, as the source's fields."""
    fields: Sample = json.loads(sample["json"])
    return {**fields, "image": sample["png"]} if "png" in sample else fields


def from_hf(sample: Mapping[str, Any]) -> Sample:
    """A sample as `datasets` gives it, undecoded, as the source's fields."""
    fields = dict(sample["json"])
    return {**fields, "image": sample["png"]["bytes"]} if "png" in sample else fields


def from_litdata(sample: Mapping[str, Any]) -> Sample:
    """A sample of LitData chunks as the source's fields, whichever of the two readers gave it."""
    fields = {name: _plain(value) for name, value in sample.items()}
    if "png" in fields:  # a tar's members stay what they were
        return {**json.loads(fields["json"]), "image": fields["png"]}
    return fields


def _plain(value: Any) -> Any:
    match value:
        case {"bytes": str(encoded)} if len(value) == 1:
            return base64.b64decode(encoded)
        case {"ndarray": str(), "items": list(items)} if len(value) == 2:
            return items
        case np.ndarray():
            return value.tolist()
    return value


def litdata_rows(get: Callable[[str], bytes]) -> list[Sample]:
    """Every sample of a LitData dataset by the format's own rules: `index.json`, chunk headers, leaves."""
    index = json.loads(get("index.json"))
    config = index["config"]
    rows: list[Sample] = []
    for chunk in index["chunks"]:
        data = get(chunk["filename"])
        found = arrow_rows_of(data) if data.endswith(b"LDARW01\0") else _classic_rows(data, config)
        assert len(found) == chunk["chunk_size"]
        rows += found
    return rows


def _classic_rows(data: bytes, config: Mapping[str, Any]) -> list[Sample]:
    names = json.loads(json.loads(config["data_spec"])[1]["context"])
    (count,) = struct.unpack_from("<I", data)
    offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
    assert offsets[-1] == len(data)
    return [
        dict(zip(names, _leaves(data[lo:hi], config["data_format"]), strict=True))
        for lo, hi in itertools.pairwise(offsets)
    ]


def _leaves(item: bytes, kinds: Sequence[str]) -> list[Any]:
    sizes = struct.unpack_from(f"<{len(kinds)}I", item)
    at = 4 * len(kinds)
    values = []
    for kind, size in zip(kinds, sizes, strict=True):
        values.append(_leaf(kind, item[at : at + size]))
        at += size
    assert at == len(item)
    return values


def _leaf(kind: str, data: bytes) -> Any:
    if kind == "str":
        return data.decode()
    if kind == "no_header_numpy:3":
        return np.frombuffer(data, "<i8")
    (value,) = struct.unpack({"int": "<q", "float": "<d", "bool": "<?"}[kind], data)
    return value
