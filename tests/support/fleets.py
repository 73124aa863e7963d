"""A client that rents several machines at a time and may die at any step of any of them."""

import json
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.money import JOB, PATIENCE
from support.rented import quick_client

from data_bridge.compute.choice import Need
from data_bridge.compute.fleet import VastFleet
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.ssh import Ssh
from data_bridge.config import Settings
from data_bridge.errors import BridgeError

MACHINES = 2
_BEGUN = 'S="$HOME/.data-bridge"; mkdir -p "$S/started"; echo begun > "$S/log"; '


class Idle(Ssh):
    """A way to a machine on which a short job stands for the run: the money does not know the difference."""

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        if "tar -x" in script:
            return b""
        return super().run(_BEGUN + JOB if "mkdir started" in script else script, timeout_s=timeout_s)


def client(raw: dict[str, Any], url: str, key: str, folder: str, pipe: Connection) -> None:
    """The process that may die: rents one for each slice, works, gives all back."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    alone = threading.Lock()

    def step(name: str) -> None:
        with alone:
            pipe.send(name)
            pipe.recv()

    def tell(text: str) -> None:
        if "MACHINE" in text:
            with alone:
                pipe.send(f"error: {text.partition('] ')[2]}")

    config = Path(folder) / "config.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(raw))
    fleet = VastFleet(
        quick_client(key, url), Rentals(Path(folder)), Settings.model_validate(raw), config, Need(1e6, 1e6, 50),
        machines=MACHINES, tell=tell, log=lambda _: lambda _: None, patience=PATIENCE, step=step, reach=Idle,
    )  # fmt: skip
    try:
        fleet.run(fleet.candidates())
    except BridgeError as error:
        pipe.send(f"error: {error.message}")
    except KeyboardInterrupt:
        os._exit(130)
