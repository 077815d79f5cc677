"""What billing costs a request: `python -m benches.ledger`.

A pair is a hold and its settlement, each durable when it returns (SQLite: synchronous=FULL). Beside it, in turns in the same run,
the usual way: a transaction for each, one after another, through SQLAlchemy's asyncio engine. Both must leave the same sums. The
added latency is what a request waits for its hold. The goal: 1,000 pairs a second, 10 ms at the 99th percentile.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import delete, insert, update

from ecocore.accounts.books import Books
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import Database
from ecocore.accounts.ledger import Ledger
from ecocore.accounts.pricing import Price, PriceList
from ecocore.accounts.schema import accounts, holds, ledger

AT_ONCE: Final = (1, 8, 64, 256)
PAIRS: Final = 2000
ROUNDS: Final = 3
BALANCE: Final = 10**12
PROMPT_TOKENS: Final = 100
MAX_TOKENS: Final = 1000
USED_TOKENS: Final = 200

SIDES: Final = ("ours", "one by one")

Pair = Callable[[], Awaitable[float]]
"""Holds and settles, and gives the seconds that the hold took."""


async def measure(pair: Pair, count: int, at_once: int) -> tuple[float, list[float]]:
    """Pairs a second, and the latencies of their holds."""
    waits: list[float] = []
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            waits.append(await pair())  # noqa: PERF401  # all clients share the counter

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return count / (time.perf_counter() - begun), waits


async def ours(books: Ledger, price: Price) -> float:
    """As the server does it."""
    begun = time.perf_counter()
    hold = await books.hold(1, price, PROMPT_TOKENS, MAX_TOKENS)
    waited = time.perf_counter() - begun
    await books.settle(hold, PROMPT_TOKENS, USED_TOKENS)
    return waited


class OneByOne:
    """The same statements, each pair in two transactions of its own."""

    def __init__(self, database: Database, price: Price) -> None:
        self._database = database
        self._price = price
        self._numbers = iter(range(10**9))

    async def pair(self) -> float:
        """One pair."""
        request_id = f"one by one {next(self._numbers)}"
        held, cost = (self._price.cost(PROMPT_TOKENS, tokens) for tokens in (MAX_TOKENS, USED_TOKENS))
        begun = time.perf_counter()
        async with self._database.writing() as connection:
            enough = accounts.c.balance - accounts.c.reserved >= held
            await connection.execute(
                update(accounts).where(accounts.c.id == 1, enough).values(reserved=accounts.c.reserved + held)
            )
            row = {"request_id": request_id, "account_id": 1, "server_id": "bench", "amount": held, "model": "m"}
            await connection.execute(
                insert(holds), {**row, "price_id": self._price.id, "prompt_tokens": 0, "completion_tokens": 0, "created": 0}
            )
        waited = time.perf_counter() - begun
        async with self._database.writing() as connection:
            await connection.execute(delete(holds).where(holds.c.request_id == request_id))
            paid = {"balance": accounts.c.balance - cost, "reserved": accounts.c.reserved - held}
            await connection.execute(update(accounts).where(accounts.c.id == 1).values(**paid))
            entry = {"account_id": 1, "contra": "revenue", "kind": "usage", "amount": -cost, "request_id": request_id}
            used = {"model": "m", "price_id": self._price.id, "prompt_tokens": PROMPT_TOKENS, "completion_tokens": USED_TOKENS}
            await connection.execute(insert(ledger), {**entry, **used, "created": 0})
        return waited


async def compare(url: Callable[[], str], pairs: int, rounds: int, levels: Sequence[int]) -> list[str]:
    """A row for each level, once both sides left the same sums."""
    rows = []
    for at_once in levels:
        rates: dict[str, list[float]] = {name: [] for name in SIDES}
        waits: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(rounds):
            ends = set()
            for name in SIDES:
                count = pairs if name == "ours" else max(pairs // 10, at_once)
                rate, seconds, spent = await _round(url(), name, count, at_once)
                rates[name].append(rate)
                waits[name] += seconds
                ends.add(spent / count)
            if len(ends) != 1:
                raise SystemExit(f"the two sides charged differently: {ends}")
        rows.append(_row(at_once, rates, waits))
    return rows


async def _round(url: str, name: str, count: int, at_once: int) -> tuple[float, list[float], int]:
    database = await Database.open(url)
    books = Books(database)
    await books.set_price("m", 50_000_000, 100_000_000)
    before = (await books.credit("default", BALANCE)).balance
    price = await PriceList(database).find("m")
    assert price is not None
    async with Ledger.opened(database, GroupCommit(database), None) as opened:
        pair = OneByOne(database, price).pair if name == "one by one" else lambda: ours(opened, price)
        rate, waits = await measure(pair, count, at_once)
    [account] = await books.accounts()
    if wrong := await books.check():
        raise SystemExit(f"{name}: {wrong}")
    await database.close()
    return rate, waits, before - account.balance


def _row(at_once: int, rates: dict[str, list[float]], waits: dict[str, list[float]]) -> str:
    ours_rate, their_rate = (statistics.median(rates[name]) for name in rates)
    spread = f"{min(rates['ours']):,.0f} to {max(rates['ours']):,.0f}"
    latency = sorted(waits["ours"])
    middle, late = latency[len(latency) // 2], latency[min(len(latency) * 99 // 100, len(latency) - 1)]
    their_late = sorted(waits["one by one"])[len(waits["one by one"]) * 99 // 100 - 1]
    return (
        f"| {at_once} | {ours_rate:,.0f} ({spread}) | {their_rate:,.0f} | {ours_rate / their_rate:.1f}x "
        f"| {middle * 1e3:.1f} ms | {late * 1e3:.1f} ms | {their_late * 1e3:.1f} ms |"
    )


HEAD: Final = """\
| at once | pairs/s | one by one | ratio | hold, median | hold, p99 | one by one, p99 |
| --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benches.ledger", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="for each level and round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--database", help="a URL; unless given, new files of SQLite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**9))

        def url() -> str:
            return arguments.database or f"sqlite:///{Path(folder) / f'{next(numbers)}.db'}"

        rows = asyncio.run(compare(url, arguments.pairs, arguments.rounds, AT_ONCE))
    sys.stdout.write("\n".join([HEAD, *rows]) + "\n")


if __name__ == "__main__":
    main()
