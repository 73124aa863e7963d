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

WORKLOADS = ("W1", "W2", "W2g")
ENV = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    found = facts()
    print("\n".join(f"{name}: {value}" for name, value in found.items()), "\n")
    results: dict[str, object] = {"facts": found, "scale": options.scale, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="data-bridge-bench-") as scratch:
        env = {**ENV, "HF_HOME": f"{scratch}/hf", "PYTHONPATH": str(Path(__file__).parents[1])}
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
    for number in range(rounds):
        for each in contestants:
            out = scratch / f"{work.name}-{each.name}"
            out.mkdir()
            work.source.read_bytes()  # into the page cache, for everyone
            os.sync()
            cost = measured(each.command(work, out), env)
            costs[each.name].append(cost)
            print(f"{work.name} round {number + 1}: {each.name} {cost.cpu_s:.2f} CPU s", file=sys.stderr, flush=True)
            if each.makes_shards:
                check(work, out)
            shutil.rmtree(out)
    return costs


def _start_up(scratch: Path, env: dict[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """What it costs to do almost nothing."""
    work = make("W2", 0.001, scratch / "data")
    helps, runs = list[Cost](), list[Cost]()
    for number in range(rounds):
        helps.append(measured([data_bridge(), "--help"], env))
        out = scratch / f"start-{number}"
        out.mkdir()
        config = out.with_suffix(".json")
        config.write_text(json.dumps({"pipeline": {"input_uri": str(work.source), "output_uri": str(out)}}))
        runs.append(measured([data_bridge(), "run", str(config)], env))
    medians = {"--help": middle(helps), "run of 1,000 lines": middle(runs)}
    print("### Start-up\n\n| command | CPU s | wall s |\n|---|---:|---:|")
    for name, cost in medians.items():
        print(f"| {name} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} |")
    print(flush=True)
    return {name: asdict(cost) for name, cost in medians.items()}


if __name__ == "__main__":
    sys.exit(main())
