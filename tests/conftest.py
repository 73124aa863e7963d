"""How the suite runs, whichever part of it."""

import gc

import pytest

WAITING = ("compute", "kill", "benchmarks", "acceptance")
"""Folders whose files take longest, for other processes more than for a core."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: the last ones to be given out should not be what all the rest waits for."""

    def place(item: pytest.Item) -> int:
        folder = next((part for part in item.path.parts if part in WAITING), None)
        return len(WAITING) if folder is None else WAITING.index(folder)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What thousands of tests are made of lives to the end: looking through it for garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()
