"""What several files of golden tests ask for."""

import pytest
from tests.golden.known import Knows, knowing


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Knows:
    """What transformers says on the tiny checkpoints."""
    return knowing(tmp_path_factory)
