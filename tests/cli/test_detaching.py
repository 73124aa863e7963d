"""A run that is left to work in the background: without a terminal, found again by its id, and heard of when it ends."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.console import SCRIPT, data_bridge, environment
from support.engine_works import wait_for
from support.kill import tree

FUNCTIONS = """
import pathlib
import time

def gated(row, gate):
    while row["id"] == 1500 and not pathlib.Path(gate).exists():
        time.sleep(0.01)
    if row["id"] == 1800 and pathlib.Path(gate).exists() and pathlib.Path(gate).read_text() == "fail":
        raise ValueError("not this one")
    return row
"""


class Place:
    """A user's home, a source, and a config whose run waits at sample 1500, behind what a plan looks at, until its gate is open."""

    def __init__(self, folder: Path, *, workers: int = 0) -> None:
        self.folder = folder
        self.gate = folder / "gate"
        self.env = {"HOME": str(folder / "home")}
        (folder / "functions.py").write_text(FUNCTIONS)
        (folder / "source.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(2000)))
        arguments = {"gate": str(self.gate)}
        pipeline = {
            "input_uri": "source.jsonl",
            "output_uri": str(folder / "out"),
            "samples_per_shard": 200,
            "stages": [{"map": {"call": f"{folder / 'functions.py'}:gated", "arguments": arguments}}],
            "workers": workers,
        }
        (folder / "config.json").write_text(json.dumps({"pipeline": pipeline}))

    def __call__(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return data_bridge(command[0], "config.json", *command[1:], cwd=self.folder, env=self.env)

    def detach(self, *more: str) -> dict[str, Any]:
        done = self("run", "--detach", "--json", *more)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def background(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "--json").stdout)["background"]
        return found

    def ended(self, started: dict[str, Any]) -> int:
        """The exit code of the run, once it is over."""
        note = Path(started["log"]).with_name("detached.json")
        wait_for(lambda: json.loads(note.read_text())["exit_code"] is not None, "the end of the run")
        code: int = json.loads(note.read_text())["exit_code"]
        return code


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_when_its_terminal_is_closed(tmp_path: Path, workers: int) -> None:
    place = Place(tmp_path, workers=workers)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(SCRIPT, [str(SCRIPT), "run", "config.json", "--detach"], environment(place.env))
    said = b""
    while b"its words" not in said:
        said += os.read(terminal, 4096)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run = psutil.Process(place.background["pid"])
    everybody = [run, *run.children(recursive=True)]
    assert place.background["running"]
    os.close(terminal)  # SIGHUP to all whose terminal it was

    assert [one.terminal() for one in everybody] == [None] * len(everybody)
    assert os.getsid(run.pid) == run.pid
    open_files = {str(Path(f"/proc/{run.pid}/fd/{number}").readlink()) for number in (0, 1, 2)}
    assert open_files == {os.devnull, place.background["log"]}
    place.gate.touch()
    assert place.ended(place.background) == 0
    shards = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "first")
    assert place("run").returncode == 0
    assert tree(tmp_path / "out") == shards


def test_the_words_at_the_start_lead_to_the_run(place: Place) -> None:
    done = place("run", "--detach")
    run = done.stdout.split()[1]

    assert done.returncode == 0
    assert f"data-bridge watch {run}" in done.stdout
    by_id = data_bridge("status", run, cwd=place.folder, env=place.env)
    assert f"process {place.background['pid']} works; its words: " in by_id.stdout
    stopped = data_bridge("ctl", run, "stop", cwd=place.folder, env=place.env)
    assert stopped.returncode == 0, stopped.stderr
    place.gate.touch()
    assert place.ended(place.background) == 130
    assert "ended with exit code 130" in place("status").stdout
    assert "stopped: " in Path(place.background["log"]).read_text()

    place.detach()
    place.gate.touch()
    assert place.ended(place.background) == 0
    log = Path(place.background["log"])
    assert "complete: 2,000 samples" in log.read_text()
    assert "stopped: " in log.with_name("run.log.1").read_text()


def test_an_error_in_the_background_is_in_the_log_and_its_exit_code_in_the_status(place: Place) -> None:
    started = place.detach()
    place.gate.write_text("fail")

    assert place.ended(started) == 1
    assert "not this one" in Path(started["log"]).read_text()
    assert "ended with exit code 1" in place("status").stdout


def test_a_run_that_is_killed_is_said_to_be(place: Place) -> None:
    started = place.detach()
    os.kill(started["pid"], signal.SIGKILL)
    wait_for(lambda: not place.background["running"], "the end of the process")

    assert place.background["exit_code"] is None
    assert "was killed: run the same command again" in place("status").stdout
    again = place.detach()
    place.gate.touch()
    assert place.ended(again) == 0


def test_what_a_run_refuses_is_refused_in_the_terminal(place: Place) -> None:
    (place.folder / "source.jsonl").unlink()

    done = place("run", "--detach")

    assert done.returncode == data_bridge("run", "config.json", cwd=place.folder, env=place.env).returncode
    assert "error: " in done.stderr
    assert "source.jsonl" in done.stderr
    assert not list((place.folder / "home").rglob("*.log"))


def test_a_second_run_is_refused_in_the_terminal_and_the_first_one_goes_on(place: Place) -> None:
    started = place.detach()

    done = place("run", "--detach")

    assert done.returncode == 75
    assert str(started["pid"]) in done.stderr
    assert place.background["running"]
    assert (place.background["pid"], place.background["log"]) == (started["pid"], started["log"])
    place.gate.touch()
    assert place.ended(started) == 0
    assert "complete: 2,000 samples" in Path(started["log"]).read_text()
    assert [log.name for log in (place.folder / "home").rglob("*.log*")] == ["run.log"]


def test_a_run_with_nothing_to_do_says_so_at_once(place: Place) -> None:
    place.gate.touch()
    place.ended(place.detach())

    done = place("run", "--detach")
    for_programs = place("run", "--detach", "--json")

    assert (done.returncode, for_programs.returncode) == (0, 0)
    assert "complete: 2,000 samples" in done.stdout
    assert json.loads(for_programs.stdout)["exit_code"] == 0


def test_a_rented_machine_is_not_left_alone(place: Place) -> None:
    done = place("run", "--detach", "--use-vast")

    assert done.returncode == 2
    assert "--detach is for runs on this machine" in done.stderr
