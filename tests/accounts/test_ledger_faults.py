"""Money while the database fails: at each statement in turn, and under a crowd that wants more than there is."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.accounts.faults import Fault, Faults
from tests.accounts.mortal import Mortal

from ecocore.accounts.books import Account, Books
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.keys import KeyStore
from ecocore.accounts.ledger import Hold, InsufficientBalance, Ledger
from ecocore.accounts.pricing import PriceList
from ecocore.errors import InvalidConfiguration

Result = TypeVar("Result")

DEFAULT = 1
CREDIT = 10**7
PROMPT, COMPLETION = 1000, 2000
"""Nano-dollars for a token."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    await Books(opened).set_price("m", PROMPT * 10**6, COMPLETION * 10**6)
    yield opened
    await Mortal.all_die()
    await opened.close()


async def insist(ask: Callable[[], Awaitable[Result]]) -> Result:
    """As a client does: what failed because the database was away is asked again."""
    for _ in range(2):
        try:
            return await ask()
        except DatabaseUnavailable:
            continue
    raise AssertionError("one fault makes one failure")


async def account_of(database: Database, name: str) -> Account:
    return next(account for account in await Books(database).accounts() if account.name == name)


async def story(database: Database, name: str, spools: Path) -> None:
    """The life of an account: money comes, answers are paid, a server dies, another takes over."""
    books = Books(database)

    async def create() -> None:
        try:
            await books.create_account(name)
        except InvalidConfiguration:
            # The answer to the first try was lost.
            assert (await account_of(database, name)).balance == 0

    await insist(create)
    key = await insist(lambda: KeyStore(database).create("laptop", name))
    await insist(lambda: books.credit(name, CREDIT, f"top-up of {name}"))
    owner = await insist(lambda: KeyStore(database).find(key))
    assert owner is not None
    price = await insist(lambda: PriceList(database).find("m"))
    assert price is not None

    dying = await insist(lambda: Mortal.start(database, spools))
    paid = await insist(lambda: dying.ledger.hold(owner.account_id, price, 10, 100))
    await dying.ledger.settle(paid, 10, 5)
    marked, silent = [await insist(lambda: dying.ledger.hold(owner.account_id, price, 10, 100)) for _ in range(2)]
    dying.ledger.mark(marked, 10, 7)
    await dying.ledger._write_marks()
    if marked.request_id in dying.ledger._marks:
        await dying.ledger._write_marks()
    await dying.dies()

    living = await insist(lambda: Mortal.start(database, spools))
    assert not await insist(lambda: holds_of(database, silent, marked))
    with pytest.raises(InsufficientBalance):
        await insist(lambda: living.ledger.hold(owner.account_id, price, 10, 10**6))
    several = [await insist(lambda: living.ledger.hold(owner.account_id, price, 10, 10)) for _ in range(3)]
    await asyncio.gather(*(living.ledger.settle(hold, 10, 10) for hold in several))
    await insist(lambda: living.ledger.watch(0.0))
    await living.ends()


async def holds_of(database: Database, *held: Hold) -> bool:
    """Whether one of them is still there."""
    async with database.reading() as connection:
        found = (await connection.exec_driver_sql("SELECT request_id FROM holds")).scalars().all()
    return not {hold.request_id for hold in held}.isdisjoint(found)


COST = (10 * PROMPT + 5 * COMPLETION) + (10 * PROMPT + 7 * COMPLETION) + 3 * (10 * PROMPT + 10 * COMPLETION)


@pytest.mark.parametrize("fault", Fault)
async def test_whichever_statement_fails_the_sums_are_right(
    fault: Fault, database: Database, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What is logged on the way is of no use in a hundred copies.
    caplog.set_level("CRITICAL")
    if fault is Fault.CUT and database_url.startswith("sqlite"):
        pytest.skip("a file has no connection that breaks")
    faults = Faults(database)
    for number in itertools.count():
        faults.fail(number, fault)
        name = f"account {number}"
        await story(database, name, tmp_path / "spools")
        happened = faults.happened
        faults.fail_at = None
        # The next start settles what the last end could not.
        await (await Mortal.start(database, tmp_path / "spools")).ends()
        account = await account_of(database, name)
        assert (account.balance, account.reserved) == (CREDIT - COST, 0), f"statement {number}"
        assert await Books(database).check() == []
        assert list((tmp_path / "spools").iterdir()) == []
        if not happened:
            break
    # Else nothing of the above was tried.
    assert number > 60


@pytest.mark.parametrize("servers", [1, 3])
async def test_500_at_once_share_a_balance_that_pays_for_100(
    servers: int, database: Database, database_url: str, tmp_path: Path
) -> None:
    price = await PriceList(database).find("m")
    assert price is not None
    await Books(database).credit("default", 100 * price.cost(10, 10))
    # Each has connections of its own, as processes have.
    databases = [database, *[await Database.open(database_url) for _ in range(servers - 1)]]
    started = [await Mortal.start(one, tmp_path / "spools") for one in databases]

    async def request(ledger: Ledger) -> bool:
        try:
            hold = await ledger.hold(DEFAULT, price, 10, 10)
        except InsufficientBalance:
            return False
        await ledger.settle(hold, 10, 10)
        return True

    served = await asyncio.gather(*(request(started[number % servers].ledger) for number in range(500)))
    assert sum(served) == 100
    account = await account_of(database, "default")
    assert (account.balance, account.reserved) == (0, 0)
    assert await Books(database).check() == []
    assert len(await Books(database).entries("default", 1000)) == 101
    for server in started:
        await server.ends()
    for one in databases[1:]:
        await one.close()
