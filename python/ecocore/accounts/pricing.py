"""What models cost: the price in force now, by the model's name. Setting prices is `books`'."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, select

from ecocore.accounts.database import Database
from ecocore.accounts.money import cost
from ecocore.accounts.schema import prices

_IN_FORCE: Final = (
    select(prices.c.id, prices.c.model, prices.c.input, prices.c.output)
    .where(prices.c.model == bindparam("model"))
    .order_by(prices.c.id.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per million tokens. `id` is the version: a price is never changed, another takes its place."""

    id: int
    model: str
    input: int
    output: int

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Nano-dollars; prompt and completion are rounded up each for itself."""
        return cost(prompt_tokens, self.input) + cost(completion_tokens, self.output)


class PriceList:
    """The prices in a database. What changes there holds for the next request: nothing is remembered here."""

    def __init__(self, database: Database) -> None:
        """`database` stays its owner's to close."""
        self._database = database

    async def find(self, model: str) -> Price | None:
        """The price in force, None if there is none or it was taken away. Raises DatabaseUnavailable."""
        row = await self._database.look_up(_IN_FORCE, {"model": model})
        return None if row is None or row[2] is None else Price(*row)
