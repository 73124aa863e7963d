"""Parts of data-bridge, each a process of its own: `python -m benchmarks.drivers upload|read|until|first|asked|counted …`."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

from benchmarks.work import data_bridge
from data_bridge.config import Settings
from data_bridge.events import Event, PartitionClaimed, PartitionDone, SamplesPacked, ShardCommitted
from data_bridge.runtime.process import begin_a_run

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
    begin_a_run()
    from data_bridge.api import run_from_file

    def watch(event: Event) -> None:
        if isinstance(event, PartitionClaimed) and event.index < int(least):
            sys.exit(f"{config}: began with sample {event.index}, not {least}")
        if isinstance(event, SamplesPacked):
            os._exit(0)

    run_from_file(config, observer=watch, workers=0)
    sys.exit(f"{config}: packed no sample")


def asked(config: str, figures: str) -> None:
    """Run on every core, and ask and change something every 10 ms as long as it works; note how long answers took."""
    from data_bridge import api
    from data_bridge.errors import ConfigError
    from data_bridge.runtime.control import RunControl

    told = json.loads(Path(config).read_text())["pipeline"]
    burn = told["stages"][0]["map"]["arguments"]
    process = subprocess.Popen([data_bridge(), "run", config, "--workers", str(os.cpu_count())])
    control: RunControl | None = None
    took = list[float]()
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            break
        with suppress(ConfigError):  # nobody listens yet, or any more
            control = control or api.control(told["output_uri"])
            commands: Sequence[Callable[[], object]] = (
                control.describe,
                partial(control.set, "engine", "upload_concurrency", 3),
                partial(control.set, "burn", "arguments", burn),
            )
            began_s = time.perf_counter()
            commands[len(took) % len(commands)]()
            took.append(time.perf_counter() - began_s)
    if process.returncode or not took:
        sys.exit(f"{config}: exit code {process.returncode}, {len(took)} answers")
    _note(figures, {"answer_ms": 1e3 * max(took), "answers": len(took)})


def counted(config: str, figures: str) -> None:
    """Run in this process, and note which share of its CPU counted, added up, and told about it."""
    from data_bridge.api import run_from_file
    from data_bridge.monitor.aggregate import Aggregate
    from data_bridge.monitor.session import Monitor
    from data_bridge.pipelines.metering import Metering
    from data_bridge.runtime.metrics import Part, SlotMetrics

    told: Mapping[type, tuple[str, ...]] = {
        Part: ("count", "load", "work", "gauge", "statistics", "flush"),
        SlotMetrics: ("add_work", "flush"),
        Metering: ("packed", "staged", "tell"),
        Aggregate: ("roll", "snapshot"),
        Monitor: ("__call__", "_write"),
    }
    spent = _Spent()
    for owner, names in told.items():
        for name in names:
            setattr(owner, name, spent.timed(getattr(owner, name)))
    began_s = time.process_time()
    run_from_file(config, workers=0)
    whole_s = time.process_time() - began_s
    _note(figures, {"metrics_percent": 100 * spent.seconds / whole_s})


class _Spent:
    """CPU of the outermost of the calls that it times, less what timing each of them costs at that moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()
        self.seconds = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timing(*given: Any, **named: Any) -> Any:
            if getattr(self._inside, "so", False):
                return call(*given, **named)
            self._inside.so = True
            asked_s, began_s = time.thread_time(), time.thread_time()
            try:
                return call(*given, **named)
            finally:
                took_s = (time.thread_time() - began_s) - (began_s - asked_s)
                self._inside.so = False
                with self._lock:
                    self.seconds += took_s

        return timing


def _note(figures: str, found: Mapping[str, float]) -> None:
    Path(figures).write_text(json.dumps(found))


def _settings(source: str, endpoint: str) -> Settings:
    return Settings.model_validate({"pipeline": {"input_uri": source}, "s3": {"endpoint_url": endpoint}})


PARTS: dict[str, Callable[..., None]] = {
    "upload": upload, "read": read, "until": until, "first": first, "asked": asked, "counted": counted
}  # fmt: skip

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
