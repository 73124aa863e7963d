"""The engine as a user meets it: a program in a terminal that is interrupted, terminated, killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from support.engine_works import wait_for
from support.programs import ENVIRONMENT

from data_bridge.engine.signals import ECHO_S

SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from data_bridge.runtime.process import one_blas_thread, own_process
if sys.argv[3] == "forked":
    one_blas_thread()
    own_process()
from support.engine_works import Endless
from data_bridge.engine.processes import ProcessEngine
from data_bridge.errors import BridgeError
def observer(event):
    print(event, flush=True)
try:
    report = ProcessEngine(2).run(Endless(Path(sys.argv[1]), sys.argv[2]), [0, 1, 2], observer)
except BridgeError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
print(sorted((o.partition, o.kind, o.index) for o in report.outcomes.values()))
sys.exit(130 if report.interrupted else 1)
"""


STARTS = ["spawned", "forked"]


@contextmanager
def driver(folder: Path, mode: str, start: str, *, group: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A program that runs `Endless` on two workers, and is at work in both."""
    script = folder / "driver.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), mode, start]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=group
    ) as process:
        try:
            wait_for(lambda: len(workers(folder)) == 2 or process.poll() is not None, "both workers to be at work")
            yield process
        finally:
            left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for child in left:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def workers(folder: Path) -> list[int]:
    return [int(p.name.removeprefix("working-")) for p in folder.glob("working-*")]


def gone(pids: list[int]) -> Callable[[], bool]:
    def all_gone() -> bool:
        return not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids)

    return all_gone


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_the_whole_group_finishes_what_is_in_hand(
    tmp_path: Path, signum: signal.Signals, start: str
) -> None:
    with driver(tmp_path, "polite", start, group=True) as process:
        os.killpg(process.pid, signum)
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 130
    assert output.count("Notice(") == 1
    assert "[(0, 'stopped', 7), (1, 'stopped', 7), (2, 'stopped', 0)]" in output
    assert "SlotLost" not in output
    assert "Traceback" not in output
    assert gone(workers(tmp_path))()


@pytest.mark.parametrize("start", STARTS)
def test_the_second_signal_kills_workers_that_do_not_listen(tmp_path: Path, start: str) -> None:
    with driver(tmp_path, "deaf", start) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert "Notice(" in process.stdout.readline()
        first = time.monotonic()
        wait_for(lambda: time.monotonic() > first + 2 * ECHO_S, "a person's next key press")
        assert not gone(workers(tmp_path))()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)

    assert process.returncode == 130
    assert "Interrupted stopped at once" in output
    assert gone(workers(tmp_path))()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", ["polite", "deaf", "hung", "stuck"])
def test_a_killed_driver_leaves_no_process_behind(tmp_path: Path, mode: str, start: str) -> None:
    with driver(tmp_path, mode, start) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        assert set(workers(tmp_path)) <= {p.pid for p in children}

        process.kill()

        try:
            wait_for(gone([p.pid for p in children]), "all children to be gone", timeout_s=5.0)
        finally:
            for child in psutil.process_iter():
                if child in children:
                    child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker is a new interpreter")
def test_a_worker_that_replaces_a_dead_one_is_a_copy_as_well(tmp_path: Path) -> None:
    with driver(tmp_path, "polite", "forked") as process:
        dead, alive = workers(tmp_path)
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: len(workers(tmp_path)) == 3, "a third worker to be at work")
        (new,) = set(workers(tmp_path)) - {dead, alive}

        assert psutil.Process(new).cmdline() == psutil.Process(process.pid).cmdline()
        assert psutil.Process(new).parent() == psutil.Process(alive).parent()


def _runs(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


UNGUARDED = """
from pathlib import Path
from support.engine_works import Shards
from data_bridge.engine.processes import ProcessEngine
print("the script runs")
Path("out").mkdir()
report = ProcessEngine(2).run(Shards(Path("out")), [0, 1], lambda event: None)
print([o.kind for o in report.outcomes.values()])
"""

OWN_WORK = """
from data_bridge.engine.base import Outcome
from data_bridge.engine.processes import ProcessEngine
def work(partition, control):
    return Outcome(partition, "done")
def factory():
    return work
{guard}
report = ProcessEngine(2).run(factory, [0, 1], lambda event: None)
print([o.kind for o in report.outcomes.values()], report.error)
"""


def test_a_script_without_a_main_guard_is_not_run_again_by_the_workers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)

    output = _runs([sys.executable, "script.py"], tmp_path)

    assert output == "the script runs\n['done', 'done']\n"


def test_it_runs_from_a_command_line_string(tmp_path: Path) -> None:
    assert _runs([sys.executable, "-c", UNGUARDED], tmp_path) == "the script runs\n['done', 'done']\n"


def test_it_runs_from_a_module_started_by_name(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)

    assert _runs([sys.executable, "-m", "script"], tmp_path) == "the script runs\n['done', 'done']\n"


def test_a_guarded_script_may_define_its_own_work(tmp_path: Path) -> None:
    guarded = OWN_WORK.format(guard="").replace("report =", "if __name__ == '__main__':\n  report =")
    (tmp_path / "script.py").write_text(guarded.replace("\nprint", "\n  print"))

    assert _runs([sys.executable, "script.py"], tmp_path) == "['done', 'done'] None\n"


def test_an_unguarded_script_with_its_own_work_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(OWN_WORK.format(guard="") + "print(report.error.hint)")

    output = _runs([sys.executable, "script.py"], tmp_path)

    assert "['stopped', 'stopped'] a worker process ended with exit code 1 before it could start" in output
    assert "under `if __name__ == '__main__':`" in output


def test_work_defined_on_a_command_line_is_told_what_to_do(tmp_path: Path) -> None:
    output = _runs([sys.executable, "-c", OWN_WORK.format(guard="")], tmp_path)

    assert "['stopped', 'stopped'] a worker cannot find the work: AttributeError" in output
