"""Who holds a partition: which process wrote a claim, and whether it still lives."""

import hashlib
import os
import re
import select
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from data_bridge.errors import BridgeError, BusyError
from data_bridge.model.shards import Claim, Host
from data_bridge.model.store import ObjectStore

HEARTBEAT_S = 15.0
SILENCE_S = 60.0
"""A holder elsewhere is dead when its heartbeat has not changed for this long on our own clock."""

DYING_S = 10.0
"""How long a killed process may take to be gone."""

Liveness = Literal["gone", "alive here", "elsewhere"]

_live_tokens: set[str] = set()
"""Attempts of this very process: its own earlier, ended attempts must not look alive by their PID."""


TOKEN = re.compile(r"[0-9a-f]{16}")
"""What `new_token` gives, and nothing else: it becomes part of paths."""


def new_token() -> str:
    """Name of one attempt: 64 random bits as hex."""
    return uuid.uuid4().hex[:16]


def this_host() -> Host:
    """The current process, precisely enough for another on the same machine to see whether it lives."""
    return Host(boot=_boot_id(), pid=os.getpid(), started=_started(os.getpid()) or 0.0, name=socket.gethostname())


def opened(token: str) -> None:
    """An attempt of this process begins."""
    _live_tokens.add(token)


def closed(token: str) -> None:
    """An attempt of this process is over, however it ended."""
    _live_tokens.discard(token)


def liveness(claim: Claim) -> Liveness:
    """Whether the claim's process lives, as far as this machine can tell."""
    if claim.host.boot != _boot_id():
        return "elsewhere"
    if claim.host.pid == os.getpid():
        return "alive here" if claim.token in _live_tokens else "gone"
    if _started(claim.host.pid) == claim.host.started and _dying(claim.host.pid):
        _wait_for_end(claim.host.pid)
    return "alive here" if _started(claim.host.pid) == claim.host.started else "gone"


def refuse_if_held(
    store: ObjectStore, run: str, partition: int, holder: Claim, dead_drivers: frozenset[str] = frozenset()
) -> None:
    """Raise BusyError when a claim's process lives here, or may live on another machine."""
    match liveness(holder):
        case "alive here" if not _ended(store, run, holder):
            raise BusyError(
                f"partition {partition} of {store.uri} is being worked on by process {holder.host.pid} on this machine",
                hint=f"wait for it, or stop it (kill {holder.host.pid}) and run again",
            )
        case "elsewhere" if holder.driver not in dead_drivers:
            raise BusyError(
                f"partition {partition} of {store.uri} is held by process {holder.host.pid} on {holder.host.name}",
                hint="run again when that run has ended, or take it over with --steal if you know that it is dead",
            )
        case _:
            return


def _ended(store: ObjectStore, run: str, holder: Claim) -> bool:
    """Whether the run of a claim is over although its process lives on (a notebook): a run keeps a heartbeat."""
    return bool(holder.driver) and store.head(heartbeat_key(run, holder.driver)) is None


def heartbeat_key(run: str, driver: str) -> str:
    return f"_bridge/{run}/heartbeats/{driver}.json"


class Heartbeat:
    """Rewrites one object every 15 s while the run lives, and removes it at the end.

    The first beat is written before the first claim: a claim whose heartbeat is missing belongs to a run that ended.
    """

    def __init__(self, store: ObjectStore, run: str, driver: str) -> None:
        self._store = store
        self._key = heartbeat_key(run, driver)
        self._stop = threading.Event()
        self._count = 0
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(BridgeError):  # what ended the run matters more; silence says the same a minute later
            self._store.delete(self._key)

    def _beat(self) -> None:
        self._count += 1
        self._store.put_bytes(self._key, b'{"beat":%d}' % self._count)

    def _loop(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(BridgeError):  # silence for a minute only lets others in, and they fence us
                self._beat()


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


class Watch:
    """Tells whether drivers on other machines still live, by watching their heartbeat objects change."""

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = _wait,
    ) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[str, tuple[bytes, float]] = {}

    def is_dead(self, driver: str) -> bool:
        """Look until it is certain whether the driver lives; takes a minute where it does not, and left its heartbeat."""
        while (look := self.look(driver)) == "unsure":
            self._sleep(HEARTBEAT_S / 3)
        return look == "gone"

    def look(self, driver: str) -> Literal["alive", "gone", "unsure"]:
        """One look; `unsure` until the heartbeat has changed (alive) or was silent for a minute (gone)."""
        beat = self._store.get(heartbeat_key(self._run, driver))
        if beat is None:
            return "gone"
        first, since = self._seen.setdefault(driver, (beat, self._clock()))
        if beat != first:
            self._seen[driver] = (beat, self._clock())
            return "alive"
        return "gone" if self._clock() - since >= SILENCE_S else "unsure"


def process_mark() -> str:
    """This process in a few letters, for names of files; see `is_gone`."""
    return f"{_boot_mark()}-{os.getpid()}"


def is_gone(mark: str) -> bool:
    """Whether a mark is of a process of this machine, since its boot, that is there no more. False where it cannot be told."""
    boot, _, pid = mark.partition("-")
    return boot == _boot_mark() and pid.isdecimal() and _started(int(pid)) is None


@cache
def _boot_mark() -> str:
    return hashlib.sha256(_boot_id().encode()).hexdigest()[:12]


def _boot_id() -> str:
    """Machine boot and PID namespace: PIDs mean the same thing only inside both."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        return f"{boot.read_text().strip()}:{namespace.stat().st_ino}"
    return f"{socket.gethostname()}:{uuid.getnode():x}"


def _started(pid: int) -> float | None:
    """Start time of a process in clock ticks since boot; 0 where only its existence can be told; None when it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else _exists(pid)
    except ProcessLookupError:
        return None
    return None if fields[0] in "ZX" else float(fields[19])


def _dying(pid: int) -> bool:
    """Whether a process was sent SIGKILL and is not gone yet: a run that was killed whole ends one process after another."""
    status = Path(f"/proc/{pid}/status")
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # what was sent to the whole process stays pending until the process is gone
    pending = next((int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:")), 0)
    return bool(pending & 1 << (signal.SIGKILL - 1))


def _wait_for_end(pid: int) -> None:
    """Return when a dying process is gone; one stuck in the kernel is left to be what it looks like."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it is gone, or the kernel is too old
        return
    try:
        select.select([process], [], [], DYING_S)
    finally:
        os.close(process)


def _exists(pid: int) -> float | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0.0
    return 0.0
