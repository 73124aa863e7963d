"""hop, answers, metrics: what a queue, commands and counting cost a run of W2."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.check_tars import whole_tars
from benchmarks.tars import pipeline, source_of
from benchmarks.work import Place, Way, Work, cut_as_at_full_size, own, run
from data_bridge.model.batch import RowFailure
from data_bridge.runtime.stage import SideStage, StageBatch, StageOptions

NAMES = ("hop", "answers", "metrics")
FIGURES = "figures.json"
LEAST_LOAD_S = 5.0
"""CPU of the stage in `answers`: time enough for many commands at every scale."""


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """The work of that name at a share of its size."""
    source, per_shard, what = source_of("W2", scale, place.data)

    def config(out: Path, **more: Any) -> dict[str, Any]:
        return {**pipeline(source, per_shard, str(out)), **cut_as_at_full_size(scale), **more}

    def ours(way: str, title: str, *stages: Any) -> Way:
        def command(out: Path) -> list[str]:
            return run(out.with_suffix(".json"), config(out, stages=stages), 0)

        return Way(way, "ours", title, command, check=check, size=source.samples)

    def driven(part: str, title: str, *stages: Any) -> Way:
        def command(out: Path) -> list[str]:
            out.with_suffix(".json").write_text(json.dumps({"pipeline": config(out, stages=stages)}))
            return own("drivers", part, out.with_suffix(".json"), out / FIGURES)

        return Way(part, "ours", title, command, check=check, figures=figures)

    check = partial(whole_tars, source, per_shard)
    burn_us = LEAST_LOAD_S * 1e6 / source.samples
    burn = {"map": {"call": "benchmarks.running:burn", "arguments": {"microseconds": burn_us}}, "name": "burn"}
    ways = {
        "hop": [
            ours("none", "no branch"),
            ours("branch", "a branch behind a queue that blocks, whose stage does nothing", LOOK),
        ],
        "answers": [driven("asked", "every core at work, and another command every 10 ms", burn)],
        "metrics": [driven("counted", "in one process, every call that counts or tells timed")],
    }
    yield Work(name, f"{source.samples:,} {what} → tar", ways[name], [source.path])


def figures(out: Path) -> dict[str, float]:
    """What a driver has left."""
    found: dict[str, float] = json.loads((out / FIGURES).read_text())
    return found


LOOK = {"benchmarks.running:Nothing": {}, "name": "nothing"}


class Nothing(SideStage[StageOptions]):
    """Looks at nothing."""

    kind = "nothing"
    Options = StageOptions

    def look(self, batch: StageBatch) -> Sequence[RowFailure]:  # noqa: ARG002
        return ()


def burn(row: dict[str, Any], microseconds: float) -> dict[str, Any]:
    """The row, after so much CPU."""
    until = process_time() + microseconds / 1e6
    while process_time() < until:
        pass
    return row
