"""Killed at any commit point, any number of times, a rerun ends with the tree of an undisturbed run."""

import random
from pathlib import Path
from typing import Literal

import pytest
from support.corpus import write_jsonl
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.storage import open_store
from data_bridge.utils import segments

SIGKILLED = -9
WITH_FAILURES = 3


def settings_for(source: Path, **more: object) -> Settings:
    pipeline = {
        "input_uri": str(source),
        "samples_per_shard": 30,
        "partition_bytes": 9_000,
        "on_error": "quarantine",
        **more,
    }
    return Settings.model_validate({"pipeline": pipeline})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.jsonl"
    write_jsonl(path, 200, bad_every=17)
    return path


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path) -> tuple[dict[str, bytes], int]:
    """The tree of a run nobody killed, and the number of mutations it took."""
    return counted_run(settings_for(source), tmp_path / "undisturbed")


def counted_run(settings: Settings, root: Path) -> tuple[dict[str, bytes], int]:
    stores: list[ShootingStore] = []

    def opener(settings: Settings) -> ShootingStore:
        stores.append(ShootingStore(open_store(str(root), settings), None))
        return stores[-1]

    report = run_pipeline(settings, workers=0, open_destination=opener)

    assert report.exit_code == WITH_FAILURES
    return tree(root), max(s.count for s in stores)


def finish(settings: Settings, root: Path, workers: int) -> None:
    """Rerun until it is through: one rerun must do."""
    assert run_in_child(settings, ShootingDestination(str(root)), workers=workers) == WITH_FAILURES


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", range(4))
def test_every_commit_point_of_an_inline_run_survives_a_kill(
    source: Path,
    tmp_path: Path,
    undisturbed: tuple[dict[str, bytes], int],
    part: int,
    when: Literal["before", "after"],
) -> None:
    expected, mutations = undisturbed
    settings = settings_for(source)

    for number in range(part, mutations, 4):
        root = tmp_path / str(number)
        shot = Shot(number, when, str(tmp_path / f"fuse-{number}"))
        assert run_in_child(settings, ShootingDestination(str(root), shot), workers=0) == SIGKILLED
        finish(settings, root, workers=0)
        assert tree(root) == expected


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_commit_point_of_a_run_that_writes_segments_survives_a_kill(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: Literal["before", "after"]
) -> None:
    monkeypatch.setattr(segments, "RECORDS", 2)
    settings = settings_for(source, partition_bytes=1_000_000)
    expected, mutations = counted_run(settings, tmp_path / "undisturbed")
    assert list((tmp_path / "undisturbed/_bridge").glob("*/segments/p00000/*.json"))

    for number in range(mutations):
        root = tmp_path / str(number)
        shot = Shot(number, when, str(tmp_path / f"fuse-{number}"))
        assert run_in_child(settings, ShootingDestination(str(root), shot), workers=0) == SIGKILLED
        finish(settings, root, workers=0)
        assert tree(root) == expected


@pytest.mark.parametrize("seed", range(12))
def test_kills_in_a_row_at_random_points_leave_no_trace(
    source: Path, tmp_path: Path, undisturbed: tuple[dict[str, bytes], int], seed: int
) -> None:
    expected, mutations = undisturbed
    rng = random.Random(seed)
    root = tmp_path / "out"
    settings = settings_for(source)

    for attempt in range(rng.randint(2, 3)):
        shot = Shot(rng.randrange(mutations), rng.choice(("before", "after")), str(tmp_path / f"fuse-{attempt}"))
        batch = rng.choice((None, rng.randrange(4)))
        run_in_child(settings, ShootingDestination(str(root), shot), workers=0, batch=batch)

    finish(settings, root, workers=0)
    assert tree(root) == expected


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("group", [True, False], ids=["whole run", "one slot"])
def test_a_kill_among_worker_processes_leaves_no_trace(
    source: Path, tmp_path: Path, undisturbed: tuple[dict[str, bytes], int], workers: int, group: bool
) -> None:
    expected, _ = undisturbed
    root = tmp_path / "out"
    settings = settings_for(source)
    # the third mutation of a slot lies in the middle of its first partition
    shot = Shot(2, "after", str(tmp_path / "fuse"), group=group, in_slot=True)

    code = run_in_child(settings, ShootingDestination(str(root), shot), workers=workers)

    assert (tmp_path / "fuse").exists()
    assert code == (SIGKILLED if group else WITH_FAILURES)
    if group:
        finish(settings, root, workers=workers)
    assert tree(root) == expected


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000))
def test_many_random_kills(source: Path, tmp_path: Path, undisturbed: tuple[dict[str, bytes], int], seed: int) -> None:
    test_kills_in_a_row_at_random_points_leave_no_trace(source, tmp_path, undisturbed, seed + 1000)


def test_the_tree_does_not_depend_on_the_number_of_workers(
    source: Path, tmp_path: Path, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    expected, _ = undisturbed

    for workers in (0, 1, 3):
        run_pipeline(
            settings_for(source), workers=workers, open_destination=ShootingDestination(str(tmp_path / str(workers)))
        )
        assert tree(tmp_path / str(workers)) == expected
