"""Tables of medians and ratios, and the facts of the machine they hold for."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median

from benchmarks.contestants import Contestant
from benchmarks.measure import Cost

LIBRARIES = ("train-data-bridge", "webdataset", "datasets", "pyarrow", "numpy", "orjson")


def facts() -> dict[str, object]:
    """What one must know of the machine to read the figures."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(median(c.cpu_s for c in costs), median(c.wall_s for c in costs), median(c.memory_mb for c in costs))


def table(title: str, contestants: Sequence[Contestant], costs: Mapping[str, Sequence[Cost]]) -> str:
    """Medians as a Markdown table; the ratios are CPU and wall time over those of our own run in one process."""
    mine = middle(costs["ours-0"]) if "ours-0" in costs else None
    lines = [
        f"### {title}",
        "",
        "| way | CPU s | × ours | wall s | × ours | memory MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in contestants:
        cost = middle(costs[each.name])
        ratios = (f"{cost.cpu_s / mine.cpu_s:.2f}", f"{cost.wall_s / mine.wall_s:.2f}") if mine else ("", "")
        lines.append(
            f"| {each.title} | {cost.cpu_s:.2f} | {ratios[0]} | {cost.wall_s:.2f} | {ratios[1]} | {cost.memory_mb:.0f} |"
        )
    return "\n".join(lines)
