"""Sums of what was used, by day and model, of one account; and few at a time."""

import asyncio
import time

import pytest
from sqlalchemy import insert

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.accounts.schema import ledger
from ecocore.accounts.usage import AT_ONCE, DAY_SECONDS, DayOfModel, Usage

TODAY = int(time.time()) // DAY_SECONDS


async def post(database: Database, account: int, day: int, model: str, amount: int) -> None:
    row = {
        "account_id": account,
        "contra": "revenue",
        "kind": "usage",
        "amount": amount,
        "request_id": f"{account} {day} {model} {amount}",
        "model": model,
        "prompt_tokens": 10,
        "completion_tokens": 2**40,
        "created": day * DAY_SECONDS,
    }
    await database.transact(lambda connection: connection.execute(insert(ledger), row).rowcount)


async def test_use_is_summed_by_day_and_model(database: Database) -> None:
    await Books(database).create_account("other")
    for account, day, model, amount in [
        (1, TODAY, "b", -5),
        (1, TODAY, "a", -7),
        (1, TODAY, "a", -8),
        (1, TODAY - 1, "a", 0),
        (1, TODAY - 2, "a", -1),
        (2, TODAY, "a", -100),
    ]:
        await post(database, account, day, model, amount)
    await Books(database).credit("default", 10**9)
    assert await Usage(database).days(1, 2) == [
        DayOfModel(TODAY - 1, "a", 1, 10, 2**40, 0),
        DayOfModel(TODAY, "a", 2, 20, 2**41, 15),
        DayOfModel(TODAY, "b", 1, 10, 2**40, 5),
    ]
    assert await Usage(database).days(3, 366) == []


async def test_few_sums_at_a_time_leave_connections_for_others(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(database)
    reading = database.reading
    running, most = 0, 0

    class Counted:
        def __init__(self) -> None:
            self._within = reading()

        async def __aenter__(self) -> object:
            nonlocal running, most
            running += 1
            most = max(most, running)
            return await self._within.__aenter__()

        async def __aexit__(self, *raised: object) -> None:
            nonlocal running
            running -= 1
            await self._within.__aexit__(*raised)  # type: ignore[arg-type]

    monkeypatch.setattr(database, "reading", Counted)
    await asyncio.gather(*(usage.days(1, 366) for _ in range(4 * AT_ONCE)))
    assert (running, most) == (0, AT_ONCE)
