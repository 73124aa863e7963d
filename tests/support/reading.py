"""Threads that read ahead: `from support.reading import no_thread_is_left` and no test of a module may leave one."""

import threading
from collections.abc import Iterator

import pytest


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "data-bridge-read-ahead"]


def wait_for_readers() -> None:
    """Give every reading thread five seconds to end."""
    for thread in reading_threads():
        thread.join(5)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    wait_for_readers()
    assert reading_threads() == []
