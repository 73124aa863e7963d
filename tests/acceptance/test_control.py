"""Runs that are told things while they work: over the real socket, and with the bytes that were to be expected."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.engine_works import wait_for
from support.kill import ShootingDestination, Shot, tree
from support.readers import read_json_samples
from support.terminals import Terminal

from data_bridge import api
from data_bridge.config import Settings, socket_folders
from data_bridge.errors import ConfigError
from data_bridge.events import ChangeApplied, Event, Notice, RunPlanned, SamplesPacked
from data_bridge.model.report import RunReport
from data_bridge.runtime.control import RunControl, socket_paths

ROWS = 2000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Packets of a hundred rows, in a few partitions."""
    table = pa.table({"id": range(ROWS), "text": [f"text {i}" for i in range(ROWS)]})
    pq.write_table(table, tmp_path / "source.parquet", row_group_size=100)
    return tmp_path


def settings(source: Path, *stages: dict[str, Any], **pipeline: Any) -> Settings:
    values = {
        "input_uri": str(source / "source.parquet"),
        "output_uri": str(source / "out"),
        "samples_per_shard": 50,
        "partition_bytes": 10_000,
        "stages": list(stages),
        **pipeline,
    }
    return Settings.model_validate({"pipeline": values})


TIMES = {"map": {"call": "support.live_calls:times"}, "name": "times"}


def gated(source: Path) -> dict[str, Any]:
    """A stage that waits in the middle of the source until `opened`."""
    return {"map": {"call": "support.live_calls:times", "arguments": {"gate": str(source / "gate")}}, "name": "times"}


def undisturbed(made: Settings, folder: Path) -> dict[str, bytes]:
    (folder / "gate").touch()
    api.run_pipeline(made, workers=0, open_destination=ShootingDestination(str(folder / "alone")))
    (folder / "gate").unlink()
    return tree(folder / "alone")


def numbers(out: Path) -> dict[int, int]:
    return {row["id"]: row["number"] for row in read_json_samples(out)}


def times(factors: dict[int, int]) -> dict[int, int]:
    return {i: i * factor for i, factor in factors.items()}


def changes(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())["provenance"]["live_changes"]
    return found


def factors(out: Path) -> dict[int, int]:
    """By which factor each sample should be multiplied, as the manifest tells."""
    manifest = json.loads((out / "manifest.json").read_text())
    partition = {
        i: shard["partition"]
        for shard in manifest["shards"]
        for i in range(shard["source"]["start"], shard["source"]["end"])
    }
    told = manifest["provenance"]["live_changes"]

    def factor(i: int) -> int:
        found = [c["value"]["factor"] for c in told if c["partition"] == partition[i] and c["from"] <= i]
        return int(found[-1]) if found else 1

    return {i: factor(i) for i in range(ROWS)}


def is_silent(out: Path) -> bool:
    with pytest.raises(ConfigError, match="does not listen on this machine"):
        api.control(str(out)).describe()
    return not any(thread.name == "control" for thread in threading.enumerate())


def later(act: Callable[[], object]) -> Callable[[RunControl], object]:
    """From a thread of its own: the driver is in the middle of telling us something."""

    def does(_: RunControl) -> object:
        threading.Thread(target=act).start()
        return None

    return does


@pytest.mark.parametrize("workers", [0, 2])
def test_a_paused_run_reads_on_when_resumed_and_ends_with_the_same_bytes(source: Path, workers: int) -> None:
    made = settings(source, gated(source))
    expected = undisturbed(made, source)
    out = source / "out"

    def seen(control: RunControl) -> object:
        (source / "gate").touch()
        state = control.describe("engine")["engine"]["state"]
        control.resume()
        return state

    terminal = Terminal(
        out,
        {
            1: lambda control: control.pause(),
            "paused": seen,
        },
    )
    if workers == 0:
        (source / "gate").touch()

    report = api.run_pipeline(made, observer=terminal, workers=workers)

    assert report.status == "complete"
    assert terminal.said[1] == "paused"
    assert [e.message.partition(":")[0] for e in terminal.events if isinstance(e, Notice)] == ["paused", "resumed"]
    assert tree(out) == expected
    assert is_silent(out)


def test_nothing_is_read_while_a_run_is_paused(source: Path) -> None:
    made = settings(source, TIMES)
    terminal = Terminal(source / "out", {3: lambda c: c.pause(), "paused": lambda c: c.resume()})

    api.run_pipeline(made, observer=terminal, workers=0)

    paused, resumed = (i for i, event in enumerate(terminal.events) if isinstance(event, Notice))
    assert not [e for e in terminal.events[paused:resumed] if isinstance(e, SamplesPacked)]
    assert terminal.packets >= 20


@pytest.mark.parametrize("command", ["stop", "drain"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_paused_and_told_to_end_is_finished_by_the_next(source: Path, workers: int, command: str) -> None:
    made = settings(source, gated(source))
    expected = undisturbed(made, source)
    out = source / "out"

    def end(control: RunControl) -> object:
        (source / "gate").touch()
        return control.ask(command)

    terminal = Terminal(out, {1: lambda c: c.pause(), "paused": end})
    if workers == 0:
        (source / "gate").touch()

    report = api.run_pipeline(made, observer=terminal, workers=workers)

    assert (report.status, report.exit_code) == ("interrupted", 130)
    assert is_silent(out)
    assert api.run_pipeline(made, workers=0).status == "complete"
    assert tree(out) == expected


def test_draining_commits_what_was_read(source: Path) -> None:
    terminal = Terminal(source / "out", {7: lambda c: c.drain()})

    report = api.run_pipeline(settings(source, TIMES), observer=terminal, workers=0)

    assert report.status == "interrupted"
    assert 600 <= report.samples <= 700


def started(made: Settings, workers: int) -> int:
    """A run in a process group of its own; returns its PID."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            code = api.run_pipeline(made, workers=workers).exit_code
        finally:
            os._exit(code)
    return pid


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_while_paused_goes_on_with_the_same_bytes(source: Path, workers: int) -> None:
    made = settings(source, gated(source))
    expected = undisturbed(made, source)
    out = source / "out"
    pid = started(made, workers)

    def listens() -> bool:
        try:
            return bool(api.control(str(out)).pause())
        except ConfigError:
            return False

    wait_for(listens, "the run to listen")
    state = api.control(str(out)).describe("engine")["engine"]["state"]
    left = [path for path in socket_paths(socket_folders(), api.control(str(out)).run) if path.exists()]
    os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)

    assert state == "paused"
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert len(left) == 1
    (source / "gate").touch()
    assert api.run_pipeline(made, workers=workers).status == "complete"
    assert tree(out) == expected
    assert is_silent(out)
    assert not left[0].exists()


def test_a_change_is_in_force_from_the_sample_that_the_manifest_names(source: Path) -> None:
    out = source / "out"
    terminal = Terminal(out, {4: lambda c: c.set("times", "arguments", {"factor": 3})})

    report = api.run_pipeline(settings(source, TIMES), observer=terminal, workers=0)

    first, *others = changes(out)
    assert report.status == "complete"
    assert first == {"partition": 0, "from": 400, "stage": "times", "key": "arguments", "value": {"factor": 3}}
    assert len(others) >= 1
    assert numbers(out) == {i: i * (3 if i >= 400 else 1) for i in range(ROWS)} == times(factors(out))
    assert [e.index for e in terminal.events if isinstance(e, ChangeApplied)] == [c["from"] for c in changes(out)]
    assert api.verify(str(out), deep=True).problems == ()


def test_a_change_is_used_by_slots_in_work(source: Path) -> None:
    out = source / "out"

    def change(control: RunControl) -> None:
        control.set("times", "arguments", {"factor": 3})

    terminal = Terminal(
        out,
        {1: change, "stage times": later((source / "gate").touch)},
    )

    api.run_pipeline(settings(source, gated(source)), observer=terminal, workers=2)

    assert numbers(out) == times(factors(out))
    assert numbers(out)[ROWS - 1] == 3 * (ROWS - 1)


def test_a_bad_value_is_refused_and_the_run_goes_on_as_if_nothing_had_been_said(source: Path) -> None:
    made = settings(source, TIMES)
    expected = undisturbed(made, source)
    out = source / "out"

    def refused(control: RunControl) -> str:
        with pytest.raises(ConfigError) as raised:
            control.set("times", "arguments", 7)
        return raised.value.message

    terminal = Terminal(out, {4: refused})

    report = api.run_pipeline(made, observer=terminal, workers=0)

    assert terminal.said == ["times: arguments: Input should be an object"]
    assert report.status == "complete"
    assert tree(out) == expected


def test_a_stage_is_bypassed_and_enabled_again(source: Path) -> None:
    out = source / "out"
    only = {"filter": {"call": "support.live_calls:even"}}
    terminal = Terminal(out, {4: lambda c: c.bypass("filter"), 6: lambda c: c.enable("filter")})

    api.run_pipeline(settings(source, only), observer=terminal, workers=0)

    kept = sorted(row["id"] for row in read_json_samples(out))
    assert kept == [i for i in range(ROWS) if i % 2 == 0 or 400 <= i < 600]


def test_several_changes_between_two_packets_are_one_cut(source: Path) -> None:
    out = source / "out"

    def change(control: RunControl) -> None:
        control.set("times", "arguments", {"factor": 3})
        control.set("times", "arguments", {"factor": 5})

    api.run_pipeline(settings(source, TIMES), observer=Terminal(out, {4: change}), workers=0)

    assert numbers(out) == {i: i * (5 if i >= 400 else 1) for i in range(ROWS)}
    assert [c["value"]["factor"] for c in changes(out) if c["partition"] == 0] == [3, 5]
    assert numbers(out) == times(factors(out))


def test_a_change_made_while_paused_is_kept_when_the_run_is_killed_before_it_goes_on(source: Path) -> None:
    made = settings(source, gated(source))
    out = source / "out"
    pid = started(made, 0)
    control: list[RunControl] = []

    def listens() -> bool:
        try:
            control[:] = [api.control(str(out))]
            return bool(control[0].pause())
        except ConfigError:
            return False

    wait_for(listens, "the run to listen")
    (source / "gate").touch()
    control[0].set("times", "arguments", {"factor": 3})
    ledger = out / "_bridge" / control[0].run / "ledger"
    wait_for(
        lambda: any('"kind":"change"' in p.read_text() for p in ledger.rglob("*.json")), "the change to be recorded"
    )
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    heard: list[Event] = []

    api.run_pipeline(made, workers=0, observer=heard.append)

    first = changes(out)[0]["from"]
    assert numbers(out) == times(factors(out)) == {i: i * (3 if i >= first else 1) for i in range(ROWS)}
    assert [e.message for e in heard if isinstance(e, Notice)] == [
        "changes made while it ran before stay in force: times.arguments"
    ]


@pytest.mark.parametrize("shot", range(12, 60, 6))
def test_a_rerun_replays_the_changes_of_a_run_that_was_killed(source: Path, tmp_path: Path, shot: int) -> None:
    made = settings(source, TIMES)
    out = source / "out"
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            terminal = Terminal(
                out,
                {
                    2: lambda c: c.set("times", "arguments", {"factor": 3}),
                    4: lambda c: c.set("times", "arguments", {"factor": 5}),
                },
            )
            gun = ShootingDestination(str(out), Shot(shot, "after", str(tmp_path / "fuse")))
            api.run_pipeline(made, observer=terminal, workers=0, open_destination=gun)
        finally:
            os._exit(99)
    os.waitpid(pid, 0)
    assert (tmp_path / "fuse").exists()

    report: RunReport = api.run_pipeline(made, workers=0)

    assert report.status == "complete"
    assert numbers(out) == times(factors(out))
    assert changes(out)[0]["from"] == 200


SHUFFLED = (
    {"shuffle": {"window": 128, "seed": 7}},
    TIMES,
    {"split": {"by": "field", "field": "half"}, "outputs": [{"name": "a"}, {"name": "b"}]},
)


@pytest.fixture(scope="module")
def changed_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A source, and what becomes of it when two changes are made on the way and nothing dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    table = pa.table({"id": range(ROWS), "half": ["ab"[i % 3 == 0] for i in range(ROWS)]})
    pq.write_table(table, folder / "source.parquet", row_group_size=100)
    made = settings(folder, *SHUFFLED)
    api.run_pipeline(made, observer=Terminal(folder / "out", dict(TWO_CHANGES)), workers=0)
    return folder, tree(folder / "out")


TWO_CHANGES: dict[int | str, Callable[[RunControl], object]] = {
    2: lambda c: c.set("times", "arguments", {"factor": 3}),
    4: lambda c: c.set("times", "arguments", {"factor": 5}),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shot", [30, 41, 52, 63])
def test_shuffled_and_split_samples_have_the_same_bytes_over_changes_and_kills(
    changed_undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path, shot: int, workers: int
) -> None:
    folder, expected = changed_undisturbed
    made = settings(folder, *SHUFFLED, output_uri=str(tmp_path / "out"))
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            gun = ShootingDestination(str(tmp_path / "out"), Shot(shot, "after", str(tmp_path / "fuse")))
            terminal = Terminal(tmp_path / "out", dict(TWO_CHANGES))
            api.run_pipeline(made, observer=terminal, workers=0, open_destination=gun)
        finally:
            os._exit(99)
    os.waitpid(pid, 0)
    assert (tmp_path / "fuse").exists()

    api.run_pipeline(made, workers=workers)

    assert tree(tmp_path / "out") == expected


def test_rows_and_uploads_at_a_time_change_no_bytes(source: Path) -> None:
    slow = {"map": {"call": "support.live_calls:times"}, "name": "times", "executor": "thread", "workers": 2}
    made = settings(source, slow)
    expected = undisturbed(made, source)
    out = source / "out"
    terminal = Terminal(
        out,
        {
            2: lambda c: (c.set("times", "workers", 5), c.set("engine", "upload_concurrency", 1)),
            8: lambda c: (c.set("times", "workers", 1), c.set("engine", "upload_concurrency", 7)),
            12: lambda c: c.pause(),
            "paused": lambda c: c.resume(),
        },
    )

    report = api.run_pipeline(made, observer=terminal, workers=0)

    assert report.status == "complete"
    assert len(terminal.said) == 4
    assert tree(out) == expected


def test_a_second_run_of_the_same_dataset_leaves_the_first_its_socket(source: Path) -> None:
    out = source / "out"
    made = settings(source, TIMES)

    def second(control: RunControl) -> object:
        with pytest.raises(Exception, match="is being worked on by process"):
            api.run_pipeline(made, workers=0)
        return control.describe("engine")["engine"]["state"]

    terminal = Terminal(out, {2: second})
    api.run_pipeline(made, observer=terminal, workers=0)

    assert terminal.said == ["running"]


def test_a_run_that_fails_leaves_no_socket(source: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, SamplesPacked):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        api.run_pipeline(settings(source, TIMES), observer=fail, workers=0)

    assert is_silent(source / "out")


def test_a_run_that_can_have_no_socket_says_so_and_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "data-bridge").mkdir(parents=True, mode=0o755)
    monkeypatch.setattr("data_bridge.engine.listening.socket_folders", lambda: (tmp_path / "run" / "data-bridge",))
    heard: list[Event] = []

    report = api.run_pipeline(settings(source, TIMES), observer=heard.append, workers=0)

    assert report.status == "complete"
    assert next(e.message for e in heard if isinstance(e, Notice)).startswith("this run takes no commands: ")
    assert isinstance(heard[0], RunPlanned)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_looks_at_all_samples_first_takes_commands_meanwhile(source: Path, workers: int) -> None:
    made = settings(source, gated(source), {"dedupe": {"fields": ["text"]}})
    expected = undisturbed(made, source)
    out = source / "out"
    states: list[object] = []

    def stop(control: RunControl) -> object:
        states.append(control.describe("engine")["engine"]["state"])
        return control.ask("stop")

    def pause(control: RunControl) -> object:
        control.pause()
        (source / "gate").touch()
        return stop(control)

    terminal = Terminal(out, {"dedupe": later(lambda: pause(listening_at(out)))})
    report = api.run_pipeline(made, observer=terminal, workers=workers)

    assert states == ["paused"]
    assert (report.status, report.exit_code) == ("interrupted", 130)
    assert not terminal.packets
    assert is_silent(out)
    assert api.run_pipeline(made, workers=0).status == "complete"
    assert tree(out) == expected


def listening_at(out: Path) -> RunControl:
    """A run at that place, once it listens."""
    control = api.control(str(out))

    def listens() -> bool:
        try:
            control.describe("engine")
        except ConfigError:
            return False
        return True

    wait_for(listens, "the run to listen")
    return control
