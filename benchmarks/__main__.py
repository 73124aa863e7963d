"""Run the contestants in turn on the same sources, check what they wrote, print and keep the figures."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.check import check
from benchmarks.contestants import ALL, Contestant, data_bridge
from benchmarks.measure import Cost, measured
from benchmarks.report import facts, middle, table
from benchmarks.workloads import Workload, make

TINY = 0.001
WORKLOADS = ("W1", "W2", "W2g")
ENV = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    found = facts()
    print("\n".join(f"{name}: {value}" for name, value in found.items()), "\n")
    results: dict[str, object] = {"facts": found, "scale": options.scale, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="data-bridge-bench-") as scratch:
        env = {
            **ENV,
            "HF_HOME": f"{scratch}/hf",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONPYCACHEPREFIX": f"{scratch}/compiled",  # compiled once, as anything installed is
            "PYTHONDONTWRITEBYTECODE": "",
        }
        if "start" in options.workloads:
            results["start"] = _start_up(Path(scratch), env, options.rounds)
        for name in (each for each in options.workloads if each != "start"):
            work = make(name, options.scale, options.data or Path(scratch) / "data")
            contestants = [each for each in ALL if not options.only or each.name in options.only]
            costs = _contest(work, contestants, Path(scratch), env, options.rounds)
            print(table(f"{name}: {work.title}", contestants, costs), "\n", flush=True)
            results[name] = {each: [asdict(cost) for cost in some] for each, some in costs.items()}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    every = (*WORKLOADS, "start")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(every)}; all when none is named")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the samples (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant, in turn (default 3)")
    parser.add_argument("--only", action="append", choices=[each.name for each in ALL], help="only these contestants")
    parser.add_argument("--data", type=Path, help="keep generated sources in this folder")
    parser.add_argument(
        "--folder", type=Path, help="where outputs are written (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.workloads) - set(every):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(every)}")
    options.workloads = options.workloads or list(every)
    return options


def _contest(
    work: Workload, contestants: Sequence[Contestant], scratch: Path, env: dict[str, str], rounds: int
) -> dict[str, list[Cost]]:
    """Every contestant once a round, so that a slow minute of the machine hits all of them."""
    costs: dict[str, list[Cost]] = {each.name: [] for each in contestants}
    small = make(work.name, TINY, scratch / "tiny")
    for each in contestants:
        _run(each, small, scratch, env)  # compiles what it imports
    for number in range(rounds):
        for each in contestants:
            cost = _run(each, work, scratch, env)
            costs[each.name].append(cost)
            print(f"{work.name} round {number + 1}: {each.name} {cost.cpu_s:.2f} CPU s", file=sys.stderr, flush=True)
    return costs


def _run(contestant: Contestant, work: Workload, scratch: Path, env: dict[str, str]) -> Cost:
    """One run, with its output checked and removed."""
    out = scratch / f"{work.name}-{contestant.name}"
    out.mkdir()
    with work.source.open("rb") as file:
        while file.read(1 << 20):  # into the page cache, for everyone
            pass
    os.sync()
    cost = measured(contestant.command(work, out), env)
    if contestant.makes_shards:
        check(work, out)
    shutil.rmtree(out)
    return cost


def _start_up(scratch: Path, env: dict[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """What it costs to do almost nothing."""
    work = make("W2", TINY, scratch / "data")
    helps, runs = list[Cost](), list[Cost]()
    for number in range(rounds + 1):
        helps.append(measured([data_bridge(), "--help"], env))
        out = scratch / f"start-{number}"
        out.mkdir()
        config = out.with_suffix(".json")
        config.write_text(json.dumps({"pipeline": {"input_uri": str(work.source), "output_uri": str(out)}}))
        runs.append(measured([data_bridge(), "run", str(config)], env))
    medians = {"--help": middle(helps[1:]), "run of 1,000 lines": middle(runs[1:])}  # the first compiled
    print("### Start-up\n\n| command | CPU s | wall s |\n|---|---:|---:|")
    for name, cost in medians.items():
        print(f"| {name} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} |")
    print(flush=True)
    return {name: asdict(cost) for name, cost in medians.items()}


if __name__ == "__main__":
    sys.exit(main())
