"""W5: from bucket to bucket, W1's images (W5a) and W2's lines (W5b)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import tars, upload
from benchmarks.check_tars import check_tars, whole_tars
from benchmarks.drivers import write_hashes
from benchmarks.peers.tars import floor
from benchmarks.sink import SOURCE, Sink
from benchmarks.sources import Source
from benchmarks.work import (
    COMPILED,
    PEERS_DATASETS,
    Environment,
    Place,
    Way,
    Work,
    Wrong,
    cut_as_at_full_size,
    own,
    run,
)

NAMES = ("W5a", "W5b")
ONLINE = {**COMPILED, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """A static reader and a server that forgets; the client alone is measured."""
    source, per_shard, what = tars.source_of({"W5a": "W1", "W5b": "W2"}[name], scale, place.data)
    key = f"{SOURCE}/{source.path.name}"
    with Sink(place.data) as sink:
        s3 = {"endpoint_url": sink.endpoint}

        def ours(workers: int, title: str) -> Way:
            bucket = f"ours-{workers}"

            def command(out: Path) -> list[str]:
                pipeline = {**tars.pipeline(source, per_shard, f"s3://{bucket}/"), "input_uri": f"s3://{key}"}
                return run(out.with_suffix(".json"), {**pipeline, **cut_as_at_full_size(scale)}, workers, s3=s3)

            return Way(
                bucket, "ours", title, command, check=lambda out: _check(sink, bucket, source, per_shard, out),
                env=sink.environment,
            )  # fmt: skip

        def peer(way: str, title: str, theirs: Environment | None = None) -> Way:
            bucket = way.replace("_", "-")

            def command(out: Path) -> list[str]:
                return (theirs.command if theirs else own)("peers.buckets", way, key, bucket, out, per_shard)

            return Way(
                way, "peer", title, command, check=lambda out: _check(sink, bucket, source, per_shard, out),
                env={**sink.environment, **(ONLINE if theirs else {})}, skipped=theirs.missing if theirs else "",
            )  # fmt: skip

        def pack(out: Path) -> list[str]:
            return run(
                out.with_suffix(".json"),
                {**tars.pipeline(source, per_shard, str(out)), **cut_as_at_full_size(scale)},
                2,
            )

        def finished(out: Path) -> None:
            floor(source.path, out, per_shard)
            write_hashes(out)

        def part(way: str, title: str, *arguments: object) -> Way:
            return Way(way, "floor", title, lambda _: own("drivers", *arguments, sink.endpoint), env=sink.environment)

        ways = [
            ours(0, "data-bridge run, in one process"),
            ours(2, "data-bridge run, 2 slots"),
            peer("smart_open", "smart-open + ShardWriter + boto3"),
            peer("datasets", "`datasets` streaming + ShardWriter + boto3", PEERS_DATASETS),
            part("read", "our part alone: reading", "read", f"s3://{key}"),
            Way("pack", "floor", "our part alone: packing in a folder, 2 slots", pack,
                check=lambda out: whole_tars(source, per_shard, out),
                read_back=lambda out: check_tars(source, per_shard, out)),
            Way("send", "floor", "our part alone: sending finished shards",
                lambda out: own("drivers", "upload", out, sink.endpoint, "s3://ours"),
                prepare=finished, check=lambda out: upload.check(sink, out, "ours"), env=sink.environment),
        ]  # fmt: skip
        yield Work(name, f"{source.samples:,} {what} in a bucket → tar in a bucket, client alone", ways, [source.path])


def _check(sink: Sink, bucket: str, source: Source, per_shard: int, out: Path) -> None:
    """Raise Wrong unless the bucket holds the shards, content and all where the server kept it; then forget them."""
    sizes = {key: size for key, size in sink.objects().items() if key.startswith(f"{bucket}/") and key.endswith(".tar")}
    if f"{bucket}/manifest.json" in sink.objects():
        manifest = json.loads(sink.read(f"{bucket}/manifest.json"))
        told = {f"{bucket}/{shard['path']}": shard["bytes"] for shard in manifest["shards"]}
        if sizes != told or manifest["totals"]["samples"] != source.samples:
            raise Wrong(f"{bucket}: what arrived is not what the manifest says, or not the source")
    elif len(sizes) != -(-source.samples // per_shard):
        raise Wrong(f"{bucket}: {len(sizes)} shards arrived")
    if max(sizes.values()) <= sink.keep:
        arrived = out / "arrived"
        arrived.mkdir()
        for key in sizes:
            (arrived / Path(key).name).write_bytes(sink.read(key))
        check_tars(source, per_shard, arrived)
    sink.forget()
