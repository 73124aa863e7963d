"""Killed at random points, any number of times, with any source and writer: a rerun ends with the undisturbed tree."""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.kill_cases import CASES, names_of

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.storage import open_store

SIGKILLED = -9
WITH_FAILURES = 3


@dataclass(frozen=True)
class Undisturbed:
    """What a run gives that nobody killed."""

    settings: Settings
    tree: dict[str, bytes]
    mutations: int


GetUndisturbed = Callable[[str], Undisturbed]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> GetUndisturbed:
    """The undisturbed run of each case, made once."""

    @functools.cache
    def get(name: str) -> Undisturbed:
        root = tmp_path_factory.mktemp("undisturbed")
        settings = CASES[name].settings(tmp_path_factory.mktemp("source"))
        stores: list[ShootingStore] = []

        def opener(settings: Settings) -> ShootingStore:
            stores.append(ShootingStore(open_store(str(root), settings), None))
            return stores[-1]

        assert run_pipeline(settings, workers=0, open_destination=opener).exit_code == WITH_FAILURES
        found = tree(root)
        assert len(names_of(found)) >= 5
        return Undisturbed(settings, found, max(s.count for s in stores))

    return get


def kill_at_random(run: Undisturbed, root: Path, rng: random.Random, kills: int) -> None:
    """Runs of one process, each killed at one of the store's mutations, or when a batch was packed."""
    for attempt in range(kills):
        shot = Shot(rng.randrange(run.mutations), rng.choice(("before", "after")), f"{root}-fuse-{attempt}")
        batch = rng.choice((None, None, rng.randrange(4)))
        run_in_child(run.settings, ShootingDestination(str(root), shot), workers=0, batch=batch)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_random_kills_in_a_row_leave_no_trace(
    undisturbed: GetUndisturbed, tmp_path: Path, name: str, seed: int
) -> None:
    run, rng = undisturbed(name), random.Random(f"{name} {seed}")
    root = tmp_path / "out"

    kill_at_random(run, root, rng, 1 + seed % 3)

    assert run_in_child(run.settings, ShootingDestination(str(root)), workers=0) == WITH_FAILURES
    assert tree(root) == run.tree


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("jsonl to tar.gz", 2),
        ("parquet shuffled as a whole", 1),
        ("parquet shuffled as a whole", 2),
        ("jsonl to litdata classic", 2),
        ("jsonl.gz to tar", 1),
        ("parquet to tar by size", 2),
        ("tar to tar", 2),
        ("files to tar", 5),
        ("arrays filtered in place", 1),
        ("arrays filtered in place", 2),
        ("jsonl joined by name", 1),
        ("jsonl joined by name", 2),
        ("jsonl tallied", 1),
        ("jsonl tallied", 2),
        ("jsonl tallied in threads, multiplied and divided", 2),
    ],
)
def test_a_worker_that_dies_and_is_replaced_leaves_no_trace(
    undisturbed: GetUndisturbed, tmp_path: Path, name: str, workers: int
) -> None:
    run, rng = undisturbed(name), random.Random(name)
    root = tmp_path / "out"
    shot = Shot(rng.randrange(1, 4), rng.choice(("before", "after")), str(tmp_path / "fuse"), group=False, in_slot=True)

    code = run_in_child(run.settings, ShootingDestination(str(root), shot), workers=workers)

    assert (tmp_path / "fuse").exists()
    assert code == WITH_FAILURES
    assert tree(root) == run.tree


@pytest.mark.parametrize("workers", [2, 5])
def test_a_run_begun_in_one_process_is_ended_by_any_number(
    undisturbed: GetUndisturbed, tmp_path: Path, workers: int
) -> None:
    run = undisturbed("parquet to tar")
    root = tmp_path / "out"

    kill_at_random(run, root, random.Random(workers), 2)

    assert run_in_child(run.settings, ShootingDestination(str(root)), workers=workers) == WITH_FAILURES
    assert tree(root) == run.tree


def test_counted_sources_give_contiguous_names(undisturbed: GetUndisturbed) -> None:
    names = names_of(undisturbed("parquet to tar").tree)

    assert names == [f"{number:06d}.tar" for number in range(len(names))]
    assert len(names) == 9


def test_shards_cut_by_size_are_numbered_within_their_range(undisturbed: GetUndisturbed) -> None:
    names = names_of(undisturbed("parquet to tar by size").tree)

    assert {name.split(".")[0].split("_")[0] for name in names} == {f"{number:06d}" for number in range(9)}
    assert any(name.endswith("_1.tar") for name in names)


def test_no_staged_file_outlives_the_rerun(undisturbed: GetUndisturbed, tmp_path: Path) -> None:
    run = undisturbed("jsonl to tar.gz")
    left: dict[int, list[str]] = {}

    for number in range(run.mutations):
        root = tmp_path / str(number)
        shot = Shot(number, "after", str(tmp_path / f"fuse-{number}"))
        run_in_child(run.settings, ShootingDestination(str(root), shot), workers=0)
        run_in_child(run.settings, ShootingDestination(str(root)), workers=0)
        left[number] = [str(path) for path in root.glob("_bridge/*/staging/*")]

    assert {number: paths for number, paths in left.items() if paths} == {}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4, 150))
@pytest.mark.parametrize("name", CASES)
def test_many_random_kills_leave_no_trace(undisturbed: GetUndisturbed, tmp_path: Path, name: str, seed: int) -> None:
    test_random_kills_in_a_row_leave_no_trace(undisturbed, tmp_path, name, seed)
