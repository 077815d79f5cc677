"""The operator's books: prices that are set, replaced and taken away. Money of accounts is proved in test_ledger."""

import pytest
from sqlalchemy import func, insert, select

from ecocore.accounts.books import Books
from ecocore.accounts.database import BrokenConstraint, Database
from ecocore.accounts.pricing import Price, PriceList
from ecocore.accounts.schema import prices
from ecocore.errors import InvalidConfiguration


async def test_a_price_that_was_taken_away_is_none_until_it_is_set_again(database: Database) -> None:
    books, listed = Books(database), PriceList(database)
    await books.set_price("m", 1, 2)
    await books.set_price("n", 0, 0)
    await books.remove_price("m")
    assert await listed.find("m") is None
    assert await books.prices() == [Price(2, "n", 0, 0)]
    await books.set_price("m", 3, 4)
    assert await listed.find("m") == Price(4, "m", 3, 4)
    # What an answer was charged by is still there.
    async with database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(prices)) == 4


@pytest.mark.parametrize("removed", [False, True])
async def test_a_price_that_is_not_there_cannot_be_taken_away(database: Database, removed: bool) -> None:  # noqa: FBT001
    books = Books(database)
    if removed:
        await books.set_price("m", 1, 2)
        await books.remove_price("m")
    with pytest.raises(InvalidConfiguration, match="model: 'm' has no price; see ecocore prices list"):
        await books.remove_price("m")


@pytest.mark.parametrize("values", [(1, None), (None, 1), (-1, 0), (0, -1)])
async def test_the_database_takes_no_half_and_no_negative_price(
    database: Database, values: tuple[int | None, int | None]
) -> None:
    row = {"model": "m", "input": values[0], "output": values[1], "created": 0}
    with pytest.raises(BrokenConstraint):
        await database.transact(lambda connection: connection.execute(insert(prices), row).rowcount)


@pytest.mark.parametrize(("values", "named"), [((-1, 0), "input"), ((0, -1), "output"), ((0, 10**16), "output")])
async def test_the_price_that_is_wrong_is_named(database: Database, values: tuple[int, int], named: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"^{named}: must be from 0 to a million dollars"):
        await Books(database).set_price("m", *values)
