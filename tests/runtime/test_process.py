"""What a process of ours costs the system."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

FAULTS = """
import resource
from data_bridge.runtime.process import keep_freed_memory
{setup}
def churn():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        kept = [bytearray(b"x") * 700_000 for _ in range(6)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
churn()
print(churn())
"""
THREADS = """
import sys
from pathlib import Path
from data_bridge.runtime.process import one_blas_thread
one_blas_thread()
import numpy
print(len(list(Path("/proc/self/task").iterdir())))
"""

COLLECTIONS = """
import gc
from data_bridge.runtime.process import collect_rarely
{setup}
before = gc.get_stats()[0]["collections"]
kept = [[i] for i in range(50_000)]
print(gc.get_stats()[0]["collections"] - before)
"""

LAST_LOOK = """
from data_bridge.runtime.process import collect_rarely
{setup}
class Found:
    def __del__(self):
        print(1)
found = Found()
found.found = found
print(0, end="")
"""


def said(code: str, **env: str) -> int:
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_batches_that_come_and_go_do_not_fault_in_fresh_pages() -> None:
    kept = said(FAULTS.format(setup="keep_freed_memory()"))
    returned = said(FAULTS.format(setup=""))

    assert kept < 1_000
    assert returned == 0 or kept < returned


def test_numpy_starts_no_threads_of_its_own_unless_the_user_wants_them() -> None:
    assert said(THREADS) == 1
    assert said(THREADS, OPENBLAS_NUM_THREADS="2") == min(2, said("import os; print(os.cpu_count())"))


def test_objects_that_stay_are_not_looked_through_again_and_again() -> None:
    assert said(COLLECTIONS.format(setup="collect_rarely()")) <= 1
    assert said(COLLECTIONS.format(setup="")) > 10


def test_the_end_of_a_process_does_not_look_through_all_it_kept() -> None:
    assert said(LAST_LOOK.format(setup="collect_rarely()")) == 0
    assert said(LAST_LOOK.format(setup="")) == 1
