"""What is measured: a piece of work, and the ways to do it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_bridge.config import PipelineSettings

ROOT = Path(__file__).parents[1]
Kind = Literal["ours", "peer", "floor"]
LEAST_PARTITION = 100_000
TINY = 0.001
"""The scale at which everything runs once before it is measured, so that all that is imported is compiled."""


COMPILED = {"PYTHONPYCACHEPREFIX": ""}
"""In the environment of processes whose modules were compiled when they were installed."""


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
    figures: Callable[[Path], Mapping[str, float]] | None = None
    """What it measured itself, beside what it cost."""
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


def cut_as_at_full_size(scale: float) -> dict[str, int]:
    """Settings that cut a smaller source into as many partitions as the whole one: slots have work at every scale."""
    whole: int = PipelineSettings.model_fields["partition_bytes"].default
    return {"partition_bytes": max(LEAST_PARTITION, round(whole * scale))}


def data_bridge() -> str:
    """The console script beside this interpreter."""
    return str(Path(sys.executable).with_name("data-bridge"))


def run(config: Path, pipeline: Mapping[str, Any], workers: int | None, **blocks: Any) -> list[str]:
    """Our command line on a config written here."""
    config.write_text(json.dumps({"pipeline": pipeline, **blocks}))
    slots = [] if workers is None else ["--workers", str(workers)]
    return [data_bridge(), "run", str(config), *slots]


def copy_of(folder: Path) -> Callable[[Path], None]:
    """Prepares a run on what an earlier one left: the same files, for what is written is replaced and never changed."""

    def prepare(out: Path) -> None:
        shutil.copytree(folder, out, copy_function=os.link, dirs_exist_ok=True)

    return prepare


def driven(arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a command that prepares, outside every measurement."""
    subprocess.run(arguments, env={**os.environ, **env, **COMPILED}, cwd=ROOT, check=True, capture_output=True)


def own(module: str, *arguments: object) -> list[str]:
    """A module of the benchmarks in the project's environment."""
    return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment made by `.ci/peers`."""

    name: str

    @property
    def missing(self) -> str:
        """Why nothing can run in it here; empty where it can."""
        return "" if (ROOT / self.name / ".complete").exists() else f"{self.name} is not there: run .ci/peers"

    def command(self, module: str, *arguments: object) -> list[str]:
        """A module of the benchmarks in it."""
        return [self.program("python"), "-m", f"benchmarks.{module}", *map(str, arguments)]

    def program(self, name: str) -> str:
        """A program installed in it."""
        return str(ROOT / self.name / "bin" / name)


PEERS = Environment(".venv-peers")
PEERS_DATASETS = Environment(".venv-peers-datasets")
PEERS_IMG2DATASET = Environment(".venv-peers-img2dataset")
