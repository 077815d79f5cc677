"""One server for all that can be thrown at one; it must be as well after each test as before."""

from collections.abc import Iterator

import pytest
from tests.abuse.target import Target, attacked

MIB = 2**20
DESCRIPTORS = 24


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    settings = {
        "serve": {"KEEP_ALIVE_SECONDS": 1.0},
        "connection": {"WRITE_SECONDS": 1.0, "CLOSE_SECONDS": 0.5, "MAX_CONNECTIONS": 400},
        "limits": {"body_seconds": 1.0, "linger_seconds": 0.5},
        "pace": {"answer_seconds": 2.0, "tick_seconds": 0.1},
        "images": {"fetch_seconds": 1.0},
    }
    with attacked(tmp_path_factory.mktemp("abuse"), **settings) as target:
        for _ in range(20):
            assert target.is_well()
        yield target


@pytest.fixture
def target(_shared: Target) -> Iterator[Target]:
    """The server. Afterwards it must answer, and give back descriptors and memory."""
    descriptors, memory = _shared.descriptors(), _shared.memory()
    yield _shared
    assert _shared.is_well()
    assert _shared.eventually(lambda: _shared.descriptors() <= descriptors + DESCRIPTORS)
    assert _shared.memory() <= memory + 256 * MIB
