"""Copies: whole, of one moment, into what was empty, and good to go on with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from ecocore.accounts import copy as copy_module
from ecocore.accounts.books import Books
from ecocore.accounts.copy import copy
from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyLimits, KeyStore
from ecocore.accounts.money import NANOS
from ecocore.accounts.schema import answers, metadata
from ecocore.errors import InvalidConfiguration


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Another one, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'copy.db'}"
        return
    server = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


async def fill(database: Database) -> str:
    """Some of everything; gives a key."""
    books, keys = Books(database), KeyStore(database)
    await books.create_account("team")
    for amount in (5, -2, 7):
        await books.credit("team", amount * NANOS)
    await books.set_price("m", 1, 2)
    await books.set_price("m", 3, 4)
    await keys.create("old")
    await keys.revoke("old")
    row = {"account_id": 1, "idempotency_key": "k", "fingerprint": "f", "claim_id": "c", "server_id": "s", "created": 1}
    async with database.writing() as connection:
        await connection.execute(insert(answers), {**row, "body": b"\0\xff"})
    return await keys.create("laptop", "team", limits=KeyLimits(1, None, 3))


async def everything(database: Database) -> dict[str, Any]:
    async with database.reading() as connection:
        return {table.name: sorted(map(repr, await connection.execute(select(table)))) for table in metadata.sorted_tables}


async def test_a_copy_has_every_row_and_goes_on_from_there(
    database: Database, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "ROWS_AT_ONCE", 2)
    key = await fill(database)
    target = await Database.open(target_url)
    try:
        copied = await copy(database, target)
        assert copied == {"accounts": 2, "answers": 1, "holds": 0, "keys": 2, "ledger": 3, "prices": 2, "servers": 0}
        assert await everything(target) == await everything(database)
        assert await KeyStore(target).find(key) == await KeyStore(database).find(key)
        books = Books(target)
        assert await books.check() == []
        # New rows get numbers of their own.
        await books.create_account("next")
        await books.credit("next", NANOS)
        await books.set_price("m", 5, 6)
        assert [entry.id for entry in await books.entries("next", 10)] == [4]
        assert [price.id for price in await books.prices()] == [3]
    finally:
        await target.close()


async def test_nothing_is_copied_over_what_is_there(database: Database, target_url: str) -> None:
    await fill(database)
    target = await Database.open(target_url)
    try:
        await KeyStore(target).create("mine")
        before = await everything(target)
        with pytest.raises(InvalidConfiguration, match="already"):
            await copy(database, target)
        assert await everything(target) == before
    finally:
        await target.close()


async def test_a_copy_that_fails_leaves_the_target_empty(
    database: Database, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database)
    target = await Database.open(target_url)
    try:
        before = await everything(target)

        async def fail(*_: object) -> int:
            raise ZeroDivisionError

        copy_table = copy_module._copy_table
        monkeypatch.setattr(
            copy_module, "_copy_table", lambda table, *rest: (fail if table.name == "ledger" else copy_table)(table, *rest)
        )
        with pytest.raises(ZeroDivisionError):
            await copy(database, target)
        assert await everything(target) == before
    finally:
        await target.close()
