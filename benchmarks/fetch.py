"""W1u: a list of image URLs on a web server of this machine to tars, with the images as they are.

`python -m benchmarks.fetch PARQUET` serves the images of a Parquet file, over and over: `/7.jpg` is the one of row 7.
"""

import asyncio
import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import sources
from benchmarks.check_tars import members_of
from benchmarks.work import COMPILED, PEERS_IMG2DATASET, ROOT, Place, Way, Work, Wrong, cut_as_at_full_size, own, run

NAMES = ("W1u",)
URLS, PER_SHARD, MOST_IMAGES = 20_000, 2_000, 2_000
THREADS = 32


@contextmanager
def opened(_name: str, scale: float, place: Place) -> Iterator[Work]:
    """A server in a process of its own: the client alone is measured."""
    count = max(1, round(URLS * scale))
    images = sources.images(min(count, MOST_IMAGES), place.data)
    wanted = Counter(_digests(images, count))
    with _served(images.path) as origin:
        urls = _list_of_urls(origin, count, place.scratch / "urls.parquet")

        def check(out: Path) -> None:
            contents = (
                data for tar in sorted(out.glob("*.tar")) for name, data in members_of(tar) if name.endswith(".jpg")
            )
            if Counter(hashlib.sha256(data).digest() for data in contents) != wanted:
                raise Wrong(f"{out}: the images are not those of the server")

        def ours(slots: int, title: str) -> Way:
            def command(out: Path) -> list[str]:
                stage = {"fetch": {"allow_private": True, "per_host": THREADS}, "workers": THREADS}
                pipeline = {
                    "name": "webdataset", "input_uri": str(urls), "output_uri": str(out),
                    "samples_per_shard": PER_SHARD, "stages": [stage], **cut_as_at_full_size(scale),
                }  # fmt: skip
                return run(out.with_suffix(".json"), pipeline, slots)

            return Way(f"ours-{slots}", "ours", title, command, check=check)

        def theirs(out: Path) -> list[str]:
            return PEERS_IMG2DATASET.command("peers.fetch", urls, out, PER_SHARD, THREADS)

        yield Work(
            "W1u", f"{count:,} image URLs on loopback → tar, client alone",
            [
                ours(0, f"data-bridge run with `fetch`, {THREADS} threads, in one process"),
                ours(2, f"data-bridge run with `fetch`, {THREADS} threads, 2 slots"),
                Way("img2dataset", "peer", f"img2dataset, {THREADS} threads, images as they are", theirs, check=check,
                    env={**COMPILED, "NO_ALBUMENTATIONS_UPDATE": "1"}, skipped=PEERS_IMG2DATASET.missing),
            ],
            [urls],
        )  # fmt: skip
        urls.unlink()


def _list_of_urls(origin: str, count: int, path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(count)
    table = {"url": [f"{origin}/{n}.jpg" for n in numbers], "caption": [f"picture {n} of a thing" for n in numbers]}
    pq.write_table(pa.table(table), path)
    return path


def _digests(images: sources.Source, count: int) -> Iterator[bytes]:
    digests = [hashlib.sha256(image or b"").digest() for image, _ in images.rows()]
    return (digests[number % len(digests)] for number in range(count))


@contextmanager
def _served(images: Path) -> Iterator[str]:
    with subprocess.Popen(own("fetch", images), stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


class _Answers(asyncio.Protocol):
    """GET requests of one connection, answered in turn."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for request in requests:
            match = re.match(rb"GET /(\d+)\.jpg ", request)
            if match is None:
                self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                self._transport.write(self._answers[int(match[1]) % len(self._answers)])
            if b"\nconnection: close" in request.lower():
                self._transport.close()


async def serve(images: Path) -> None:
    """Serve on a free port, printed first, until killed."""
    import pyarrow.parquet as pq

    head = 'HTTP/1.1 200 OK\r\nServer: static\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nETag: "x"\r\n\r\n'
    contents = [content or b"" for content in pq.read_table(images, columns=["jpg"])["jpg"].to_pylist()]
    answers = [head.format(len(content)).encode() + content for content in contents]
    server = await asyncio.get_running_loop().create_server(lambda: _Answers(answers), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
