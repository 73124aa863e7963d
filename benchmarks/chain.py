"""chain: what stages that do nothing cost over W2."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.check_tars import whole_tars
from benchmarks.tars import pipeline, source_of
from benchmarks.work import Place, Way, Work, cut_as_at_full_size, run

NAMES = ("chain",)


@contextmanager
def opened(name: str, scale: float, place: Place) -> Iterator[Work]:
    """The work of that name at a share of its size."""
    source, per_shard, what = source_of("W2", scale, place.data)
    check = partial(whole_tars, source, per_shard)

    def chain(length: int) -> Way:
        def command(out: Path) -> list[str]:
            stages = [{"map": {"call": "benchmarks.chain:same"}, "name": f"same{n}"} for n in range(length)]
            config = {**pipeline(source, per_shard, str(out)), **cut_as_at_full_size(scale), "stages": stages}
            return run(out.with_suffix(".json"), config, 0)

        title = f"{length} `map` stages that do nothing" if length != 1 else "a `map` stage that does nothing"
        return Way(f"maps-{length}", "ours", title if length else "no stage", command, check=check)

    yield Work(name, f"{source.samples:,} {what} → tar", [chain(0), chain(1), chain(5)], [source.path])


def same(row: dict[str, Any]) -> dict[str, Any]:
    return row
