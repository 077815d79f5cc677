"""What the operator does: accounts, credits, prices, and looking whether all sums are right.

Takes names and nano-dollars, gives frozen values. Money of answers is `ledger`'s.
"""

import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Select, func, insert, select, update

from ecocore.accounts.database import Database
from ecocore.accounts.money import MAX_NANOS, spell_usd
from ecocore.accounts.pricing import Price
from ecocore.accounts.schema import accounts, holds, ledger, prices
from ecocore.errors import InvalidConfiguration

MAX_NAME: Final = 128
MAX_MODEL: Final = 256
MAX_KEY: Final = 40
# The most that any account may have: nine sums of it fit into 64 bits.
MAX_BALANCE: Final = MAX_NANOS


@dataclass(frozen=True, slots=True)
class Account:
    """Amounts in nano-dollars, `created` in seconds since 1970. `balance` includes what is reserved."""

    id: int
    name: str
    created: int
    balance: int
    reserved: int

    @property
    def available(self) -> int:
        """What a new request may cost."""
        return self.balance - self.reserved


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger: `amount` was added to the account. Model and tokens are None for credits."""

    id: int
    kind: str
    amount: int
    request_id: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    created: int


_ACCOUNT: Final = select(accounts.c.id, accounts.c.name, accounts.c.created, accounts.c.balance, accounts.c.reserved)


class Books:
    """The accounts and prices in a database. Everything may raise DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        """`database` stays its owner's to close."""
        self._database = database

    async def create_account(self, name: str) -> None:
        """Makes an account with balance 0. Raises InvalidConfiguration for a name that is unusable or taken."""
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise InvalidConfiguration(f"account: the name must be a printable text of 1 to {MAX_NAME} characters")

        def create(connection: Connection) -> None:
            if connection.scalar(select(accounts.c.id).where(accounts.c.name == name)) is not None:
                raise InvalidConfiguration(f"account: there is one named {name!r} already")
            connection.execute(insert(accounts), {"name": name, "created": int(time.time())})

        await self._database.transact(create)

    async def credit(self, account: str, nanos: int, idempotency_key: str | None = None) -> Account:
        """Adds money to an account, or takes some back, and gives the account as it is then.

        The same `idempotency_key` with the same amount adds nothing a second time. Raises InvalidConfiguration for an unknown
        account, a key that was used otherwise, or an amount that the account cannot bear.
        """
        if nanos == 0 or abs(nanos) > MAX_NANOS:
            raise InvalidConfiguration("amount: must not be 0, and at most a billion dollars")
        if idempotency_key is not None and not 0 < len(idempotency_key) <= MAX_KEY:
            raise InvalidConfiguration(f"idempotency-key: must be a text of 1 to {MAX_KEY} characters")
        return await self._database.transact(partial(_credit, account, nanos, idempotency_key))

    async def accounts(self) -> list[Account]:
        """All of them, the oldest first."""
        async with self._database.reading() as connection:
            return [Account(*row) for row in await connection.execute(_ACCOUNT.order_by(accounts.c.id))]

    async def entries(self, account: str, limit: int = 100) -> list[Entry]:
        """The last rows of an account's ledger, the newest last. Raises InvalidConfiguration for an unknown account."""
        columns = [ledger.c[name] for name in Entry.__dataclass_fields__]
        async with self._database.reading() as connection:
            account_id = await connection.scalar(select(accounts.c.id).where(accounts.c.name == account))
            if account_id is None:
                raise _unknown(account)
            newest = select(*columns).where(ledger.c.account_id == account_id).order_by(ledger.c.id.desc()).limit(limit)
            return [Entry(*row) for row in reversed((await connection.execute(newest)).all())]

    async def check(self) -> list[str]:
        """What is wrong with the sums, as sentences; empty when all is well."""
        async with self._database.reading() as connection:
            return await connection.run_sync(_check)

    async def set_price(self, model: str, input_nanos: int, output_nanos: int) -> None:
        """What a million tokens cost from now on. Raises InvalidConfiguration."""
        if not model.strip() or len(model) > MAX_MODEL or not model.isprintable():
            raise InvalidConfiguration(f"model: the name must be a printable text of 1 to {MAX_MODEL} characters")
        for name, nanos in {"input": input_nanos, "output": output_nanos}.items():
            if not 0 <= nanos <= MAX_NANOS // 1000:
                raise InvalidConfiguration(f"{name}: must be from 0 to a million dollars per million tokens")
        row = {"model": model, "input": input_nanos, "output": output_nanos, "created": int(time.time())}
        await self._database.transact(lambda connection: connection.execute(insert(prices), row).rowcount)

    async def remove_price(self, model: str) -> None:
        """From now on the model has no price. Raises InvalidConfiguration if it has none already."""

        def remove(connection: Connection) -> None:
            newest = select(prices.c.input).where(prices.c.model == model).order_by(prices.c.id.desc()).limit(1)
            if connection.scalar(newest) is None:
                raise InvalidConfiguration(f"model: {model[:200]!r} has no price; see ecocore prices list")
            connection.execute(insert(prices), {"model": model, "created": int(time.time())})

        await self._database.transact(remove)

    async def prices(self) -> list[Price]:
        """The prices in force, by name."""
        newest = select(func.max(prices.c.id)).group_by(prices.c.model)
        query = select(prices.c.id, prices.c.model, prices.c.input, prices.c.output)
        query = query.where(prices.c.id.in_(newest), prices.c.input.is_not(None))
        async with self._database.reading() as connection:
            return [Price(*row) for row in await connection.execute(query.order_by(prices.c.model))]


def _credit(name: str, nanos: int, idempotency_key: str | None, connection: Connection) -> Account:
    found = connection.execute(_ACCOUNT.where(accounts.c.name == name).with_for_update()).one_or_none()
    if found is None:
        raise _unknown(name)
    account = Account(*found)
    request_id = secrets.token_hex(16) if idempotency_key is None else f"{account.id}:{idempotency_key}"
    posted = connection.scalar(select(ledger.c.amount).where(ledger.c.request_id == request_id, ledger.c.kind == "credit"))
    if posted is not None:
        if posted != nanos:
            raise InvalidConfiguration(
                f"idempotency-key: {idempotency_key!r} was used to credit {spell_usd(posted)}; use another for another amount"
            )
        return account
    if account.available + min(nanos, 0) < 0:
        raise InvalidConfiguration(f"amount: {name!r} has {spell_usd(account.available)} available, not {spell_usd(-nanos)}")
    if account.balance + nanos > MAX_BALANCE:
        raise InvalidConfiguration(f"amount: {name!r} would have more than a billion dollars")
    connection.execute(update(accounts).where(accounts.c.id == account.id).values(balance=accounts.c.balance + nanos))
    row = {
        "account_id": account.id,
        "contra": "funding",
        "kind": "credit",
        "amount": nanos,
        "request_id": request_id,
        "created": int(time.time()),
    }
    connection.execute(insert(ledger), row)
    return Account(*connection.execute(_ACCOUNT.where(accounts.c.id == account.id)).one())


def _unknown(account: str) -> InvalidConfiguration:
    return InvalidConfiguration(f"account: there is none named {account[:80]!r}")


def _check(connection: Connection) -> list[str]:
    entries = _sums(connection, select(ledger.c.account_id, func.sum(ledger.c.amount)).group_by(ledger.c.account_id))
    held = _sums(connection, select(holds.c.account_id, func.sum(holds.c.amount)).group_by(holds.c.account_id))
    wrong: list[str] = []
    for account in (Account(*row) for row in connection.execute(_ACCOUNT)):
        if account.balance != entries.get(account.id, 0):
            ledger_sum = spell_usd(entries.get(account.id, 0))
            wrong.append(f"{account.name}: the balance is {spell_usd(account.balance)}, its ledger's sum {ledger_sum}")
        if account.reserved != held.get(account.id, 0):
            holds_sum = spell_usd(held.get(account.id, 0))
            wrong.append(f"{account.name}: {spell_usd(account.reserved)} are reserved, its holds' sum is {holds_sum}")
        if not 0 <= account.reserved <= account.balance:
            wrong.append(f"{account.name}: {spell_usd(account.reserved)} are reserved of {spell_usd(account.balance)}")
    return wrong


def _sums(connection: Connection, query: Select[Any]) -> dict[int, int]:
    return {account_id: int(total) for account_id, total in connection.execute(query)}
