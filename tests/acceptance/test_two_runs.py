"""Two runs on one destination, one that comes back from the dead, and destinations that are poor or full."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.corpus import write_jsonl
from support.gates import FullDestination, Gate, GatedDestination, Operation, RacyDestination
from support.kill import ShootingDestination, Shot, run_in_child, tree
from support.readers import read_json_samples

from data_bridge.api import run_pipeline, status, verify
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, BusyError, DiskFullError

TEMPORARY = 75
SAMPLES = 200


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_jsonl(tmp_path / "source.jsonl", SAMPLES)
    pipeline = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 30,
        "partition_bytes": 9_000,
    }
    return Settings.model_validate({"pipeline": pipeline})


@pytest.fixture
def expected(settings: Settings, tmp_path: Path) -> dict[str, bytes]:
    """The tree of a run that was alone."""
    run_pipeline(settings, workers=0, open_destination=ShootingDestination(str(tmp_path / "alone")))
    return tree(tmp_path / "alone")


def started(settings: Settings, destination: GatedDestination) -> int:
    """A run in a process of its own; returns its PID."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = run_pipeline(settings, workers=0, open_destination=destination).exit_code
        except BridgeError as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = error.exit_code
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    _, how = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(how)


def command(settings: Settings, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    config = folder / "config.json"
    config.write_text(settings.model_dump_json(by_alias=True, exclude_none=True))
    return subprocess.run(
        [sys.executable, "-m", "data_bridge", "run", str(config), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_second_run_is_told_which_process_is_at_work_and_changes_nothing(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path, workers: str
) -> None:
    gate = Gate.at(tmp_path, "put_file", "00001-000000.tar")
    first = started(settings, GatedDestination(str(tmp_path / "out"), gate=gate))
    assert gate.wait_until_reached() == first

    second = command(settings, tmp_path, "--workers", workers)

    gate.open()
    assert ended(first) == 0
    assert second.returncode == TEMPORARY, second.stderr
    assert re.search(rf"\b{first}\b", second.stderr)
    assert tree(tmp_path / "out") == expected
    assert verify(str(tmp_path / "out"), deep=True).problems == ()


def test_a_run_that_finds_what_another_began_meanwhile_joins_it(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    gate = Gate.at(tmp_path, "list", "")
    first = started(settings, GatedDestination(str(tmp_path / "out"), gate=gate))
    gate.wait_until_reached()

    assert run_pipeline(settings, workers=0).status == "complete"

    gate.open()
    assert ended(first) == 0
    assert tree(tmp_path / "out") == expected


def test_a_source_that_has_grown_is_not_planned_under_a_run_that_was_started_over_meanwhile(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_jsonl(source / "0.jsonl", SAMPLES)
    pipeline = {"input_uri": str(source), "output_uri": str(tmp_path / "out"), "samples_per_shard": 30}
    settings = Settings.model_validate({"pipeline": pipeline})
    run_pipeline(settings, workers=0)
    write_jsonl(source / "1.jsonl", SAMPLES)
    run_pipeline(settings, workers=0, open_destination=ShootingDestination(str(tmp_path / "alone")))

    gate = Gate.at(tmp_path, "probe", "")
    grows = started(settings, GatedDestination(str(tmp_path / "out"), gate=gate))
    gate.wait_until_reached()
    assert run_pipeline(settings, workers=0, fresh=True).status == "complete"
    gate.open()

    assert ended(grows) == TEMPORARY
    assert run_pipeline(settings, workers=0).status == "complete"
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


@pytest.mark.parametrize(
    ("mutation", "part_of_key"),
    [
        ("put_file", "00001-000000.tar"),
        ("put_if_absent", "p00001/000000"),
        ("put_if_absent", "p00001/000001"),
        ("put_bytes", "shards.txt"),
        ("put_bytes", "manifest.json"),
    ],
)
def test_a_run_that_was_given_up_and_wakes_again_does_no_harm(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path, mutation: Operation, part_of_key: str
) -> None:
    gate = Gate.at(tmp_path, mutation, part_of_key)
    zombie = started(settings, GatedDestination(str(tmp_path / "out"), gate=gate))
    gate.wait_until_reached()
    os.kill(zombie, signal.SIGSTOP)

    report = run_pipeline(settings, workers=0, steal=True)
    published = (tmp_path / "out" / "manifest.json").read_bytes()

    assert report.status == "complete"
    assert tree(tmp_path / "out") == expected
    os.kill(zombie, signal.SIGCONT)
    gate.open()
    at_the_end = mutation == "put_bytes"
    # by now there is nothing left to do: that is no failure
    assert ended(zombie) == 0
    assert tree(tmp_path / "out") == expected
    assert verify(str(tmp_path / "out"), deep=True).problems == ()
    assert at_the_end or (tmp_path / "out" / "manifest.json").read_bytes() == published
    assert run_pipeline(settings, workers=0).status == "complete"


def test_without_steal_a_sleeping_run_is_not_taken_over(settings: Settings, tmp_path: Path) -> None:
    gate = Gate.at(tmp_path, "put_file", "00001-000000.tar")
    sleeper = started(settings, GatedDestination(str(tmp_path / "out"), gate=gate))
    gate.wait_until_reached()
    os.kill(sleeper, signal.SIGSTOP)

    with pytest.raises(BusyError, match=rf"\b{sleeper}\b"):
        run_pipeline(settings, workers=0)

    os.kill(sleeper, signal.SIGCONT)
    gate.open()
    assert ended(sleeper) == 0


def test_a_destination_without_conditional_writes_serves_one_run_at_a_time(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    destination = RacyDestination(str(tmp_path / "out"), Shot(9, "after", str(tmp_path / "fuse")))
    assert run_in_child(settings, destination, workers=0) == -signal.SIGKILL

    assert run_in_child(settings, destination, workers=2) == 0
    assert tree(tmp_path / "out") == expected


def test_a_full_destination_ends_the_run_for_now_and_what_is_done_stays_done(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(DiskFullError) as caught:
        run_pipeline(settings, workers=0, open_destination=FullDestination(str(tmp_path / "out"), room=4))
    kept = status(str(tmp_path / "out"))

    assert caught.value.exit_code == TEMPORARY
    assert kept.shards == 4
    assert run_pipeline(settings, workers=0).resumed
    assert tree(tmp_path / "out") == expected


def test_a_disk_that_fills_up_ends_the_run_for_now(settings: Settings, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        rows = write_jsonl(tmp_path / "source.jsonl", 2 * SAMPLES)
        pipeline = settings.pipeline.model_copy(update={"output_uri": str(disk / "out")})
        small = settings.model_copy(update={"pipeline": pipeline})

        full = command(small, tmp_path, "--workers", "0")
        done = len(list((disk / "out").glob("*.tar")))

        assert full.returncode == TEMPORARY, full.stderr
        assert "space" in full.stderr
        assert done > 0
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = command(small, tmp_path, "--workers", "0", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["resumed"]
        assert read_json_samples(disk / "out") == rows
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
