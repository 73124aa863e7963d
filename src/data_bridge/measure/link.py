"""How fast the bytes of a source come and those of a destination go, whatever they hold: what a rented machine's link is."""

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_bridge.config import Settings, load_settings
from data_bridge.io.transport import Transport
from data_bridge.measure.scratch import scratch
from data_bridge.model.source import SourceFile
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.destination import output_uri
from data_bridge.pipelines.factory import PipelineFactory
from data_bridge.storage import open_store
from data_bridge.utils.files import replacing

SECONDS = 5.0
MOST_BYTES = 512_000_000
"""In each direction: traffic costs money."""
AT_ONCE = 8
PIECE = 4_000_000


def measured_link(settings: Settings, store: ObjectStore) -> tuple[float, float]:
    """Mbit/s down and up, over several connections at a time. Raises what a run would of its source and store."""
    plan, _ = PipelineFactory.create(settings, store).preview()
    down = _rate(_reading(Transport(settings), plan.files))
    with scratch(settings, store, use_store=True) as place:
        up = _rate(_sending(store, place.prefix))
    return down, up


def _reading(transport: Transport, files: tuple[SourceFile, ...]) -> Callable[["_Count", int], None]:
    def work(count: "_Count", number: int) -> None:
        file = files[number % len(files)]
        start = (file.size or 0) // AT_ONCE * (number % AT_ONCE) if len(files) < AT_ONCE else 0
        while not count.over:
            for block in transport.blocks(file, start):
                if count.add(len(block)):
                    return
            start = 0

    return work


def _sending(store: ObjectStore, prefix: str) -> Callable[["_Count", int], None]:
    piece = secrets.token_bytes(PIECE)

    def work(count: "_Count", number: int) -> None:
        key = f"{prefix}/link-{number}"
        while not count.over:
            store.put_bytes(key, piece)
            count.add(PIECE)

    return work


class _Count:
    """Bytes of all connections, and whether there are enough."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.began = time.monotonic()
        self.bytes = 0
        self.last = self.began

    @property
    def over(self) -> bool:
        return self.bytes >= MOST_BYTES or time.monotonic() - self.began >= SECONDS

    def add(self, count: int) -> bool:
        with self._lock:
            self.bytes += count
            self.last = time.monotonic()
        return self.over


def _rate(work: Callable[[_Count, int], None]) -> float:
    count = _Count()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="link") as pool:
        for done in [pool.submit(work, count, number) for number in range(AT_ONCE)]:
            done.result()
    return count.bytes * 8 / 1e6 / max(count.last - count.began, 1e-3)


def main() -> None:
    """Of the config and the prefix ("" = none) that are named: one line of JSON in the file that is named."""
    config, prefix, file = sys.argv[1:]
    settings = load_settings(Path(config))
    down, up = measured_link(settings, open_store(output_uri(settings, prefix or None), settings))
    with replacing(Path(file), "new") as target:
        target.write(json.dumps({"down_mbit": round(down, 1), "up_mbit": round(up, 1)}).encode() + b"\n")


if __name__ == "__main__":
    main()
