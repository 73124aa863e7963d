"""What the machine gives this process: the cores it may use, the memory it took."""

import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Cores of the affinity mask, or fewer when a cgroup limits CPU time; at least 1.

    A fraction of a core counts as one. `root` is where `proc` and `sys` are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The smallest CPU limit of this process's cgroup and the ones above it, in cores; None = no limit."""
    limits = [limit for folder in _folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Folders of our cgroup and its parents that exist, in every hierarchy that may limit CPU time."""
    mounts = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            tops = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        # inside a container the path may be the host's, so only the top of it exists
        path = PurePosixPath(group.lstrip("/"))
        yield from (top / part for top in tops for part in (path, *path.parents))


def _limit(folder: Path) -> float | None:
    text = _read(folder / "cpu.max")
    quota, period = text.split() if text else (_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
    if not quota or not period or quota == "max" or float(quota) <= 0:
        return None
    return float(quota) / float(period)


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def peak_bytes() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # not ru_maxrss: a spawned process starts with its parent's there
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
