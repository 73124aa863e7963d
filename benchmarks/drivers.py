"""Parts of data-bridge, each a process of its own: `python -m benchmarks.drivers upload|read|until|first …`."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_bridge.config import Settings
from data_bridge.events import Event, PartitionClaimed, PartitionDone, SamplesPacked, ShardCommitted

HASHES = "sha256.json"


def write_hashes(folder: Path) -> None:
    """Note the SHA-256 of every shard beside them, as packing knows it."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / HASHES).write_text(json.dumps(found))


def upload(folder: str, endpoint: str, destination: str) -> None:
    """Send the shards of a folder as a run does: verified by the server, as many at a time as the settings say."""
    from data_bridge.storage import open_store

    settings = _settings(folder, endpoint)
    store = open_store(destination, settings)
    hashes = json.loads((Path(folder) / HASHES).read_text())

    def send(name: str) -> None:
        store.put_file(name, Path(folder) / name, sha256=hashes[name])

    with ThreadPoolExecutor(settings.pipeline.upload_concurrency) as pool:
        list(pool.map(send, hashes))


def read(source: str, endpoint: str) -> None:
    """Read every stored byte of a source."""
    from data_bridge.io.transport import Transport

    transport = Transport(_settings(source, endpoint))
    for file in transport.expand([source]):
        for _ in transport.blocks(file):
            pass


def until(config: str, samples: str) -> None:
    """Run, and be gone without a word as soon as that many samples are committed, or at `done` with the partition."""
    from data_bridge.api import run_from_file

    committed = 0

    def watch(event: Event) -> None:
        nonlocal committed
        committed += event.samples if isinstance(event, ShardCommitted) else 0
        if isinstance(event, PartitionDone) if samples == "done" else committed >= int(samples):
            os._exit(0)

    run_from_file(config, observer=watch, workers=0)
    sys.exit(f"{config}: ended with {committed} samples, before it could be stopped")


def first(config: str, least: str) -> None:
    """Run to the first new sample in a shard, and be gone: the cost of the process is the cost of getting there.

    Fails unless the run began with sample `least` or a later one.
    """
    from data_bridge.api import run_from_file

    def watch(event: Event) -> None:
        if isinstance(event, PartitionClaimed) and event.index < int(least):
            sys.exit(f"{config}: began with sample {event.index}, not {least}")
        if isinstance(event, SamplesPacked):
            os._exit(0)

    run_from_file(config, observer=watch, workers=0)
    sys.exit(f"{config}: packed no sample")


def _settings(source: str, endpoint: str) -> Settings:
    return Settings.model_validate({"pipeline": {"input_uri": source}, "s3": {"endpoint_url": endpoint}})


PARTS: dict[str, Callable[..., None]] = {"upload": upload, "read": read, "until": until, "first": first}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
