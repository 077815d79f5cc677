"""Writes that share a transaction: each hears how it went, and none spoils another."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import NoResultFound

from ecocore.accounts import commit as commit_module
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import BrokenConstraint, Database, DatabaseUnavailable
from ecocore.accounts.schema import accounts
from ecocore.errors import InvalidConfiguration


def adds(name: str) -> Callable[[Connection], object]:
    def add(connection: Connection) -> object:
        connection.execute(insert(accounts), {"name": name, "created": 0})
        return name

    return add


async def count(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(select(func.count()).select_from(accounts))).scalar_one())


async def test_those_who_come_together_share_a_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = 0
    transact = database.transact

    async def counted(work: Callable[[Connection], object]) -> object:
        nonlocal transactions
        transactions += 1
        return await transact(work)

    monkeypatch.setattr(database, "transact", counted)
    commit = GroupCommit(database)
    names = [f"account {number}" for number in range(100)]
    assert await asyncio.gather(*(commit.run(adds(name)) for name in names)) == names
    assert transactions <= 2
    assert await count(database) == 101


async def test_a_refusal_and_a_broken_rule_are_their_owners_alone(database: Database) -> None:
    def refuse(_connection: Connection) -> None:
        raise InvalidConfiguration("no")

    commit = GroupCommit(database)
    outcomes = await asyncio.gather(
        *(commit.run(operation) for operation in (adds("a"), refuse, adds("default"), adds("b"))),
        return_exceptions=True,
    )
    assert outcomes[0] == "a"
    assert isinstance(outcomes[1], InvalidConfiguration)
    assert isinstance(outcomes[2], BrokenConstraint)
    assert outcomes[3] == "b"
    assert await count(database) == 3


async def test_a_mistake_is_its_owners_alone_and_nobody_waits_on(database: Database) -> None:
    def mistake(connection: Connection) -> None:
        connection.execute(select(accounts).where(accounts.c.id == 0)).one()

    commit = GroupCommit(database)
    outcomes = await asyncio.gather(
        *(commit.run(operation) for operation in (adds("a"), mistake, adds("b"))), return_exceptions=True
    )
    assert isinstance(outcomes[1], NoResultFound)
    assert (outcomes[0], outcomes[2], await count(database)) == ("a", "b", 3)


async def test_who_came_while_the_database_hung_does_not_wait_a_second_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "HUNG_SECONDS", 0.0)
    began, fails = asyncio.Event(), asyncio.Event()
    transact = database.transact

    async def hangs(_: object) -> None:
        began.set()
        await fails.wait()
        raise DatabaseUnavailable("locked")

    monkeypatch.setattr(database, "transact", hangs)
    commit = GroupCommit(database)
    first = asyncio.create_task(commit.run(adds("a")))
    await began.wait()
    second = asyncio.create_task(commit.run(adds("b")))
    await asyncio.sleep(0)
    monkeypatch.setattr(database, "transact", transact)
    fails.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 2
    assert await commit.run(adds("c")) == "c"
    assert await count(database) == 2


async def test_those_who_are_tried_alone_do_not_each_wait_for_a_database_that_hangs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "HUNG_SECONDS", 0.0)
    failures = iter([RuntimeError("one of them is at fault"), DatabaseUnavailable("locked")])

    async def fails(_: object) -> None:
        raise next(failures)

    monkeypatch.setattr(database, "transact", fails)
    commit = GroupCommit(database)
    outcomes = await asyncio.gather(*(commit.run(adds(name)) for name in "abc"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3


async def test_who_is_cancelled_leaves_the_write_behind(database: Database) -> None:
    commit = GroupCommit(database)
    leaving = asyncio.create_task(commit.run(adds("left")))
    await asyncio.sleep(0)
    leaving.cancel()
    await commit.run(adds("stays"))
    assert leaving.cancelled()
    assert await count(database) == 3


async def test_rows_are_taken_in_one_order(database: Database) -> None:
    commit = GroupCommit(database)
    seen: list[int] = []
    await asyncio.gather(*(commit.run(lambda _, number=number: seen.append(number), order=-number) for number in range(5)))  # type: ignore[misc]
    assert seen == [4, 3, 2, 1, 0]
