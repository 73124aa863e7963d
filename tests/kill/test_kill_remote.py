"""Kills of runs that write to a real S3 server: a rerun ends with the objects of an undisturbed run."""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from support.corpus import write_jsonl
from support.kill import Shot, run_in_child
from support.kill_remote import Bucket, KnownStore, bucket_tree
from support.seaweed import Seaweed

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.events import Event, ShardCommitted, ShardFinished, ShardUploaded

SIGKILLED = -9
WITH_FAILURES = 3
PARTS = 3
FIRST_UPLOAD = 4
"""Number of the mutation that sends the first shard: behind identity, plan, heartbeat and claim."""


@dataclass(frozen=True)
class Undisturbed:
    settings: Settings
    bucket: str
    tree: dict[str, bytes]
    mutations: int

    def place(self, folder: Path) -> Bucket:
        """A fresh place in the bucket, named after the test's own folder."""
        return Bucket(f"s3://{self.bucket}/{folder.name}")

    def staged_shards(self) -> set[Path]:
        """Shards that wait for their upload, of all runs here."""
        assert self.settings.pipeline.staging_dir is not None
        return set(self.settings.pipeline.staging_dir.rglob("*.tar"))


def count_mutations(settings: Settings, place: Bucket) -> int:
    """Run undisturbed, in this process; returns how often the store was changed."""
    stores: list[KnownStore] = []

    def opener(settings: Settings) -> KnownStore:
        stores.append(place(settings))
        return stores[-1]

    run_pipeline(settings, workers=0, open_destination=opener)
    return max(s.count for s in stores)


@pytest.fixture(scope="module")
def undisturbed(seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder, bucket = tmp_path_factory.mktemp("undisturbed"), seaweed.new_bucket()
    write_jsonl(folder / "source.jsonl", 100, bad_every=17)
    pipeline = {
        "input_uri": str(folder / "source.jsonl"),
        "samples_per_shard": 30,
        "partition_bytes": 9_000,
        "on_error": "quarantine",
        "staging_dir": folder / "staging",
    }
    settings = Settings.model_validate({"pipeline": pipeline, "s3": seaweed.settings.model_dump(exclude_none=True)})
    place = Bucket(f"s3://{bucket}/undisturbed")
    mutations = count_mutations(settings, place)
    return Undisturbed(settings, bucket, bucket_tree(place(settings)), mutations)


def finish(run: Undisturbed, tmp_path: Path, workers: int = 0) -> None:
    """One rerun must do."""
    settings, place = run.settings, run.place(tmp_path)
    assert run_in_child(settings, place, workers=workers) == WITH_FAILURES
    assert bucket_tree(place(settings)) == run.tree


@pytest.mark.parametrize("part", range(PARTS))
def test_every_commit_point_survives_a_kill(undisturbed: Undisturbed, tmp_path: Path, part: int) -> None:
    for number in range(part, undisturbed.mutations, PARTS):
        folder = tmp_path / f"part-{part}-{number}"
        folder.mkdir()
        shot = Shot(number, "after" if number % 2 else "before", str(folder / "fuse"))
        place = replace(undisturbed.place(folder), shot=shot)

        assert run_in_child(undisturbed.settings, place, workers=0) == SIGKILLED
        finish(undisturbed, folder)


@pytest.mark.parametrize("seed", range(5))
def test_kills_in_the_middle_of_an_upload_leave_no_trace(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    """Two in a row, each some milliseconds into an upload."""
    rng = random.Random(seed)
    settings, place = undisturbed.settings, undisturbed.place(tmp_path)
    for attempt in range(2):
        shot = Shot(rng.randrange(2), "before", str(tmp_path / f"fuse-{attempt}"))
        armed = replace(place, shot=shot, in_upload_s=rng.random() * 0.03)
        assert run_in_child(settings, armed, workers=0) == SIGKILLED

    finish(undisturbed, tmp_path)


def test_a_kill_between_the_parts_of_a_large_upload_leaves_no_trace(
    undisturbed: Undisturbed, seaweed: Seaweed, tmp_path: Path
) -> None:
    rng = random.Random(0)
    (tmp_path / "files").mkdir()
    for number in range(4):
        (tmp_path / "files" / f"{number}.bin").write_bytes(rng.randbytes(9 << 20))
    pipeline = {"input_uri": str(tmp_path / "files"), "samples_per_shard": 2, "staging_dir": tmp_path / "staging"}
    settings = Settings.model_validate({"pipeline": pipeline, "s3": seaweed.settings.model_dump(exclude_none=True)})
    still = Bucket(f"s3://{undisturbed.bucket}/large")
    count_mutations(settings, still)
    expected = bucket_tree(still(settings))
    place = Bucket(f"s3://{undisturbed.bucket}/large-killed")

    for attempt, number in enumerate((0, 1)):
        shot = Shot(number, "before", str(tmp_path / f"fuse-{attempt}"))
        assert run_in_child(settings, replace(place, shot=shot, in_upload_s=0.05), workers=0) == SIGKILLED
    assert run_in_child(settings, place, workers=0) == 0

    assert bucket_tree(place(settings)) == expected


@pytest.mark.parametrize(("group", "number"), [(True, 1), (False, 2)], ids=["whole run", "one slot"])
def test_a_kill_among_two_workers_leaves_no_trace(
    undisturbed: Undisturbed, tmp_path: Path, group: bool, number: int
) -> None:
    settings, place = undisturbed.settings, undisturbed.place(tmp_path)
    shot = Shot(number, "after", str(tmp_path / "fuse"), group=group, in_slot=True)

    code = run_in_child(settings, replace(place, shot=shot), workers=2)

    assert code == (SIGKILLED if group else WITH_FAILURES)
    assert (tmp_path / "fuse").exists()
    finish(undisturbed, tmp_path, workers=2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_finished_shard_is_sent_by_the_next_run_without_being_packed_again(
    undisturbed: Undisturbed, tmp_path: Path, when: Literal["before", "after"]
) -> None:
    """The first upload is the first thing that happens to a shard once it is whole here."""
    settings, place = undisturbed.settings, undisturbed.place(tmp_path)
    before = undisturbed.staged_shards()
    shot = Shot(FIRST_UPLOAD, when, str(tmp_path / "fuse"))
    assert run_in_child(settings, replace(place, shot=shot), workers=0) == SIGKILLED
    leftover = min(undisturbed.staged_shards() - before).name
    heard: list[Event] = []

    run_pipeline(settings, workers=0, open_destination=place, observer=heard.append)

    assert leftover in {e.key for e in heard if isinstance(e, ShardUploaded)}
    assert leftover in {e.key for e in heard if isinstance(e, ShardCommitted)}
    packed = {e.key for e in heard if isinstance(e, ShardFinished)}
    assert leftover not in packed
    assert packed  # the others were
    assert bucket_tree(place(settings)) == undisturbed.tree


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5, 200))
def test_many_kills_in_the_middle_of_uploads_leave_no_trace(
    undisturbed: Undisturbed, tmp_path: Path, seed: int
) -> None:
    test_kills_in_the_middle_of_an_upload_leave_no_trace(undisturbed, tmp_path, seed)
