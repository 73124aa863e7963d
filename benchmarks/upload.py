"""W4: finished shards to a bucket."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.drivers import write_hashes
from benchmarks.sink import Sink
from benchmarks.work import COMPILED, PEERS, Place, Way, Work, Wrong, own
from data_bridge.config import PipelineSettings

NAMES = ("W4",)
SHARDS, SHARD_BYTES = 10, 100_000_000
THREADS = PipelineSettings.model_fields["upload_concurrency"].default


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """Ten shards of a share of 100 MB, to a server that forgets them; only the client is measured."""
    folder = _shards(place.data, round(SHARD_BYTES * scale))
    with Sink() as sink:

        def way(name: str, title: str, command: list[str], *, theirs: bool = False, ours: bool = False) -> Way:
            return Way(
                name, "ours" if ours else "peer", title, lambda _: command, check=lambda _: check(sink, folder, name),
                env={**sink.environment, **(COMPILED if theirs else {})}, skipped=PEERS.missing if theirs else "",
            )  # fmt: skip

        def script(name: str) -> tuple[object, ...]:
            return name, folder, name.replace("_", "-"), THREADS

        rclone = ["--config", "/dev/null", "--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", sink.endpoint]
        ways = [
            way("ours", f"data-bridge's store, {THREADS} at a time", own("drivers", "upload", folder, sink.endpoint, "s3://ours"), ours=True),
            way("boto3_put", f"boto3 `put_object`, {THREADS} at a time", own("peers.upload", *script("boto3_put"))),
            way("boto3_upload", f"boto3 `upload_file`, {THREADS} at a time", own("peers.upload", *script("boto3_upload"))),
            way("smart_open", f"smart-open, {THREADS} at a time", own("peers.upload", *script("smart_open"))),
            way("obstore", f"obstore `put`, {THREADS} at a time", PEERS.command("peers.upload", *script("obstore")), theirs=True),
            way("s5cmd", "s5cmd `cp`", [PEERS.program("s5cmd"), "--endpoint-url", sink.endpoint, "cp", f"{folder}/*.tar", "s3://s5cmd/"], theirs=True),
            way("rclone", "rclone `copy`", [PEERS.program("rclone"), "copy", str(folder), ":s3:rclone", "--include", "*.tar", *rclone], theirs=True),
        ]  # fmt: skip
        total = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
        yield Work(
            name, f"upload of {total:,.1f} MB of shards over TLS, client alone", ways, sorted(folder.glob("*.tar"))
        )


def _shards(data: Path, size: int) -> Path:
    folder = data / f"shards-{size}"
    if not folder.exists():
        part = folder.with_name(f".{folder.name}.part")
        part.mkdir(parents=True)
        rng = random.Random(size)
        for number in range(SHARDS):
            (part / f"{number:06d}.tar").write_bytes(rng.randbytes(size))
        write_hashes(part)
        part.rename(folder)
    return folder


def check(sink: Sink, folder: Path, name: str) -> None:
    """Raise Wrong unless every shard arrived whole in the way's bucket; then forget them."""
    bucket = f"{name.replace('_', '-')}/"
    arrived = {key.removeprefix(bucket): size for key, size in sink.objects().items() if key.startswith(bucket)}
    for path in folder.glob("*.tar"):
        if (size := arrived.get(path.name)) != path.stat().st_size:
            raise Wrong(f"{name}: {path.name} arrived with {size} bytes")
        if path.stat().st_size <= sink.keep and sink.read(bucket + path.name) != path.read_bytes():
            raise Wrong(f"{name}: {path.name} arrived changed")
    sink.forget()
