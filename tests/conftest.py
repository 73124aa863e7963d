"""How the suite runs, whichever part of it."""

import gc


def pytest_collection_finish() -> None:
    """What thousands of tests are made of lives to the end: looking through it for garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()
