"""Draws a results file, in the environment that has matplotlib: CPU time of every way over that of ours, by work."""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

COLOURS = {"ours": "#1b7837", "peer": "#762a83", "floor": "#bbbbbb"}
COLUMNS = 2
WIDTH, ROW, HEAD = 7.5, 0.26, 0.9


def draw(results: dict[str, Any], picture: Path) -> None:
    """One panel of bars for each piece of work that peers were measured on."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "data-bridge"  # the same figures give the same file
    from matplotlib import pyplot as plt

    works = {name: work for name, work in results["works"].items() if len(_bars(work)) > 1}
    rows = -(-len(works) // COLUMNS)
    tallest = max(len(_bars(work)) for work in works.values())
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(WIDTH * COLUMNS, rows * (HEAD + ROW * tallest)), squeeze=False, layout="constrained"
    )
    for axis, (name, work) in zip(axes.flat, works.items(), strict=False):
        bars = _bars(work)
        axis.barh([title for title, _, _ in bars], [ratio for _, ratio, _ in bars], color=[c for *_, c in bars])
        axis.bar_label(axis.containers[0], [f"{ratio:.2g}×" for _, ratio, _ in bars], padding=3, fontsize=8)
        axis.set(title=f"{name}: {work['title']}", xscale="log")
        axis.title.set_fontsize(9)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(works) :]:
        axis.set_axis_off()
    figure.suptitle("CPU time over ours (log scale); green: data-bridge, purple: others, grey: floors", fontsize=10)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None, dpi=110)


def _bars(work: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Title, CPU over ours, colour; nothing where only ours ran."""
    rows = [row for row in work["ways"].values() if row["costs"]]
    mine = next((row for row in rows if row["kind"] == "ours"), None)
    if mine is None or all(row["kind"] == "ours" for row in rows):
        return []
    return [(row["title"].replace("`", ""), _cpu(row) / _cpu(mine), COLOURS[row["kind"]]) for row in rows]


def _cpu(row: dict[str, Any]) -> float:
    return max(1e-3, median(cost["cpu_s"] for cost in row["costs"]))


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
