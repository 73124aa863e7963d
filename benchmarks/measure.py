"""A whole process and all it starts, measured from outside: CPU, wall time, memory."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took. `memory_mb` is the highest sum of PSS seen over the tree (RSS where there is no PSS)."""

    cpu_s: float
    wall_s: float
    memory_mb: float


class Failed(Exception):
    """A contestant ended with an error."""


def measured(command: Sequence[str], env: Mapping[str, str]) -> Cost:
    """Run a command to its end. Raises Failed with its last words when it fails."""
    with tempfile.TemporaryFile() as words:
        started = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=words, stderr=subprocess.STDOUT)
        watch = _Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = watch.stop()
        if process.returncode:
            words.seek(0)
            raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{words.read()[-2_000:].decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, max(peak, _resident(usage.ru_maxrss)) / 1e6)


def _resident(maxrss: int) -> int:
    """Largest single process, for runs too short to be sampled; counted only where PSS is not."""
    return 0 if Path("/proc/self/smaps_rollup").exists() else maxrss * 1_024


class _Watch:
    """Looks at the memory of a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _loop(self) -> None:
        while not self._ended.is_set():
            self._peak = max(self._peak, sum(map(_pss, _tree(self._pid))))
            self._ended.wait(SAMPLE_S)


def _tree(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _tree(child))]


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1_024 for line in text.splitlines() if line.startswith("Pss:")), 0)
