"""A retry that is killed anywhere ends, by whichever command, with the tree of one that nobody disturbed."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.retries import TIMES, Changing, mend, settings

from data_bridge.api import retry_failed, run_pipeline
from data_bridge.config import Settings
from data_bridge.model.report import RunReport
from data_bridge.storage import open_store

SIGKILLED = -9
WITH_FAILURES = 3


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    return settings(tmp_path, partition_bytes=5_000, stages=TIMES)


@pytest.fixture
def failed(chosen: Settings, tmp_path: Path) -> Path:
    """A dataset with failed samples that could be used by now, changed while it was made."""
    root = tmp_path / "failed"
    run_pipeline(chosen, workers=0, open_destination=ShootingDestination(str(root)), observer=Changing(root, factor=3))
    mend(tmp_path)
    return root


@pytest.fixture
def undisturbed(chosen: Settings, failed: Path, tmp_path: Path) -> tuple[dict[str, bytes], int]:
    """The tree of a retry that nobody killed, and the number of mutations it took."""
    root = Path(shutil.copytree(failed, tmp_path / "undisturbed"))
    stores: list[ShootingStore] = []

    def opener(settings: Settings) -> ShootingStore:
        stores.append(ShootingStore(open_store(str(root), settings), None))
        return stores[-1]

    retry_failed(chosen, workers=0, open_destination=opener)
    assert tree(root) != tree(failed)
    return tree(root), max(s.count for s in stores)


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_commit_point_of_a_retry_survives_a_kill(
    chosen: Settings,
    failed: Path,
    undisturbed: tuple[dict[str, bytes], int],
    tmp_path: Path,
    when: Literal["before", "after"],
) -> None:
    expected, mutations = undisturbed

    # behind the last one it is over: the same command would begin another retry
    for number in range(mutations - (when == "after")):
        root = Path(shutil.copytree(failed, tmp_path / str(number)))
        shot = Shot(number, when, str(tmp_path / f"fuse-{number}"))
        there = ShootingDestination(str(root), shot)
        assert run_in_child(chosen, there, workers=0, run=retry_failed) == SIGKILLED

        code = run_in_child(chosen, ShootingDestination(str(root)), workers=0, run=retry_failed)

        assert (code, tree(root)) == (WITH_FAILURES, expected)
        shutil.rmtree(root)


@pytest.mark.parametrize("finish", [retry_failed, run_pipeline])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_retry_whose_workers_are_killed_is_finished_by_either_command(
    chosen: Settings,
    failed: Path,
    undisturbed: tuple[dict[str, bytes], int],
    tmp_path: Path,
    workers: int,
    finish: Callable[..., RunReport],
) -> None:
    expected, _ = undisturbed
    root = Path(shutil.copytree(failed, tmp_path / "out"))
    shot = Shot(2, "after", str(tmp_path / "fuse"), in_slot=True)

    assert run_in_child(chosen, ShootingDestination(str(root), shot), workers=workers, run=retry_failed) == SIGKILLED
    code = run_in_child(chosen, ShootingDestination(str(root)), workers=workers, run=finish)

    assert (code, tree(root)) == (WITH_FAILURES, expected)


@pytest.mark.parametrize("seed", range(4))
def test_kills_in_a_row_leave_no_trace_in_a_retry(
    chosen: Settings, failed: Path, undisturbed: tuple[dict[str, bytes], int], tmp_path: Path, seed: int
) -> None:
    expected, mutations = undisturbed
    rng = random.Random(seed)
    root = Path(shutil.copytree(failed, tmp_path / "out"))

    for attempt in range(3):
        shot = Shot(rng.randrange(mutations // 2), rng.choice(("before", "after")), str(tmp_path / f"fuse-{attempt}"))
        there = ShootingDestination(str(root), shot)
        assert run_in_child(chosen, there, workers=0, run=retry_failed) == SIGKILLED

    run_in_child(chosen, ShootingDestination(str(root)), workers=0, run=retry_failed)
    assert tree(root) == expected
