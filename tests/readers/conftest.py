from collections.abc import Iterator

import pytest
from support.litdata_readers import Reader, start


@pytest.fixture(scope="session")
def current(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The newest litdata."""
    yield from start("current", tmp_path_factory.mktemp("current"))


@pytest.fixture(scope="session")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The oldest litdata that classic chunks are promised to."""
    yield from start("oldest", tmp_path_factory.mktemp("oldest"))


@pytest.fixture(params=["current", "oldest"])
def reader(request: pytest.FixtureRequest) -> Reader:
    """Either of them."""
    found: Reader = request.getfixturevalue(request.param)
    return found
