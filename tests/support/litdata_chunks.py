"""LitData writers and chunks for tests."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.writer_contract import pack_shard

from data_bridge.config import PipelineSettings
from data_bridge.model.batch import Row, Rows
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.litdata import LitDataWriter

ROW: Row = {"id": 7, "ok": True, "x": 0.5, "text": "räksmörgås", "tokens": [1, 2, 3], "weights": [0.5, 1.0]}
"""One of each classic leaf."""


def pipeline(**values: Any) -> PipelineSettings:
    return PipelineSettings(name="litdata", input_uri="data.jsonl", **values)


def observed(rows: Sequence[Row]) -> Probe:
    names = dict.fromkeys(name for row in rows for name in row)
    return Probe(tuple(Field(name=name, type="json") for name in names), declared=False, rows=list(rows))


def declared(types: Mapping[str, str], rows: Sequence[Row] = ()) -> Probe:
    fields = tuple(Field(name=name, type=kind) for name, kind in types.items())
    return Probe(fields, declared=True, rows=list(rows))


def frozen(probe: Probe, **values: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(LitDataWriter.freeze(pipeline(**values), probe)))
    return found


def writer_for(probe: Probe, **values: Any) -> LitDataWriter:
    return LitDataWriter(pipeline(**values), frozen(probe, **values))


def kinds(found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {leaf["name"]: (leaf["kind"], leaf["type"]) for leaf in found["leaves"]}


def chunk(writer: LitDataWriter, folder: Path, rows: Rows) -> bytes:
    run = writer.encode(rows, [])
    assert run.failures == ()
    path = folder / f"chunk-{len(list(folder.iterdir()))}"
    pack_shard(writer, path, [run])
    return path.read_bytes()


def by_hand(rows: Sequence[Row], dtypes: Mapping[str, str]) -> bytes:
    """A classic chunk made leaf by leaf with `struct`: the reference."""

    def leaf(name: str, value: Any) -> bytes:
        if name in dtypes:
            return np.array(value, dtype=dtypes[name]).tobytes()
        if isinstance(value, bool):
            return struct.pack("<?", value)
        return struct.pack("<q", value) if isinstance(value, int) else (
            struct.pack("<d", value) if isinstance(value, float) else value.encode() if isinstance(value, str) else bytes(value)
        )  # fmt: skip

    items = []
    for row in rows:
        leaves = [leaf(name, value) for name, value in row.items()]
        items.append(struct.pack(f"<{len(leaves)}I", *map(len, leaves)) + b"".join(leaves))
    offsets = [4 + 4 * (len(items) + 1)]
    for item in items:
        offsets.append(offsets[-1] + len(item))
    return struct.pack(f"<{len(offsets) + 1}I", len(items), *offsets) + b"".join(items)


def arrow_rows_of(data: bytes) -> list[Row]:
    """Rows of an Arrow chunk, found the way its reader finds them."""
    assert data.endswith(b"LDARW01\0")
    (length,) = struct.unpack("<I", data[-12:-8])
    rows: list[Row] = pa.ipc.open_file(data[-12 - length : -12]).read_all().to_pylist()
    return rows


def schema(columns: Sequence[tuple[str, Any]]) -> pa.Schema:
    return pa.schema(columns)
