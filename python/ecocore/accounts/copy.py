"""The whole of a database into another, empty one: how a backup is made, and how SQLite becomes PostgreSQL.

Takes two open databases. The rows are those of one moment, also while servers run.
"""

from typing import Any, Final

from sqlalchemy import Table, delete, exists, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ecocore.accounts.database import Database
from ecocore.accounts.schema import accounts, keys, ledger, metadata, prices
from ecocore.errors import InvalidConfiguration

ROWS_AT_ONCE: Final = 1000
# Numbered by the database itself, which has to go on where the rows end.
_NUMBERED: Final = (accounts, prices, ledger)


async def copy(source: Database, target: Database) -> dict[str, int]:
    """Copies every row, and tells how many of each table there were; all of them or none.

    Raises InvalidConfiguration if the target holds anything already; DatabaseUnavailable.
    """
    copied: dict[str, int] = {}
    async with source.reading(patient=True) as reading, target.writing(patient=True) as writing:
        if await writing.scalar(select(exists(select(keys.c.hash)) | exists(select(ledger.c.id)) | exists(select(prices.c.id)))):
            raise InvalidConfiguration("target: there are keys, prices or money in this database already; take an empty one")
        # What its making has put there.
        await writing.execute(delete(accounts))
        for table in metadata.sorted_tables:
            copied[table.name] = await _copy_table(table, reading, writing)
        if writing.dialect.name == "postgresql":
            for table in _NUMBERED:
                await _count_on(table, writing)
    return copied


async def _copy_table(table: Table, reading: AsyncConnection, writing: AsyncConnection) -> int:
    count = 0
    async with reading.stream(select(table)) as rows:
        async for batch in rows.mappings().partitions(ROWS_AT_ONCE):
            await writing.execute(insert(table), [dict(row) for row in batch])
            count += len(batch)
    return count


async def _count_on(table: Table, writing: AsyncConnection) -> None:
    last: Any = await writing.scalar(select(func.max(table.c.id)))
    if last is not None:
        sequence = {"name": table.name, "last": last}
        await writing.execute(text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)"), sequence)
