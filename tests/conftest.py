"""How the suite runs, whichever part of it."""

import gc
import os


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for machines, servers and clocks."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """What thousands of tests are made of lives to the end: looking through it for garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()
