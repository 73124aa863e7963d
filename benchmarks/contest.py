"""Runs the ways of a piece of work in turn, checks what they made, keeps what they cost."""

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure import Cost, Failed, measured
from benchmarks.work import ROOT, TINY, Place, Way, Work, Wrong

BLOCK = 1 << 20


class Opener(Protocol):
    """Makes a piece of work ready at a share of its size."""

    def __call__(self, name: str, scale: float, place: Place, /) -> AbstractContextManager[Work]: ...


def contest(
    opened: Opener, name: str, scale: float, rounds: int, place: Place, only: Collection[str]
) -> dict[str, Any]:
    """Every way once a round, so that a slow minute of the machine hits all of them; at a tiny scale first."""
    env = environment(place.scratch)
    broken = dict[str, str]()
    if scale > TINY:
        with opened(name, TINY, Place(place.scratch / "tiny", place.scratch)) as tiny:
            for way in _wanted(tiny, only):
                _say(f"{name}: warming up {way.name}")
                if why := _failure(tiny, way, place.scratch, env):
                    broken[way.name] = why
    with opened(name, scale, place) as work:
        costs: dict[str, list[dict[str, float]]] = {way.name: [] for way in work.ways}
        for number in range(min(rounds, work.most_rounds or rounds)):
            for way in _wanted(work, only):
                if way.name in broken:
                    continue
                cost, figures = _run(work, way, place.scratch, env, read_back=number == 0)
                costs[way.name].append({**asdict(cost), **figures})
                own = "".join(f", {what} {value:.4g}" for what, value in figures.items())
                _say(f"{name} round {number + 1}: {way.name} {cost.cpu_s:.2f} CPU s, {cost.wall_s:.2f} s{own}")
        rows = {
            way.name: {
                "kind": way.kind,
                "title": way.title,
                "size": way.size,
                "skipped": way.skipped or broken.get(way.name, ""),
                "costs": costs[way.name],
            }
            for way in work.ways
            if not only or way.name in only
        }
        return {"title": work.title, "ways": rows}


def environment(scratch: Path) -> dict[str, str]:
    """What every process measured finds in its environment."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HOME": str(scratch),  # staging and caches go to the disk that is measured
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(scratch / "compiled"),  # compiled once, as anything installed is
        "PYTHONDONTWRITEBYTECODE": "",
    }


def _wanted(work: Work, only: Collection[str]) -> list[Way]:
    found = [way for way in work.ways if not only or way.name in only]
    for way in found:
        if way.skipped:
            _say(f"{work.name}: {way.name} is skipped: {way.skipped}")
    return [way for way in found if not way.skipped]


def _failure(work: Work, way: Way, scratch: Path, env: Mapping[str, str]) -> str:
    """Run once; why a peer cannot be measured here, in words. What is ours has to work."""
    try:
        _run(work, way, scratch, env, read_back=True)
    except (Failed, Wrong) as error:
        if way.kind == "ours":
            raise
        shutil.rmtree(scratch / f"{work.name}-{way.name}")
        _say(f"{work.name}: {way.name} failed: {error}")
        return f"failed: {str(error).strip().splitlines()[-1]}"
    return ""


def _run(
    work: Work, way: Way, scratch: Path, env: Mapping[str, str], *, read_back: bool
) -> tuple[Cost, Mapping[str, float]]:
    """One run: what it cost, and what it measured itself. Its output is checked and removed."""
    out = scratch / f"{work.name}-{way.name}"
    out.mkdir()
    if way.prepare:
        way.prepare(out)
    for path in work.inputs:
        with path.open("rb") as file:
            while file.read(BLOCK):  # into the page cache, for everyone
                pass
    os.sync()
    cost = measured(way.command(out), {**env, **way.env})
    if way.check:
        way.check(out)
    if way.read_back and read_back:
        way.read_back(out)
    figures = way.figures(out) if way.figures else {}
    shutil.rmtree(out)
    return cost, figures


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
