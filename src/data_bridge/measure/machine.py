"""What the machine has left."""

import shutil
from contextlib import suppress
from pathlib import Path


def free_memory() -> int | None:
    """Bytes of memory that programs may still take; None where the system does not tell."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def queued_s() -> float:
    """Seconds that the living threads of this process were ready to work and had no core; 0 where nobody tells."""
    total_ns = 0
    for folder in Path("/proc/self/task").glob("*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end while it is looked at
            total_ns += int((folder / "schedstat").read_text().split()[1])
    return total_ns / 1e9


def free_disk(folder: Path) -> int:
    """Bytes that may still be written to the disk of a folder that exists."""
    return shutil.disk_usage(folder).free
