"""Cores without a partition of their own are used by the partitions there are."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.engine_works import wait_for

from data_bridge.engine import processes
from data_bridge.engine.base import Outcome, SlotControl, Work
from data_bridge.engine.processes import ProcessEngine
from data_bridge.events import ignore


@dataclass(frozen=True)
class TellsCores:
    """Writes down how many cores it has once so many are at work; partition 0 goes on until it has `until`. Slot 0 is ready
    only behind `behind` others."""

    folder: Path
    until: int = 0
    together: int = 1
    behind: int = 0

    def here(self) -> int:
        return len(list(self.folder.glob("here-*")))

    def __call__(self) -> Work:
        if multiprocessing.current_process().name == "data-bridge-slot-0":
            wait_for(lambda: self.here() >= self.behind, "the other slots")

        def work(partition: int, control: SlotControl) -> Outcome:
            (self.folder / f"here-{partition}").touch()
            wait_for(lambda: self.here() >= self.together, "the others")
            (self.folder / f"p{partition}-{control.cores}").touch()
            if partition == 0:
                wait_for(lambda: control.cores >= self.until, "more cores")
                (self.folder / f"p{partition}-ends-{control.cores}-{os.getpid()}").touch()
            return Outcome(partition, "done")

        return work


def test_one_partition_gets_all_cores(tmp_path: Path) -> None:
    ProcessEngine(5).run(TellsCores(tmp_path), [0], ignore)

    assert (tmp_path / "p0-5").exists()


def test_all_cores_are_given_and_no_more_whoever_starts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SPARE_S", 600.0)

    ProcessEngine(5).run(TellsCores(tmp_path, together=3, behind=2), [0, 1, 2], ignore)

    given = [int(path.name.split("-")[1]) for path in tmp_path.glob("p?-?")]
    assert len(given) == 3
    assert sorted(given) == [1, 2, 2]


def test_with_as_many_partitions_as_slots_each_has_one_core(tmp_path: Path) -> None:
    ProcessEngine(2).run(TellsCores(tmp_path), list(range(1, 6)), ignore)

    assert {path.name.split("-")[1] for path in tmp_path.glob("p?-?")} <= {"1", "2"}
    assert (tmp_path / "p1-1").exists()
    assert (tmp_path / "p2-1").exists()


def test_the_last_partition_gets_the_cores_of_those_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SPARE_S", 0.1)

    report = ProcessEngine(3).run(TellsCores(tmp_path, until=3), [0, 1, 2], ignore)

    assert report.outcomes[0].kind == "done"
    assert list(tmp_path.glob("p0-ends-3-*"))
