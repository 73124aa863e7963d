"""Run every way to do the work in turn on the same sources, check what they made, print and keep the figures."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import buckets, chain, dicts, fetch, growth, resume, running, start, tars, upload
from benchmarks.contest import Opener, contest
from benchmarks.report import draw, facts, facts_in_words, summary, table
from benchmarks.work import Place

FAMILIES = (tars, fetch, dicts, upload, buckets, resume, start, growth, chain, running)
WORKS: Mapping[str, Opener] = {name: family.opened for family in FAMILIES for name in family.NAMES}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    results = {"facts": facts(), "scale": options.scale, "rounds": options.rounds, "works": {}}
    print(facts_in_words(results), "\n")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="data-bridge-bench-") as scratch:
        place = Place(options.data or Path(scratch) / "data", Path(scratch))
        for name, scale in options.works.items():
            found = contest(WORKS[name], name, scale, options.rounds, place, options.only)
            results["works"][name] = {**found, "scale": scale}
            print(table(name, found), "\n", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n")  # what is there survives an interruption
        print("### Goals\n\n" + summary(results))
        if options.plot:
            kept = options.json or Path(scratch) / "results.json"
            kept.write_text(json.dumps(results, indent=2) + "\n")
            print(draw(kept, options.plot), file=sys.stderr)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument(
        "works",
        nargs="*",
        metavar="WORK",
        help=f"{', '.join(WORKS)}; all when none is named; W2@0.5 has a scale of its own",
    )
    parser.add_argument("--scale", type=float, default=0.5, help="share of the samples (default 0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way, in turn (default 3)")
    parser.add_argument("--only", action="append", default=[], metavar="WAY", help="only the ways of this name")
    parser.add_argument("--data", type=Path, help="keep generated sources in this folder")
    parser.add_argument(
        "--folder", type=Path, help="where outputs are written (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the figures into this file (.svg or .png)")
    options = parser.parse_args(arguments)
    named = [name.partition("@") for name in options.works or WORKS]
    if unknown := {name for name, _, _ in named} - set(WORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(WORKS)}")
    try:
        options.works = {name: float(scale) if at else options.scale for name, at, scale in named}
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
