"""Reads chunks with the reader of those who trained on them, and compares with the source: ends with 1 if they differ.

`python -m benchmarks.peers.read_dicts litdata|mds SOURCE FOLDER`, in the peers' environment.
"""

import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.peers.dicts import stand_in_for_torchvision


def samples(kind: str, folder: str) -> Iterator[dict[str, Any]]:
    """Every sample, as `StreamingDataset` gives it."""
    if kind == "litdata":
        from litdata import StreamingDataset

        yield from StreamingDataset(folder, shuffle=False)
        return
    stand_in_for_torchvision()
    from streaming import StreamingDataset as MdsDataset

    # without a copy: `local` alone names the folder itself
    yield from MdsDataset(local=folder, shuffle=False, batch_size=1)


def main(kind: str, source: str, folder: str) -> None:
    table = pq.read_table(source)
    ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
    tokens = table.column("tokens").combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    row_of = {number: row for row, number in enumerate(ids)}
    seen = set[int]()
    for sample in samples(kind, folder):
        number = int(sample["id"])
        row = row_of[number]
        if sample["text"] != texts[row] or not np.array_equal(np.asarray(sample["tokens"]), tokens[row]):
            sys.exit(f"{folder}: sample {number} is not the source's")
        if np.asarray(sample["tokens"]).dtype != np.int32:
            sys.exit(f"{folder}: tokens of sample {number} are {np.asarray(sample['tokens']).dtype}")
        if number in seen:
            sys.exit(f"{folder}: sample {number} comes twice")
        seen.add(number)
    if len(seen) != len(ids):
        sys.exit(f"{folder}: {len(seen)} of {len(ids)} samples")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        import os

        os.environ["LITDATA_CACHE_DIR"] = cache
        main(*sys.argv[1:])
