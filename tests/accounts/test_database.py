"""The database: private, durable, at today's tables, and honest when it does not answer."""

import asyncio
import sqlite3
import stat
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import NoReturn

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.pool import QueuePool

from ecocore.accounts import database as database_module
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.keys import KeyStore
from ecocore.accounts.schema import accounts, metadata
from ecocore.errors import InvalidConfiguration


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "ecocore.db"
    database = await Database.open(url(path))
    await KeyStore(database).create("laptop")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    await database.close()


async def test_commits_survive_power_loss_and_readers_do_not_wait(tmp_path: Path) -> None:
    database = await Database.open(url(tmp_path / "db"))
    async with database.reading() as connection:
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "foreign_keys": 1}.items():
            assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar() == value
        async with database.writing() as writer:
            await writer.execute(accounts.insert().values(name="more", created=0))
            assert len((await connection.execute(select(accounts))).all()) == 1
    await database.close()


async def test_the_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.scalars(select(accounts.c.name))).all() == ["default"]


async def test_opening_again_keeps_what_is_there(database_url: str) -> None:
    for _ in range(2):
        database = await Database.open(database_url)
        key = await KeyStore(database).create("laptop")
        await database.close()
    database = await Database.open(database_url)
    assert await KeyStore(database).find(key) is not None
    async with database.reading() as connection:
        assert len((await connection.execute(select(accounts))).all()) == 1
    await database.close()


async def test_opening_what_is_of_today_waits_for_no_writer(database: Database, database_url: str) -> None:
    async with database.writing() as connection:
        await connection.execute(accounts.insert().values(name="more", created=0))
        await (await Database.open(database_url)).close()


async def test_tables_of_a_newer_version_are_left_alone(database: Database, database_url: str) -> None:
    async with database.writing() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InvalidConfiguration, match="newer"):
        await Database.open(database_url)


async def test_many_may_open_a_new_database_at_once(database_url: str) -> None:
    databases = await asyncio.gather(*(Database.open(database_url) for _ in range(4)))
    names = [await KeyStore(database).create(f"key {number}") for number, database in enumerate(databases)]
    assert len(set(names)) == 4
    for database in databases:
        await database.close()


async def test_a_reader_sees_one_state(database: Database) -> None:
    names = select(accounts.c.name)
    async with database.reading() as connection:
        assert (await connection.scalars(names)).all() == ["default"]
        async with database.writing() as writer:
            await writer.execute(accounts.insert().values(name="more", created=0))
        assert (await connection.scalars(names)).all() == ["default"]
    async with database.reading() as connection:
        assert sorted(await connection.scalars(names)) == ["default", "more"]


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    async def fail_half_way() -> None:
        async with database.writing() as connection:
            await connection.execute(accounts.insert().values(name="half", created=0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_half_way()
    async with database.reading() as connection:
        assert (await connection.scalars(select(accounts.c.name))).all() == ["default"]


async def test_a_locked_database_is_unavailable_and_recovers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0)
    database = await Database.open(url(tmp_path / "db"))
    blocker = sqlite3.connect(tmp_path / "db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseUnavailable):
        await KeyStore(database).create("laptop")
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await KeyStore(database).create("laptop")
    await database.close()


@pytest.mark.parametrize(
    ("breaks", "mends", "told"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "full"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "readonly"),
    ],
)
async def test_a_full_disk_and_a_file_that_may_only_be_read_are_unavailable(
    breaks: str, mends: str, told: str, tmp_path: Path
) -> None:
    database = await Database.open(url(tmp_path / "db"))

    def pragma(statement: str) -> None:
        assert database._writer is not None
        with closing(database._writer._engine.raw_connection()) as connection:
            connection.cursor().execute(statement)

    def fill(connection: Connection) -> None:
        for number in range(100):
            connection.execute(accounts.insert().values(name=f"{number}".ljust(128), created=0))

    pragma(breaks)
    with pytest.raises(DatabaseUnavailable, match=told):
        await database.transact(fill)
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)
    pragma(mends)
    await database.transact(fill)
    async with database.reading() as connection:
        assert len((await connection.scalars(select(accounts.c.name))).all()) == 101
    await database.close()


QUERY = select(accounts.c.id).where(accounts.c.name == bindparam("name"))


async def test_a_look_up_needs_no_connection_of_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of requests a second ask for their key: queueing for fifteen connections, most of them would fail."""
    database = await Database.open(url(tmp_path / "db"))

    def no_pool(_self: Database) -> NoReturn:
        raise AssertionError("the pool was asked")

    monkeypatch.setattr(Database, "reading", no_pool)
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)
    assert await database.look_up(QUERY, {"name": "nobody"}) is None
    await database.close()


async def test_a_look_up_finds_the_one_row(database: Database) -> None:
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)
    assert await database.look_up(QUERY, {"name": "nobody"}) is None


async def test_a_look_up_that_cannot_be_made_at_once_goes_the_long_way(tmp_path: Path) -> None:
    database = await Database.open(url(tmp_path / "db"))
    assert database._direct is not None
    database._direct.close()
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)
    database._direct = None
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)
    assert await database.look_up(QUERY, {"name": "nobody"}) is None
    await database.close()


async def test_a_look_up_can_only_read(tmp_path: Path) -> None:
    database = await Database.open(url(tmp_path / "db"))
    assert database._direct is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._direct.execute("DELETE FROM accounts")
    await database.close()


async def test_a_database_all_of_whose_connections_are_in_use_is_unavailable(database: Database) -> None:
    pool = database._engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    pool._timeout = 0
    async with AsyncExitStack() as stack:
        for _ in range(pool.size() + pool._max_overflow):
            await stack.enter_async_context(database.reading())
        with pytest.raises(DatabaseUnavailable, match="in use"):
            await stack.enter_async_context(database.reading())


@pytest.mark.parametrize("wrong", ["", "nonsense", "mysql://host/db", "nosuch://host/db", "sqlite+nosuch:///x"])
async def test_a_url_that_cannot_be_used_is_refused_in_words(wrong: str) -> None:
    with pytest.raises(InvalidConfiguration, match="sqlite:///"):
        await Database.open(wrong)


async def test_a_url_is_not_quoted_for_it_may_hold_a_password() -> None:
    with pytest.raises(InvalidConfiguration) as told:
        await Database.open("postgresql//me:not-to-be-seen@host/db")
    assert "not-to-be-seen" not in str(told.value)


async def test_a_place_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfiguration, match="cannot be written"):
        await Database.open(url(tmp_path / "file" / "db"))


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseUnavailable):
        await Database.open(url(tmp_path / "db"))
