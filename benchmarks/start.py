"""What it costs to do almost nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import sources
from benchmarks.check_tars import check_tars
from benchmarks.tars import pipeline
from benchmarks.work import Place, Way, Work, data_bridge, run

NAMES = ("start",)
LINES = 1_000


@contextmanager
def opened(name: str, _scale: float, place: Place) -> Iterator[Work]:
    """The same at every scale."""
    source = sources.lines(LINES, place.data)

    def small(out: Path) -> list[str]:
        return run(out.with_suffix(".json"), pipeline(source, LINES, str(out)), None)

    ways = [
        Way("help", "ours", "data-bridge --help", lambda _: [data_bridge(), "--help"]),
        Way("run", "ours", "data-bridge run of 1,000 lines", small, check=lambda out: check_tars(source, LINES, out)),
    ]
    yield Work(name, "doing almost nothing", ways, [source.path])
