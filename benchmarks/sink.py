"""An S3 server over TLS that costs little: it serves a folder and takes objects in without keeping large ones.

    with Sink(folder) as sink:      # a process of its own, so that its CPU is nobody's who is measured
        ...                         # s3://source/… is the folder; other buckets take everything
        sink.objects()              # {"bucket/key": size}

Bodies up to `keep` bytes are kept and their checksums verified: ledgers and manifests work, and small runs can be read
back. Larger ones are counted and forgotten; their checksums are believed. Nobody's signature is checked.
"""

import argparse
import json
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

KEEP_BYTES = 8_000_000
SOURCE = "source"
"""The bucket that is the served folder."""


class Sink:
    """The server's process, from entering the context to leaving it."""

    def __init__(self, folder: Path | None = None, *, keep: int = KEEP_BYTES) -> None:
        self._folder = folder
        self.keep = keep

    def __enter__(self) -> Self:
        self._place = tempfile.TemporaryDirectory(prefix="data-bridge-sink-")
        place = Path(self._place.name)
        self.ca_file = place / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        leaf.private_key_and_cert_chain_pem.write_to_path(str(place / "leaf.pem"))
        command = [sys.executable, "-m", "benchmarks.sink", str(place / "leaf.pem"), "--keep", str(self.keep)]
        command += ["--folder", str(self._folder)] if self._folder else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        assert self._process.stdout is not None
        self.endpoint = f"https://127.0.0.1:{int(self._process.stdout.readline())}"
        self._tls = ssl.create_default_context(cafile=str(self.ca_file))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._place.cleanup()

    def objects(self) -> dict[str, int]:
        """What was put, with sizes."""
        found: dict[str, int] = json.loads(self._ask("GET", "/_objects"))
        return found

    def read(self, key: str) -> bytes:
        """An object (`bucket/key`) small enough to have been kept."""
        return self._ask("GET", f"/{key}")

    def forget(self) -> None:
        """Drop everything that was put."""
        self._ask("DELETE", "/_objects")

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(self.endpoint + path, method=method)
        with urllib.request.urlopen(request, context=self._tls) as answer:
            body: bytes = answer.read()
        return body

    @property
    def environment(self) -> dict[str, str]:
        """What every client needs to reach it: the authority, and keys that nobody checks."""
        names = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        keys = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}
        return {
            **dict.fromkeys(names, str(self.ca_file)),
            **keys,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }


def main() -> None:
    from benchmarks.sink_server import serve

    parser = argparse.ArgumentParser("benchmarks.sink")
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", type=int, default=KEEP_BYTES)
    options = parser.parse_args()
    serve(options.certificate, options.folder, options.keep)


if __name__ == "__main__":
    main()
