"""Other ways to chunks of dicts with arrays, and floors; one per process: `python -m benchmarks.peers.dicts`."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

CHUNK = 64_000_000
BATCH = 1_000
TOKENS = 512
_KEPT: list[object] = []


def _batches(source: str, group: int | None = None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        yield from file.iter_batches(BATCH, row_groups=None if group is None else [group])


def _pylist(source: str, group: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows as most manuals make them."""
    import numpy as np

    for batch in _batches(source, group):
        for row in batch.to_pylist():
            yield {**row, "tokens": np.array(row["tokens"], np.int32)}


def _columns(source: str, group: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows made with care: no Python object for a token."""
    for batch in _batches(source, group):
        ids, texts, tokens = batch.column("id").to_pylist(), batch.column("text").to_pylist(), batch.column("tokens")
        rows = tokens.flatten().to_numpy().reshape(len(batch), TOKENS)
        for number, text, row in zip(ids, texts, rows, strict=True):
            yield {"id": number, "text": text, "tokens": row}


def _group(rows: Callable[..., Iterator[dict[str, Any]]], source: str, group: int) -> Iterator[dict[str, Any]]:
    yield from rows(source, group)


def litdata(source: Path, out: Path, *, rows: Callable[..., Iterator[dict[str, Any]]], workers: int) -> None:
    """`litdata.optimize` over the row groups."""
    import pyarrow.parquet as pq
    from litdata import optimize

    with pq.ParquetFile(source) as file:
        groups = list(range(file.num_row_groups))
    optimize(
        partial(_group, rows, str(source)),
        groups,
        str(out),
        chunk_bytes=CHUNK,
        num_workers=workers,
        mode="overwrite",
        verbose=False,
    )


def mds(source: Path, out: Path) -> None:
    """`streaming.MDSWriter`, fed with care."""
    stand_in_for_torchvision()
    from streaming import MDSWriter

    columns = {"id": "int64", "text": "str", "tokens": f"ndarray:int32:{TOKENS}"}
    with MDSWriter(out=str(out), columns=columns, size_limit=CHUNK) as writer:
        for row in _columns(str(source)):
            writer.write(row)


def stand_in_for_torchvision() -> None:
    """`streaming` imports torchvision, whose operators are built for another torch than the CPU's: name those missing."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    _KEPT.append(library)  # the names go with it
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def read(source: Path, _out: Path) -> None:
    """The Parquet read, batch by batch."""
    for _ in _batches(str(source)):
        pass


def to_pylist(source: Path, _out: Path) -> None:
    """The Parquet as Python objects."""
    for batch in _batches(str(source)):
        batch.to_pylist()


def import_litdata(_source: Path, _out: Path) -> None:
    """What `litdata.optimize` costs before its first row."""
    import litdata  # noqa: F401


def import_streaming(_source: Path, _out: Path) -> None:
    """What `MDSWriter` costs before its first row."""
    stand_in_for_torchvision()
    import streaming  # noqa: F401


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "litdata-pylist": partial(litdata, rows=_pylist, workers=1),
    "litdata-1": partial(litdata, rows=_columns, workers=1),
    "litdata-2": partial(litdata, rows=_columns, workers=2),
    "mds": mds,
    "read": read,
    "to_pylist": to_pylist,
    "import-litdata": import_litdata,
    "import-streaming": import_streaming,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
