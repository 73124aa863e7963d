from collections.abc import Iterator

import pytest
from support.fake_hub import FakeHub, session_hub
from support.litdata_readers import Reader, start
from support.seaweed import bucket, seaweed

__all__ = ["bucket", "seaweed"]

session_hub()  # before anything imports `huggingface_hub`


@pytest.fixture(scope="session")
def hub() -> FakeHub:
    return session_hub()


@pytest.fixture(scope="session")
def litdata_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """litdata's own, current reader; skips where its environment was not made."""
    yield from start("current", tmp_path_factory.mktemp("litdata"))
