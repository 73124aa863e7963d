"""Other ways to send a folder of shards to a bucket; one per process: `python -m benchmarks.peers.upload`."""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Send = Callable[[Path], Any]


def boto3_put(bucket: str) -> Send:
    """boto3's `put_object`."""
    import boto3

    client = boto3.client("s3")

    def send(path: Path) -> None:
        with path.open("rb") as body:
            client.put_object(Bucket=bucket, Key=path.name, Body=body)

    return send


def boto3_upload(bucket: str) -> Send:
    """boto3's `upload_file`: in parts, by its own threads."""
    import boto3

    client = boto3.client("s3")
    return lambda path: client.upload_file(str(path), bucket, path.name)


def smart_open(bucket: str) -> Send:
    """A file written to `smart_open`."""
    from smart_open import open as opened

    def send(path: Path) -> None:
        with path.open("rb") as file, opened(f"s3://{bucket}/{path.name}", "wb") as body:
            shutil.copyfileobj(file, body, 1 << 20)

    return send


def obstore(bucket: str) -> Send:
    """obstore's `put`: in parts, by its own threads."""
    import os

    from obstore import put
    from obstore.store import S3Store

    store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"])
    return lambda path: put(store, path.name, path)


WAYS: dict[str, Callable[[str], Send]] = {way.__name__: way for way in (boto3_put, boto3_upload, smart_open, obstore)}


def main(way: str, folder: str, bucket: str, threads: str) -> None:
    send = WAYS[way](bucket)
    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(send, sorted(Path(folder).glob("*.tar"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
