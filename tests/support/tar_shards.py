"""Rows and shards for tests of the tar writer."""

import datetime as dt
import io
import tarfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from support.writer_contract import arrow_rows, index_keys, pack_shard

from data_bridge.config import PipelineSettings
from data_bridge.model.batch import DictRows, Row, Rows
from data_bridge.model.shards import Encoded
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.webdataset import WebDatasetWriter
from data_bridge.rows.decoding import decode

MEDIA: Any = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pipeline(**options: Any) -> PipelineSettings:
    return PipelineSettings(input_uri="in", **options)


def probe_of(rows: Sequence[Row], schema: pa.Schema | None = None) -> Probe:
    if schema is None:
        names = dict.fromkeys(name for row in rows for name in row)
        return Probe(tuple(Field(name=n, type="json") for n in names), declared=False, rows=list(rows))
    fields = tuple(Field(name=f.name, type="media" if f.type == MEDIA else str(f.type)) for f in schema)
    return Probe(fields, declared=True, rows=decode(arrow_rows(rows, schema))[0])


def writer_for(rows: Sequence[Row], schema: pa.Schema | None = None, **options: Any) -> WebDatasetWriter:
    wanted = pipeline(**options)
    return WebDatasetWriter(wanted, WebDatasetWriter.freeze(wanted, probe_of(rows, schema)))


def encode(writer: WebDatasetWriter, rows: Rows) -> Encoded:
    return writer.encode(rows, index_keys(len(rows)))


def shard(path: Path, rows: Sequence[Row], schema: pa.Schema | None = None, **options: Any) -> Path:
    """A shard of rows (of an Arrow batch when there is a schema) that must all be good."""
    writer = writer_for(rows, schema, **options)
    run = encode(writer, DictRows(rows) if schema is None else arrow_rows(rows, schema))
    assert run.failures == ()
    pack_shard(writer, path, [run])
    assert writer.check(path) == len(rows)
    return path


def tar_members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


RICH_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("big", pa.int64()),
        ("ratio", pa.float64()),
        ("none", pa.int32()),
        ("when", pa.timestamp("ns", "UTC")),
        ("price", pa.decimal128(10, 2)),
        ("tokens", pa.list_(pa.int32())),
        ("nested", pa.struct([("tags", pa.list_(pa.string())), ("raw", pa.binary())])),
        ("image", MEDIA),
    ]
)
RICH: list[Row] = [
    {
        "text": f"zażółć \u4e2d\u6587 \U0001f600 \u2028 {i}",
        "big": 2**63 - 1 - i,
        "ratio": 0.1 + i,
        "none": None if i % 2 else i,
        "when": dt.datetime(2024, 2, 29, 12, 0, i, 123456, tzinfo=dt.UTC),
        "price": Decimal("1.10") + i,
        "tokens": list(range(i)),
        "nested": {"tags": ["a", None], "raw": b"\x00\xff"},
        "image": {"bytes": jpeg(i), "path": f"photos/{i}.jpg"},
    }
    for i in range(12)
]
RICH_JSON: list[Row] = [
    {
        "text": row["text"],
        "big": row["big"],
        "ratio": row["ratio"],
        "none": row["none"],
        "when": f"2024-02-29T12:00:{i:02d}.123456000Z",
        "price": str(row["price"]),
        "tokens": row["tokens"],
        "nested": {"tags": ["a", None], "raw": "AP8="},
    }
    for i, row in enumerate(RICH)
]


def by_webdataset(path: Path) -> list[dict[str, Any]]:
    import webdataset

    samples = list(webdataset.WebDataset([str(path)], shardshuffle=False))
    return [{k: v for k, v in sample.items() if k not in ("__url__", "__local_path__")} for sample in samples]
