"""A run in slices, killed anywhere: reruns of the slices and one `finalize` end with the tree of an undisturbed single run."""

import functools
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.kill_cases import CASES
from support.kill_remote import Bucket, bucket_tree
from support.seaweed import Seaweed

from data_bridge.api import finalize, run_pipeline
from data_bridge.config import Settings
from data_bridge.events import Observer
from data_bridge.model.report import RunReport
from data_bridge.pipelines.base import OpenStore
from data_bridge.storage import open_store

SIGKILLED = -9
WITH_FAILURES = 3
UNFINISHED = 75
DONE = (0, WITH_FAILURES)
EVERY_NUMBER = ("jsonl to tar.gz", "jsonl to litdata classic", "parquet to tar")
KINDS = [
    (name, of) for place, name in enumerate(CASES) for of in ((1, 2, 3) if name in EVERY_NUMBER else (2 + place % 2,))
]


def publishing(
    settings: Settings, *, observer: Observer, workers: int | None, open_destination: OpenStore
) -> RunReport:
    return finalize(settings, observer=observer, open_destination=open_destination)


def do(settings: Settings, place: ShootingDestination, part: str, *, workers: int = 0, batch: int | None = None) -> int:
    """One slice in a child; its exit code."""
    return run_in_child(settings, place, workers=workers, batch=batch, run=functools.partial(run_pipeline, slice=part))


def publish(settings: Settings, place: ShootingDestination) -> int:
    return run_in_child(settings, place, workers=0, run=publishing)


def parts(of: int) -> list[str]:
    return [f"{number}/{of}" for number in range(1, of + 1)]


@dataclass(frozen=True)
class Single:
    """What one process makes alone."""

    settings: Settings
    tree: dict[str, bytes]
    mutations: int


@functools.cache
def single(name: str, folder: Path) -> Single:
    root, source = folder / "single", folder / "source"
    source.mkdir()
    settings = CASES[name].settings(source)
    stores: list[ShootingStore] = []

    def opener(settings: Settings) -> ShootingStore:
        stores.append(ShootingStore(open_store(str(root), settings), None))
        return stores[-1]

    assert run_pipeline(settings, workers=0, open_destination=opener).exit_code == WITH_FAILURES
    return Single(settings, tree(root), max(s.count for s in stores))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp("case") for name in CASES}


@pytest.mark.parametrize(("name", "of"), KINDS)
def test_slices_of_every_kind_of_run_killed_at_random_leave_no_trace(
    folders: dict[str, Path], tmp_path: Path, name: str, of: int
) -> None:
    alone, rng, root = single(name, folders[name]), random.Random(of), tmp_path / "out"
    order = parts(of) * 2
    rng.shuffle(order)
    for attempt, part in enumerate(order):
        shot = Shot(rng.randrange(alone.mutations), rng.choice(("before", "after")), str(tmp_path / f"fuse-{attempt}"))
        batch = rng.choice((None, None, rng.randrange(3)))
        do(alone.settings, ShootingDestination(str(root), shot), part, batch=batch)
    rng.shuffle(order)

    codes = [do(alone.settings, ShootingDestination(str(root)), part) for part in order]

    assert set(codes) <= set(DONE)
    assert not (root / "manifest.json").exists()
    assert publish(alone.settings, ShootingDestination(str(root))) == WITH_FAILURES
    assert tree(root) == alone.tree


@pytest.mark.parametrize("name", ["jsonl to litdata classic"])
def test_every_commit_point_of_a_slice_and_of_finalize_survives_a_kill(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    alone = single(name, folders[name])
    killed = {"slice": 0, "finalize": 0}

    for number in range(alone.mutations):
        root = tmp_path / str(number)
        place = ShootingDestination(str(root))
        shot = Shot(number, "after" if number % 2 else "before", str(tmp_path / f"fuse-{number}"))
        killed["slice"] += do(alone.settings, ShootingDestination(str(root), shot), "2/2") == SIGKILLED
        assert publish(alone.settings, place) in (2, UNFINISHED)  # 2: it died before there was a plan
        assert {do(alone.settings, place, part) for part in parts(2)} <= set(DONE)
        last = Shot(number, "before" if number % 2 else "after", str(tmp_path / f"last-{number}"))
        killed["finalize"] += publish(alone.settings, ShootingDestination(str(root), last)) == SIGKILLED
        assert publish(alone.settings, place) == WITH_FAILURES
        assert tree(root) == alone.tree

    assert killed["slice"] >= alone.mutations // 4
    assert killed["finalize"] >= 2


def started(settings: Settings, place: ShootingDestination, part: str, workers: int) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(do(settings, place, part, workers=workers) % 256)
    return pid


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("name", ["jsonl to three writers", "jsonl shuffled and deduped"])
def test_slices_at_the_same_time_of_which_one_is_killed_leave_no_trace(
    folders: dict[str, Path], tmp_path: Path, name: str, workers: int
) -> None:
    alone, root = single(name, folders[name]), tmp_path / "out"
    shot = Shot(3, "after", str(tmp_path / "fuse"))
    places = [ShootingDestination(str(root), shot if number == 1 else None) for number in range(3)]

    pids = [started(alone.settings, place, part, workers) for place, part in zip(places, parts(3), strict=True)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

    assert (tmp_path / "fuse").exists()
    assert codes[1] == SIGKILLED % 256
    assert {codes[0], codes[2]} <= set(DONE)
    place = ShootingDestination(str(root))
    assert publish(alone.settings, place) == UNFINISHED
    assert do(alone.settings, place, "2/3", workers=workers) in DONE
    assert publish(alone.settings, place) == WITH_FAILURES
    assert tree(root) == alone.tree


@pytest.mark.parametrize("of", [2, 3])
def test_slices_that_write_to_a_bucket_and_are_killed_leave_no_trace(
    seaweed: Seaweed, bucket: str, tmp_path: Path, of: int
) -> None:
    local = CASES["jsonl to litdata arrow"].settings(tmp_path, s3=seaweed.settings.model_dump(exclude_none=True))
    pipeline = local.pipeline.model_copy(update={"staging_dir": tmp_path / "staging"})
    settings = local.model_copy(update={"pipeline": pipeline})
    alone, place = Bucket(f"s3://{bucket}/alone"), Bucket(f"s3://{bucket}/sliced")
    run_pipeline(settings, workers=0, open_destination=alone)
    rng = random.Random(of)

    for attempt, part in enumerate(parts(of) * 2):
        shot = Shot(rng.randrange(14), rng.choice(("before", "after")), str(tmp_path / f"fuse-{attempt}"))
        do(settings, Bucket(place.uri, shot), part)
    assert {do(settings, place, part) for part in parts(of)} <= set(DONE)

    assert publish(settings, place) == WITH_FAILURES
    assert bucket_tree(place(settings)) == bucket_tree(alone(settings))
