"""A run in slices and one `finalize`, from Python and from the command line."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.console import data_bridge as at_console
from support.corpus import write_jsonl
from support.gates import Gate, GatedDestination, RacyDestination
from support.kill import ShootingDestination, run_in_child, tree

import data_bridge as package
from data_bridge import api
from data_bridge.config import Settings, run_folder, socket_folders
from data_bridge.errors import BusyError, ConfigError, ConflictError, DataError, RetryableError
from data_bridge.events import Event, Notice, PartitionDone, RunPlanned
from data_bridge.runtime.control import RunControl

TEMPORARY = 75
SAMPLES = 200
PARTITIONS = 6


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_jsonl(tmp_path / "source.jsonl", SAMPLES)
    pipeline = {
        "input_uri": str(tmp_path / "source.jsonl"),
        "output_uri": str(tmp_path / "out"),
        "samples_per_shard": 30,
        "partition_bytes": 9_000,
        "workers": 0,
    }
    return Settings.model_validate({"pipeline": pipeline})


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json(by_alias=True, exclude_none=True))
    return path


@pytest.fixture
def expected(settings: Settings, tmp_path: Path) -> dict[str, bytes]:
    api.run_pipeline(settings, open_destination=ShootingDestination(str(tmp_path / "single")))
    return tree(tmp_path / "single")


def data_bridge(*words: str) -> "subprocess.CompletedProcess[str]":
    return at_console(*words, cwd=Path.cwd())


def changed(settings: Settings, **values: object) -> Settings:
    pipeline = {**settings.pipeline.model_dump(exclude_unset=True), **values}
    return Settings.model_validate({"pipeline": pipeline})


def test_a_slice_does_its_partitions_alone_and_publishes_nothing(settings: Settings, tmp_path: Path) -> None:
    heard: list[Event] = []

    report = api.run_pipeline(settings, slice="2/3", observer=heard.append)

    done = {e.partition for e in heard if isinstance(e, PartitionDone)}
    assert 0 < len(done) < PARTITIONS
    assert [e.partitions for e in heard if isinstance(e, RunPlanned)] == [len(done)]
    assert (report.status, report.exit_code, report.manifest, report.slice) == ("complete", 0, None, "2/3")
    assert 0 < report.samples < SAMPLES
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "shards.txt").exists()
    again: list[Event] = []
    assert api.run_pipeline(settings, slice="2/3", observer=again.append).resumed
    assert not [e for e in again if isinstance(e, PartitionDone)]


def test_any_slices_that_cover_the_plan_make_the_tree_of_a_single_run(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    for part in ("3/3", "1/2", "2/2", "7/9"):
        api.run_pipeline(settings, slice=part)

    report = package.finalize(settings)

    assert (report.status, report.samples, report.manifest) == (
        "complete",
        SAMPLES,
        f"file://{tmp_path}/out/manifest.json",
    )
    assert tree(tmp_path / "out") == expected


def test_finalize_again_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    api.run_pipeline(settings, slice="1/1")
    api.finalize(settings)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out").rglob("*") if p.is_file()}

    assert api.finalize(settings).status == "complete"

    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_finalize_names_slices_ranges_and_commands_that_are_missing(config: Path, tmp_path: Path) -> None:
    assert package.run_from_file(config, slice="2/3").slice == "2/3"

    refused = data_bridge("finalize", str(config), "--prefix", "a b")
    missing = data_bridge("finalize", str(config))

    assert refused.returncode == 2
    assert missing.returncode == TEMPORARY
    assert re.search(r"\d of 6 partitions are not finished: [\d, -]+\n", missing.stderr)
    commands = re.findall(r"(?m)^data-bridge (run .*? --slice \d/3)  \(", missing.stderr.replace("hint: ", "\n"))
    assert [c.rpartition(" ")[2] for c in commands] == ["1/3", "3/3"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    for command in commands:
        assert data_bridge(*command.split()).returncode == 0
    done = data_bridge("finalize", str(config), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == SAMPLES


def test_a_run_without_slices_does_what_slices_have_left(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    api.run_pipeline(settings, slice="1/2")

    assert api.run_pipeline(settings).manifest

    assert tree(tmp_path / "out") == expected


def test_status_tells_how_each_slice_stands(config: Path) -> None:
    data_bridge("run", str(config), "--slice", "1/2")

    told = data_bridge("status", str(config)).stdout

    assert re.search(r"(?m)^slice 1/2 +3 of 3 partitions done, 0 claimed, \d+ samples", told)
    assert re.search(r"(?m)^slice 2/2 +0 of 3 partitions done", told)


def test_a_slice_cannot_start_over(config: Path, settings: Settings, tmp_path: Path) -> None:
    api.run_pipeline(settings, slice="1/2")
    before = tree(tmp_path / "out")

    refused = data_bridge("run", str(config), "--slice", "2/2", "--fresh", "--yes")

    assert refused.returncode == 2
    assert "delete what the other slices made" in refused.stderr
    assert tree(tmp_path / "out") == before


def test_finalize_refuses_another_config_and_a_place_without_a_run(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        api.finalize(settings)
    api.run_pipeline(settings, slice="1/1")

    with pytest.raises(ConflictError, match="samples_per_shard"):
        api.finalize(changed(settings, samples_per_shard=31))


def test_too_many_failures_of_all_slices_together_are_refused(settings: Settings, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.jsonl", SAMPLES, bad_every=20)
    tolerant = changed(settings, on_error="skip")
    for part in ("1/2", "2/2"):
        assert api.run_pipeline(tolerant, slice=part).exit_code == 3

    with pytest.raises(DataError, match=r"more than pipeline\.max_failures = 3"):
        api.finalize(changed(tolerant, max_failures=3))
    assert api.finalize(tolerant).exit_code == 3


def test_dedupe_over_slices_drops_what_one_run_drops(settings: Settings, tmp_path: Path) -> None:
    lines = (tmp_path / "source.jsonl").read_text().splitlines()
    (tmp_path / "source.jsonl").write_text("\n".join(lines + lines[::3]) + "\n")
    deduped = changed(settings, stages=[{"dedupe": {}}])
    api.run_pipeline(deduped, open_destination=ShootingDestination(str(tmp_path / "single")))
    heard: list[Event] = []

    for part in ("1/3", "2/3", "3/3"):
        api.run_pipeline(deduped, slice=part, observer=heard.append)
    api.finalize(deduped)

    assert tree(tmp_path / "out") == tree(tmp_path / "single")
    looked = [int(m[1]) for e in heard if isinstance(e, Notice) and (m := re.search(r"looks at (\d+) of", e.message))]
    # the first slice helps with those of the others, and nobody looks twice
    assert sum(looked) == len(list((tmp_path / "out/_bridge").glob("*/survey/dedupe/*.digests")))


@pytest.fixture
def working(settings: Settings, tmp_path: Path) -> Iterator[tuple[Gate, int]]:
    """A process in the middle of slice 1/2."""
    gate = Gate.at(tmp_path, "put_file", ".tar")
    destination = GatedDestination(str(tmp_path / "out"), gate=gate)
    pid = os.fork()
    if pid == 0:
        os._exit(run_in_child(settings, destination, workers=0, run=partial(api.run_pipeline, slice="1/2")) % 256)
    yield gate, gate.wait_until_reached()
    gate.open()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_same_slice_twice_at_once_is_refused_and_the_other_one_works(
    settings: Settings, config: Path, working: tuple[Gate, int]
) -> None:
    _, pid = working

    twice = data_bridge("run", str(config), "--slice", "1/2")
    other = data_bridge("run", str(config), "--slice", "2/2")
    overlapping = data_bridge("run", str(config), "--slice", "1/1")

    assert (twice.returncode, other.returncode, overlapping.returncode) == (TEMPORARY, 0, TEMPORARY)
    assert f"process {pid}" in twice.stderr
    with pytest.raises(RetryableError, match=r"of them begun"):
        api.finalize(settings)


def test_commands_reach_the_slice_that_is_named(settings: Settings, config: Path, working: tuple[Gate, int]) -> None:
    run = api.run_id(str(settings.pipeline.output_uri))

    told = data_bridge("ctl", str(config), "pause", "--slice", "1/2")
    nobody = data_bridge("ctl", str(config), "pause", "--slice", "2/2")
    whole = data_bridge("ctl", str(config), "pause")

    assert (told.returncode, nobody.returncode, whole.returncode) == (0, 2, 2)
    assert data_bridge("ctl", f"{run}-1of2", "resume").returncode == 0
    assert RunControl(f"{run}-1of2", socket_folders()).describe()["engine"]["state"] == "running"
    assert (run_folder(f"{run}-1of2") / "graph.json").is_file()


def test_where_the_store_cannot_tell_writers_apart_slices_work_one_after_the_other(
    settings: Settings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    racy = RacyDestination(str(tmp_path / "out"))

    def second(_event: Event) -> None:
        if isinstance(_event, PartitionDone):
            with pytest.raises(BusyError):
                api.run_pipeline(settings, slice="2/2", open_destination=racy)

    api.run_pipeline(settings, slice="1/2", open_destination=racy, observer=second)
    api.run_pipeline(settings, slice="2/2", open_destination=racy)
    api.finalize(settings, open_destination=racy)

    assert tree(tmp_path / "out") == expected
