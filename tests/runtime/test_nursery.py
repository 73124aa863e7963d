"""A process with threads has children that are copies of what it was without them, and they behave as any others."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.engine_works import wait_for

SCRIPT = """
import multiprocessing, os, resource, signal, sys, threading
from multiprocessing.connection import wait
from data_bridge.runtime.nursery import keep_nursery, start_child
from data_bridge.runtime.process import own_process

MARK = []

def tells(pipe):
    pipe.send((MARK, threading.active_count(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN))

def waits(pipe):
    pipe.recv()

def exits(pipe):
    sys.exit(7)

def start(target):
    mine, theirs = multiprocessing.Pipe()
    with theirs:
        return mine, start_child(target, (theirs,), name="a child", needs_main=True)

def copy():
    mine, child = start(tells)
    print(mine.recv())
    child.join()
    print(child.exitcode)

def siblings():
    (first, child), (second, other) = start(waits), start(waits)
    first.close()
    child.join()
    print(child.exitcode, other.exitcode)
    second.close()
    other.join()

def ends():
    _, child = start(exits)
    assert wait([child.sentinel], 30)
    print(child.exitcode)
    pipe, child = start(waits)
    print(child.exitcode)
    child.kill()
    child.join()
    child.kill()
    print(child.exitcode, os.path.exists(f"/proc/{child.pid}"), wait([pipe], 30) == [pipe])

def nursery_killed():
    pipe, child = start(waits)
    (nursery,) = multiprocessing.active_children()
    nursery.kill()
    nursery.join()
    child.join()
    print(child.exitcode)
    mine, child = start(tells)
    print(mine.recv())
    child.join()

def full():
    (nursery,) = multiprocessing.active_children()
    soft, hard = resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE, (max(map(int, os.listdir(f"/proc/{nursery.pid}/fd"))) + 2, hard))
    mine, child = start(tells)
    print(mine.recv())
    child.join()
    resource.prlimit(nursery.pid, resource.RLIMIT_NOFILE, (soft, hard))
    copy()

def unsendable():
    before = len(os.listdir("/proc/self/fd"))
    try:
        start_child(tells, (lambda: None,), name="a child", needs_main=True)
    except Exception as error:
        print(type(error).__name__ != "", len(os.listdir("/proc/self/fd")) - before)

def owner_killed():
    pipe, child = start(waits)
    print(child.pid, flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    MARK.append("kept")
    own_process()
    if "early" in sys.argv:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with keep_nursery():
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        globals()[sys.argv[1]]()
    print(len(multiprocessing.active_children()))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every child is a new interpreter")


def script(folder: Path) -> list[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path)]


def said(folder: Path, *options: str) -> list[str]:
    done = subprocess.run([*script(folder), *options], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split("\n")[:-1]


def test_a_child_is_a_copy_of_what_its_owner_was_before_it_had_threads(tmp_path: Path) -> None:
    assert said(tmp_path, "copy") == ["(['kept'], 1, True)", "0", "0"]


def test_a_process_that_has_threads_already_has_new_interpreters_for_children(tmp_path: Path) -> None:
    assert said(tmp_path, "copy", "early") == ["([], 1, True)", "0", "0"]


def test_a_child_holds_no_end_of_its_siblings_pipes(tmp_path: Path) -> None:
    assert said(tmp_path, "siblings") == ["1 None", "0"]


def test_how_a_child_ended_is_known_and_a_killed_one_is_gone(tmp_path: Path) -> None:
    assert said(tmp_path, "ends") == ["7", "None", "-9 False True", "0"]


def test_children_die_with_a_killed_nursery_and_the_next_one_is_a_new_interpreter(tmp_path: Path) -> None:
    assert said(tmp_path, "nursery_killed") == ["-9", "([], 1, True)", "0"]


def test_a_nursery_that_may_open_no_more_files_lives_on_and_the_child_is_a_new_interpreter(tmp_path: Path) -> None:
    assert said(tmp_path, "full") == ["([], 1, True)", "(['kept'], 1, True)", "0", "0"]


def test_what_cannot_be_sent_to_a_child_leaves_no_file_open(tmp_path: Path) -> None:
    assert said(tmp_path, "unsendable") == ["True 0", "0"]


def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen([*script(tmp_path), "owner_killed"], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            child = int(owner.stdout.readline())
            family = psutil.Process(owner.pid).children(recursive=True)
            assert child in {process.pid for process in family}
        finally:
            owner.kill()

        wait_for(lambda: not any(lives(process.pid) for process in family), "the family to be gone", timeout_s=5.0)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
