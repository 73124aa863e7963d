"""How the suite runs, whichever part of it."""

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What thousands of tests are made of lives to the end: looking through it for garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()
