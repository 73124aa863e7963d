"""A run in the background: which process it is, where it writes what it says, and how it ended."""

import time
from pathlib import Path

import msgspec

from data_bridge.model.shards import Claim, Host
from data_bridge.utils.claims import liveness, this_host

NOTE = "detached.json"
LOG = "run.log"


class Detached(msgspec.Struct, frozen=True, kw_only=True):
    """As it is noted in the folder of its run."""

    host: Host
    log: str
    began: float
    ended: float | None = None
    exit_code: int | None = None
    """None while it works, and for ever when it was killed."""

    @property
    def pid(self) -> int:
        return self.host.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.exit_code is None and liveness(Claim(token="", host=self.host)) == "alive here"


def begin(folder: Path, log: Path) -> Detached:
    """Note that this process is the run of a folder. What it has said until now, in `log`, moves there; what an earlier one
    said stays as `run.log.1`. Beside one that still works it is not noted, and has a log of its own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    earlier, host = noted(folder), this_host()
    beside = earlier is not None and earlier.running
    place = _beside(folder, host.pid) if beside else folder / LOG
    if not beside and place.exists():
        place.replace(folder / f"{LOG}.1")
    log.replace(place)
    detached = Detached(host=host, log=str(place), began=time.time())
    if not beside:
        _write(folder, detached)
    return detached


def end(folder: Path, detached: Detached, exit_code: int) -> None:
    """Note how it ended, if it is noted."""
    found = noted(folder)
    if found is not None and found.host != detached.host:
        return
    _write(folder, msgspec.structs.replace(detached, ended=time.time(), exit_code=exit_code))


def log_of(folder: Path, pid: int) -> Path:
    """Where a process that was begun writes what it says."""
    beside = _beside(folder, pid)
    return beside if beside.exists() else folder / LOG


def noted(folder: Path) -> Detached | None:
    """The last run in the background that had this folder; None when none had."""
    try:
        return msgspec.json.decode((folder / NOTE).read_bytes(), type=Detached)
    except (FileNotFoundError, msgspec.DecodeError):  # none, or one that another version wrote
        return None


def _beside(folder: Path, pid: int) -> Path:
    return folder / f"run-{pid}.log"


def _write(folder: Path, detached: Detached) -> None:
    partial = folder / f".{NOTE}.{detached.pid}.partial"
    partial.write_bytes(msgspec.json.encode(detached))
    partial.replace(folder / NOTE)
