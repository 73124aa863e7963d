"""A child is a copy of its parent where nothing is lost by that, and a new interpreter everywhere else."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.engine_works import wait_for

from data_bridge.runtime.spawning import _is_harmless

SCRIPT = """
import multiprocessing, os, sys, threading
from data_bridge.runtime.process import one_blas_thread, own_process
from data_bridge.runtime.spawning import spawn

MARK = []

def child(pipe):
    pipe.send((MARK, threading.active_count()))

def looks(pipe, strangers):
    pipe.send([name for fd in os.listdir("/proc/self/fd") if (name := told(fd)) in strangers])

def told(fd):
    path = f"/proc/self/fd/{fd}"
    return os.readlink(path) if os.path.lexists(path) else ""

if __name__ == "__main__":
    MARK.append("kept")
    if "ours" in sys.argv:
        own_process()
    if "thread" in sys.argv:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if "arrow" in sys.argv:
        one_blas_thread()
        import pyarrow
    mine, theirs = multiprocessing.Pipe()
    stranger, other = multiprocessing.Pipe()
    target, more = (looks, ([told(mine.fileno()), told(stranger.fileno())],)) if "pipes" in sys.argv else (child, ())
    process = spawn(target, (theirs, *more), name="a child", needs_main=True, mine=[mine, stranger])
    print(mine.recv())
    process.join()
    sys.exit(process.exitcode)
"""


def output(folder: Path, *options: str) -> str:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every child is a new interpreter")
@pytest.mark.parametrize("options", [("ours",), ("ours", "arrow")])
def test_a_child_of_a_run_has_what_its_parent_imported(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert output(tmp_path, *options) == "(['kept'], 1)"


@pytest.mark.parametrize("options", [(), ("ours", "thread"), ("thread",)])
def test_a_child_of_somebody_elses_process_or_of_one_with_threads_starts_from_nothing(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert output(tmp_path, *options) == "([], 1)"


@pytest.mark.parametrize("options", [("ours", "pipes"), ("pipes",)])
def test_a_child_holds_no_other_pipe_of_its_parent_open(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert output(tmp_path, *options) == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every child is a new interpreter")
def test_a_thread_that_ends_while_it_is_looked_at_is_in_nobodys_way() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    task = Path(f"/proc/self/task/{thread.native_id}")
    assert not _is_harmless(task)

    go.set()
    thread.join()
    wait_for(lambda: not task.exists(), "the thread to be gone")

    assert _is_harmless(task)
