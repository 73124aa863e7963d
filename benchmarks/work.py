"""What is measured: a piece of work, and the ways to do it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers"
Kind = Literal["ours", "peer", "floor"]
TINY = 0.001
"""The scale at which everything runs once before it is measured, so that all that is imported is compiled."""


class Wrong(Exception):
    """An output is not its source."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do the work: a command that is given a folder of its own, new in every round."""

    name: str
    kind: Kind
    title: str
    command: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] | None = None
    """Fills the folder before the clock starts."""
    check: Callable[[Path], None] | None = None
    """Raises Wrong unless the output is right; after every run, outside the clock."""
    read_back: Callable[[Path], None] | None = None
    """A dearer check, after the first run."""
    env: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    """How many samples or shards it handles, where the cost of each is asked for."""
    skipped: str = ""
    """Why it cannot run here."""


@dataclass(frozen=True, slots=True)
class Work:
    """Ways to do the same, run in turn. `inputs` are read into the page cache before every run."""

    name: str
    title: str
    ways: Sequence[Way]
    inputs: Sequence[Path] = ()
    most_rounds: int | None = None
    """For work too long to be repeated as often as the rest."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where sources are kept and where outputs go."""

    data: Path
    scratch: Path


def data_bridge() -> str:
    """The console script beside this interpreter."""
    return str(Path(sys.executable).with_name("data-bridge"))


def run(config: Path, pipeline: Mapping[str, Any], workers: int | None, **blocks: Any) -> list[str]:
    """Our command line on a config written here."""
    config.write_text(json.dumps({"pipeline": pipeline, **blocks}))
    slots = [] if workers is None else ["--workers", str(workers)]
    return [data_bridge(), "run", str(config), *slots]


def own(module: str, *arguments: object) -> list[str]:
    """A module of the benchmarks in the project's environment."""
    return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]


def peers(module: str, *arguments: object) -> list[str]:
    """A module of the benchmarks in the peers' environment."""
    return [str(PEERS / "bin" / "python"), "-m", f"benchmarks.{module}", *map(str, arguments)]


PEER_ENV = {"PYTHONPYCACHEPREFIX": ""}
"""That environment was compiled when it was installed."""


def no_peers() -> str:
    """Why what needs the peers' environment cannot run here; empty where it can."""
    return "" if (PEERS / ".complete").exists() else f"{PEERS.name} is not there: run .ci/peers"
