"""A real S3 server over TLS with checked signatures: SeaweedFS on loopback, one per test process, started on first use.

In a `conftest.py`: `from support.seaweed import bucket, seaweed` and use the fixtures.
"""

import atexit
import functools
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from support.tls import authority

from data_bridge.clients.s3 import connect
from data_bridge.config import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

STARTS_WITHIN_S = 30.0
STARTS = 3
OWNER = ("OWNERKEY", "owner-secret")
READER = ("READERKEY", "reader-secret")
IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": OWNER[0], "secretKey": OWNER[1]}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER[0], "secretKey": READER[1]}],
            "actions": ["Read", "List"],
        },
    ]
}
# ends with its parent, however that ends: the pipe closes; the server alone takes long to stop with open connections
KEEPER = """
import subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def stop():
    sys.stdin.buffer.read()
    server.terminate()
    try:
        server.wait(0.5)
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=stop, daemon=True).start()
sys.exit(server.wait())
"""


@dataclass(frozen=True)
class Seaweed:
    """A running server."""

    port: int
    ca_file: Path
    _clients: "list[S3Client]" = field(default_factory=list, repr=False)

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def settings(self) -> S3Settings:
        """Settings of the account that may do everything."""
        return self.settings_at(self.endpoint)

    def settings_at(self, endpoint: str, keys: tuple[str, str] = OWNER) -> S3Settings:
        """Settings that go through another endpoint (a proxy), or with other keys."""
        return S3Settings(
            endpoint_url=endpoint, region="auto", access_key_id=SecretStr(keys[0]), secret_access_key=SecretStr(keys[1])
        )

    @property
    def client(self) -> "S3Client":
        """A client of the owner's, to look at the server behind the product's back."""
        if not self._clients:
            self._clients.append(connect(self.settings))
        return self._clients[0]

    def new_bucket(self) -> str:
        """The name of a fresh, empty bucket."""
        name = f"test-{secrets.token_hex(6)}"
        self.client.create_bucket(Bucket=name)
        return name


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [int(holder.getsockname()[1]) for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@functools.cache
def running() -> Seaweed:
    """The server of this process; AWS_CA_BUNDLE names its authority from here on."""
    os.environ["AWS_CA_BUNDLE"] = str(authority().ca_file)
    for _ in range(STARTS - 1):
        with suppress(_NotStarted):
            return _started()
    return _started()


class _NotStarted(Exception):
    """The server ended, or does not answer: most likely somebody took one of its ports meanwhile."""


def _started() -> Seaweed:
    folder = tempfile.TemporaryDirectory(prefix="bridge-seaweed-", ignore_cleanup_errors=True)
    place = Path(folder.name)
    ports = free_ports(9)
    with (place / "log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, *_command(place, ports)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=place,
            env=os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )

    def stop() -> None:
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.wait(10)
        folder.cleanup()
        for port in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    try:
        _wait_until(lambda: _answers(ports[0]), keeper, place / "log")
    except _NotStarted:
        stop()
        raise
    atexit.register(stop)
    return Seaweed(ports[0], authority().ca_file)


def _command(place: Path, ports: list[int]) -> list[str]:
    (place / "s3.json").write_text(json.dumps(IDENTITIES))
    (place / "data").mkdir()
    options = {
        "dir": place / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        # every bucket takes volumes of its own, and by default there are as many as the disk has room for
        "volume.max": 10_000,
        "master.volumeSizeLimitMB": 1024,
        "s3.port.https": ports[0],
        "s3.port": ports[1],
        "s3.port.grpc": ports[2],
        "master.port": ports[3],
        "master.port.grpc": ports[4],
        "volume.port": ports[5],
        "volume.port.grpc": ports[6],
        "filer.port": ports[7],
        "filer.port.grpc": ports[8],
        "s3.cert.file": authority().cert_file,
        "s3.key.file": authority().key_file,
        "s3.domainName": "localhost",
        "s3.config": place / "s3.json",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    weed = Path(sys.executable).with_name("weed")
    return [str(weed), "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _answers(port: int) -> bool:
    """Whether the gateway answers an anonymous request with a refusal of its own."""
    try:
        urllib.request.urlopen(f"https://localhost:{port}/", context=authority().client_context(), timeout=5)
    except urllib.error.HTTPError as refusal:
        return refusal.code == 403
    except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError):
        return False
    return True


def _wait_until(ready: Callable[[], bool], keeper: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not ready():
        if keeper.poll() is not None or time.monotonic() > deadline:
            raise _NotStarted(log.read_text(errors="replace")[-3000:])
        with suppress(subprocess.TimeoutExpired):
            keeper.wait(0.05)


@pytest.fixture(scope="session")
def seaweed() -> Seaweed:
    return running()


@pytest.fixture
def bucket(seaweed: Seaweed) -> str:
    return seaweed.new_bucket()
