"""Other ways from bucket to bucket: `python -m benchmarks.peers.buckets WAY SOURCE BUCKET SHARDS-A-FOLDER PER-SHARD`.

Shards are written to a folder, sent when finished, and deleted: `ShardWriter`'s own hook for that.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
IMAGES = ".parquet"


def smart_open(key: str) -> Iterator[Sample]:
    """The source through smart-open: `pyarrow` on its file, or lines from it."""
    from smart_open import open as opened

    with opened(f"s3://{key}", "rb") as file:
        if not key.endswith(IMAGES):
            for line in file:
                yield json.loads(line)
            return
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(file).iter_batches(1_000):
            yield from batch.to_pylist()


def datasets(key: str) -> Iterator[Sample]:
    """The source through `datasets` streaming, over https."""
    from datasets import load_dataset

    kind = "parquet" if key.endswith(IMAGES) else "json"
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{key}"
    yield from load_dataset(kind, data_files=url, split="train", streaming=True)


WAYS: dict[str, Callable[[str], Iterator[Sample]]] = {"smart_open": smart_open, "datasets": datasets}


def main(way: str, key: str, bucket: str, folder: str, per_shard: str) -> None:
    import boto3
    from webdataset import ShardWriter

    client = boto3.client("s3")

    def send(path: str) -> None:
        client.upload_file(path, bucket, Path(path).name)
        Path(path).unlink()

    with ShardWriter(f"{folder}/%06d.tar", maxcount=int(per_shard), maxsize=1e12, verbose=0, post=send) as sink:
        for number, row in enumerate(WAYS[way](key)):
            image = {"jpg": row.pop("jpg")} if "jpg" in row else {}
            sink.write({"__key__": f"{number:08d}", **image, "json": row})


if __name__ == "__main__":
    main(*sys.argv[1:])
