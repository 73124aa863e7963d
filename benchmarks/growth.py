"""What grows with the work: memory and cost a sample at ten times W2, cost a shard at a hundred thousand shards."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import sources
from benchmarks.check_tars import check_tars, whole_tars
from benchmarks.contest import environment
from benchmarks.tars import LINES, PER_SHARD_LINES
from benchmarks.work import Place, Way, Work, Wrong, copy_of, cut_as_at_full_size, data_bridge, driven, own, run

NAMES = ("memory", "ledger")
TIMES = 10
SHARDS = 100_000
REST = 50
"""Samples left to the resumed run: more than a run being killed may still commit."""


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """The work of that name at a share of its size."""
    yield _memory(scale, place) if name == "memory" else _ledger(scale, place)
    for left in place.scratch.glob(f"{name}-state-*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _memory(scale: float, place: Place) -> Work:
    source = sources.lines(max(TIMES, round(LINES * scale)), place.data)
    small = sources.lines(min(source.samples, 1_000), place.data)
    many = place.data / f"{source.path.stem}-times-{TIMES}"
    many.mkdir(exist_ok=True)
    for number in range(TIMES):
        link = many / f"{number}.jsonl"
        if not link.exists():
            os.link(source.path, link)

    def way(name: str, title: str, uri: Path, samples: int, workers: int) -> Way:
        def command(out: Path) -> list[str]:
            pipeline = {"input_uri": str(uri), "output_uri": str(out), "samples_per_shard": PER_SHARD_LINES}
            return run(out.with_suffix(".json"), {**pipeline, **cut_as_at_full_size(scale)}, workers)

        if uri == many:
            return Way(name, "ours", title, command, check=partial(_counted, samples), size=samples)
        check, read_back = (
            partial(look, source if uri == source.path else small, PER_SHARD_LINES) for look in (whole_tars, check_tars)
        )
        return Way(name, "ours", title, command, check=check, read_back=read_back, size=samples)

    slots = {0: "in one process", 2: "2 slots"}
    ways = [way("start", "a run of 1,000 lines, in one process", small.path, small.samples, 0)]
    for workers, words in slots.items():
        ways.append(way(f"one-{workers}", f"W2, {words}", source.path, source.samples, workers))
        ways.append(way(f"ten-{workers}", f"ten times W2, {words}", many, TIMES * source.samples, workers))
    return Work("memory", f"{source.samples:,} JSON lines, and ten times as many", ways, [source.path])


def _counted(samples: int, out: Path) -> None:
    found = json.loads((out / "manifest.json").read_text())["totals"]["samples"]
    if found != samples:
        raise Wrong(f"{out}: the manifest counts {found} samples, not {samples}")


def _ledger(scale: float, place: Place) -> Work:
    many = max(TIMES, round(SHARDS * scale))
    ways = list[Way]()
    for name, shards in (("one", 1), ("few", many // TIMES), ("many", many)):
        ways += _on_a_ledger(name, shards, place)
    return Work("ledger", f"a ledger of 1, {many // TIMES:,} and {many:,} shards of one sample", ways)


def _on_a_ledger(name: str, shards: int, place: Place) -> list[Way]:
    """What a run does besides packing, on a dataset that is killed before its end, when done, and finished."""
    source = _short_lines(shards + REST, place.data)
    states = {state: place.scratch / f"ledger-state-{state}-{shards}" for state in ("killed", "done", "finished")}
    env = environment(place.scratch)

    def config(out: Path) -> Path:
        pipeline = {"input_uri": str(source), "output_uri": str(out), "samples_per_shard": 1}
        out.with_suffix(".json").write_text(json.dumps({"pipeline": pipeline}))
        return out.with_suffix(".json")

    def last(out: Path) -> list[str]:
        return [data_bridge(), "run", str(config(out)), "--workers", "0"]

    driven(own("drivers", "until", config(states["killed"]), shards), env)
    copy_of(states["killed"])(states["done"])
    driven(own("drivers", "until", config(states["done"]), "done"), env)
    copy_of(states["done"])(states["finished"])
    driven(last(states["finished"]), env)
    many = f"{shards:,} shards"
    finished = str(states["finished"])
    return [
        Way(f"resume-{name}", "ours", f"to the first new sample behind {many}",
            lambda out: own("drivers", "first", config(out), shards), prepare=copy_of(states["killed"]), size=shards),
        Way(f"finalize-{name}", "ours", f"run with {many} done, to the manifest",
            last, prepare=copy_of(states["done"]), check=partial(_counted, shards + REST), size=shards + REST),
        Way(f"status-{name}", "ours", f"status of {many}", lambda _: [data_bridge(), "status", finished], size=shards + REST),
        Way(f"verify-{name}", "ours", f"verify {many}", lambda _: [data_bridge(), "verify", finished], size=shards + REST),
    ]  # fmt: skip


def _short_lines(samples: int, data: Path) -> Path:
    path = data / f"short-{samples}.jsonl"
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f'{{"id":{number}}}\n' for number in range(samples)))
    return path
