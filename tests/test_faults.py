"""Real servers under load, killed or left by their database: each once or thrice. `make faults` does it at length."""

from pathlib import Path

import pytest
from tests import faults
from tests.servers import Postgres, Redis

RECOVERY_SECONDS = 5.0


async def test_a_server_that_is_killed_leaves_right_books(tmp_path: Path) -> None:
    found = await faults.kill_often(await faults.Shop.open(tmp_path), 3, seed=2)
    assert found.kills == 3
    assert found.seen.in_part > 0


@pytest.mark.postgres
async def test_so_does_one_on_postgres(tmp_path: Path, postgres_url: str) -> None:
    found = await faults.kill_often(await faults.Shop.open(tmp_path, postgres_url), 2, seed=3)
    assert found.seen.in_part > 0


async def test_a_locked_file_is_told_and_used_again(tmp_path: Path) -> None:
    # Long enough for who has just been served to ask again: the end of an answer waits for the ledger first.
    found = await faults.lock_sqlite(tmp_path, 12.0)
    assert found.statuses.keys() == {"200", "503 ledger_unavailable"}
    assert found.slowest_refusal < 2 * RECOVERY_SECONDS
    assert found.recovery < 2.0
    assert found.seen.whole > 0


@pytest.mark.postgres
async def test_a_postgres_that_stops_is_told_and_used_again(tmp_path: Path, postgres: Postgres) -> None:
    found = await faults.stop_postgres(tmp_path, postgres, 1.0, "stop")
    assert found.statuses.keys() == {"200", "503 ledger_unavailable"}
    assert found.recovery < RECOVERY_SECONDS
    assert found.seen.whole > 0


@pytest.mark.redis
async def test_limits_hold_without_the_redis_that_counts_them(tmp_path: Path, redis_server: Redis) -> None:
    found = await faults.kill_redis(tmp_path, redis_server)
    assert found.after > 0
