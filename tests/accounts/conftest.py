"""A new database for each test, of each kind that we run on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ecocore.accounts.database import Database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database with nothing in it is."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'data' / 'ecocore.db'}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """It, opened."""
    opened = await Database.open(database_url)
    yield opened
    await opened.close()
