"""Machines that the fake rents out, ready for a whole run."""

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fake_vast.machines import Container
from support.tls import authority

from data_bridge.clients.vast import VastClient
from data_bridge.compute.settling import Patience
from data_bridge.model.rental import Offer
from data_bridge.utils.retry import Retry

QUICK = Patience(
    poll_s=0.05, boot_s=20.0, ssh_s=10.0, dark_s=5.0, away_s=1.0, unlisted_s=0.3, destroy_s=10.0, idle_s=3.0, linger_s=2.0, tick_s=1.0
)  # fmt: skip

STEADY = replace(QUICK, boot_s=90.0, ssh_s=90.0, dark_s=60.0, idle_s=60.0)
"""For whole runs: on a computer with much else to do an answer may take its time, and no machine is bad for that."""


def quick_client(key: str, url: str) -> VastClient:
    """One that waits for nothing it need not wait for here."""
    return VastClient(key, url, pace_s={}, retry=Retry(tries=8, first_s=0.01, longest_s=0.05))


@cache
def _uv() -> str:
    found = shutil.which("uv")
    assert found is not None, "the tests of this project are run by uv"
    if Path(found).read_bytes()[:2] == b"#!":  # pyenv's
        return subprocess.run(["pyenv", "which", "uv"], capture_output=True, text=True, check=True).stdout.strip()
    return found


@cache
def _uv_cache() -> Path:
    done = subprocess.run([_uv(), "cache", "dir"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@cache
def _bytecode() -> Path:
    """For all machines of this process: they have the same modules at the same places, and none is to compile them anew."""
    folder = tempfile.mkdtemp(prefix="fake-vast-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def an_offer(number: int, **fields: Any) -> Offer:
    """One that any run would take."""
    values: dict[str, Any] = {
        "id": number, "machine_id": 100 + number, "gpu_name": "RTX 4090", "num_gpus": 1, "cores": 16.0, "disk_gb": 500.0,
        "base_usd_hour": 0.4, "storage_usd_gb_month": 0.15, "inet_down": 1000.0, "inet_up": 1000.0, "down_usd_gb": 0.002,
        "up_usd_gb": 0.002, "reliability": 0.99, "place": "Texas, US", "duration_s": 30 * 86_400.0, "direct_ports": 10,
    }  # fmt: skip
    return Offer(**values | fields)


class Ready(Container):
    """A container with Python and uv, whose image knows the certificates of the test's stores."""

    def __init__(self) -> None:
        passed = {
            k: v
            for k, v in os.environ.items()
            if k.startswith(("UV_", "PIP_")) or k in ("SSL_CERT_FILE", "HF_ENDPOINT")
        }
        cached = _uv_cache()
        lent = [cached] if cached.is_relative_to("/root") else []
        here = {
            "UV_CACHE_DIR": str(cached),
            "UV_LINK_MODE": "symlink",  # a bind mount knows no hard links to others: half a gigabyte would be copied
            "PYTHONPYCACHEPREFIX": str(_bytecode()),
            "AWS_CA_BUNDLE": str(authority().ca_file),
        }
        super().__init__({**passed, **here}, lent=lent)
        tools = self.root / ".local" / "bin"
        tools.mkdir(parents=True)
        shutil.copy(_uv(), tools / "uv")
