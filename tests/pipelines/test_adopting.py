"""Shards that an attempt finished and could not commit are committed by the next one, where they are what it would make."""

from pathlib import Path

import msgspec
import pytest
from support.kill import ShootingDestination, Shot, run_in_child
from support.readers import read_json_samples
from support.retries import TIMES, mend, settings

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.events import Event, ShardFinished
from data_bridge.model.changes import Change
from data_bridge.model.plan import Partition
from data_bridge.model.shards import ChangeRecord
from data_bridge.storage import open_store
from data_bridge.utils.progress import Ledger, ProgressTracker

FIRST_UPLOAD = 4
"""Number of the mutation that writes the first shard: behind identity, plan, heartbeat and claim."""
CHANGED = 5
"""In the first of them."""


@pytest.fixture
def killed(tmp_path: Path) -> Settings:
    """A run of one partition that died with some finished shards of ten samples, and none committed."""
    mend(tmp_path)
    chosen = settings(tmp_path, tmp_path / "out", stages=TIMES, partition_bytes=1_000_000)
    shot = Shot(FIRST_UPLOAD, "before", str(tmp_path / "fuse"))
    run_in_child(chosen, ShootingDestination(str(tmp_path / "out"), shot), workers=0)
    assert list(tmp_path.glob("out/_bridge/*/staging/*/ready-*.json"))
    assert not list(tmp_path.glob("out/*.tar"))
    return chosen


def packed_again(chosen: Settings) -> list[str]:
    seen: list[Event] = []
    api.run_pipeline(chosen, observer=seen.append)
    return [event.key for event in seen if isinstance(event, ShardFinished)]


def test_they_are_not_packed_again(killed: Settings, tmp_path: Path) -> None:
    left = len(list(tmp_path.glob("out/_bridge/*/staging/*/ready-*.json")))

    assert packed_again(killed)[0] == f"{left:06d}.tar"


def test_they_are_packed_again_from_where_another_attempt_has_recorded_a_change(
    killed: Settings, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "out"), killed)
    elsewhere = ProgressTracker(Ledger(store, api.run_id(str(tmp_path / "out"))), Partition(index=0, pieces=()))
    elsewhere.claim(steal=True)
    change = Change(number=0, id="c", stage="times", key="arguments", value={"factor": 3})
    elsewhere.append(ChangeRecord(token=elsewhere.token, start=CHANGED, **msgspec.structs.asdict(change)))
    elsewhere.release()

    packed_again(killed)

    made = {row["id"]: row["number"] for row in read_json_samples(tmp_path / "out")}
    assert made == {n: n * (3 if n >= CHANGED else 1) for n in made}
