"""What an account used: sums of its ledger by day and model. Takes an account, gives rows; the ledger itself is `ledger`'s."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, func, select

from ecocore.accounts.database import Database
from ecocore.accounts.schema import ledger

DAY_SECONDS: Final = 24 * 60 * 60
# A year of a busy account takes a second, and anybody may ask as often as they like: the others wait their turn, and leave
# the connections of the database to those who pay.
AT_ONCE: Final = 2

_DAY: Final = (ledger.c.created // DAY_SECONDS).label("day")
_SUMS: Final = (
    select(
        _DAY,
        ledger.c.model,
        func.count(),
        func.sum(ledger.c.prompt_tokens),
        func.sum(ledger.c.completion_tokens),
        -func.sum(ledger.c.amount),
    )
    .where(
        ledger.c.account_id == bindparam("account"),
        ledger.c.kind == "usage",
        ledger.c.created >= bindparam("since"),
    )
    .group_by(_DAY, ledger.c.model)
    .order_by(_DAY, ledger.c.model)
)


@dataclass(frozen=True, slots=True)
class DayOfModel:
    """What one model was used on one day (UTC). `day`: days since 1970; `cost` in nano-dollars."""

    day: int
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


class Usage:
    """Reads the ledger for the owner of a key."""

    def __init__(self, database: Database) -> None:
        """`database` stays its owner's to close."""
        self._database = database
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def days(self, account_id: int, days: int) -> list[DayOfModel]:
        """The last `days` days, today included, the oldest first. Raises DatabaseUnavailable."""
        since = (int(time.time()) // DAY_SECONDS - days + 1) * DAY_SECONDS
        async with self._turns, self._database.reading() as connection:
            rows = (await connection.execute(_SUMS, {"account": account_id, "since": since})).all()
        return [DayOfModel(row[0], row[1], row[2], *(int(total) for total in row[3:])) for row in rows]
