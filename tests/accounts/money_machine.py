"""Random lives of accounts, keys and servers, beside a model of what must be true of them after each step.

A server may die with work in its hands, and the database may be away. `python -m tests.faults` runs thousands of lives.
"""

import asyncio
import sqlite3
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.accounts.faults import Faults
from tests.accounts.mortal import Mortal

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.keys import KeyStore
from ecocore.accounts.ledger import DEAD_SECONDS, Hold, InsufficientBalance
from ecocore.accounts.money import affordable
from ecocore.accounts.pricing import Price, PriceList
from ecocore.errors import InvalidConfiguration

Result = TypeVar("Result")
Tokens = tuple[int, int]

SERVERS = 3
ACCOUNTS = 2


class Ask(NamedTuple):
    """One of a crowd: of which account, for how many tokens, what it is settled for if at all, whether it leaves."""

    number: int
    tokens: Tokens
    used: Tokens | None
    leaves: bool


some_tokens = st.tuples(st.integers(0, 20), st.integers(0, 80))
account_numbers = st.integers(0, ACCOUNTS - 1)
some_hold = st.integers(0, 999)
some_asks = st.builds(Ask, account_numbers, some_tokens, st.none() | some_tokens, st.booleans())


class World:
    """A database that many lives share one after another; each has accounts of its own, so none sees the others."""

    def __init__(self, url: str, spools: Path) -> None:
        self.runner = asyncio.Runner()
        self.spools = spools
        self.lives = 0
        self.database = self.run(Database.open(url))
        # Beside all that is tested, and without the threads of aiosqlite.
        self.observer: sqlite3.Connection | Database
        if url.startswith("sqlite"):
            self.observer = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        else:
            self.observer = self.run(Database.open(url))
        self.faults = Faults(self.database)
        # A token of a prompt costs 1000 nano-dollars, one of an answer 2000.
        self.run(Books(self.database).set_price("m", 10**9, 2 * 10**9))
        found = self.run(PriceList(self.database).find("m"))
        assert found is not None
        self.price: Price = found

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def see(self, queries: Sequence[str]) -> list[list[Any]]:
        """The rows of each, all of one state."""
        if isinstance(self.observer, Database):
            return self.run(_see(self.observer, queries))
        self.observer.execute("BEGIN")
        rows = [self.observer.execute(query).fetchall() for query in queries]
        self.observer.execute("COMMIT")
        return rows

    def close(self) -> None:
        self.run(self.database.close())
        if isinstance(self.observer, Database):
            self.run(self.observer.close())
        else:
            self.observer.close()
        self.runner.close()


async def _see(database: Database, queries: Sequence[str]) -> list[list[Any]]:
    async with database.reading() as connection:
        return [list(await connection.exec_driver_sql(query)) for query in queries]


@dataclass
class Held:
    """A hold that a server was told it has."""

    hold: Hold
    server: Mortal
    marks: list[Tokens] = field(default_factory=lambda: [(0, 0)])
    """The last that is on disk for certain, and those since."""
    due: Tokens | None = None
    """What it was settled for."""
    taken: int | None = None
    """What was found in the ledger once it had ended; never anything else afterwards."""

    def cost(self, tokens: Tokens) -> int:
        return min(self.hold.price.cost(*tokens), self.hold.amount)


@dataclass
class Truth:
    """What the tables say of this life's accounts."""

    accounts: dict[int, tuple[int, int]]
    holds: dict[str, tuple[int, int, str]]
    usage: dict[str, int]
    credited: dict[int, list[int]]

    def available(self, account_id: int) -> int:
        balance, reserved = self.accounts[account_id]
        return balance - reserved


class Money(RuleBasedStateMachine):
    """One life."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.lives += 1
        # A life that failed has left what it had.
        world.faults.away = False
        world.run(Mortal.all_die())
        for spool in world.spools.glob("*"):
            spool.unlink()
        self.books = Books(world.database)
        self.keys = KeyStore(world.database)
        self.names = [f"life {world.lives}, {number}" for number in range(ACCOUNTS)]
        for name in self.names:
            self.run(self.books.create_account(name))
        known = {account.name: account.id for account in self.run(self.books.accounts())}
        self.ids = [known[name] for name in self.names]
        self.servers: list[Mortal] = []
        self.dead: set[str] = set()
        """Ids of servers whose holds nobody has settled yet."""
        self.held: list[Held] = []
        self.credits: dict[int, list[int]] = {account: [] for account in self.ids}
        self.credited: dict[tuple[int, str], int] = {}
        self.own_keys: list[tuple[str, int, bool]] = []
        self.now = 0.0

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.world.run(work)

    @property
    def away(self) -> bool:
        return self.world.faults.away

    # --- money and keys ---------------------------------------------------------------------------------

    @rule(number=account_numbers, nanos=st.integers(-300_000, 500_000).filter(bool), key=st.sampled_from([None, "a", "b"]))
    def credit(self, number: int, nanos: int, key: str | None) -> None:
        account = self.ids[number]
        before = self.truth()
        first = None if key is None else self.credited.get((account, key))
        try:
            told = self.run(self.books.credit(self.names[number], nanos, key))
        except DatabaseUnavailable:
            assert self.away
        except InvalidConfiguration:
            # Late settlements may have been posted meanwhile, which only adds to what is available.
            assert (first is not None and first != nanos) or before.available(account) + nanos < 0
        else:
            assert not self.away
            assert first in {None, nanos}
            if first is None:
                self.credits[account].append(nanos)
                assert told.available >= 0
                if key is not None:
                    self.credited[account, key] = nanos

    @precondition(lambda self: not self.away)
    @rule(number=account_numbers)
    def make_key(self, number: int) -> None:
        self.own_keys.append((self.run(self.keys.create("a key", self.names[number])), number, True))

    @precondition(lambda self: any(good for _, _, good in self.own_keys) and not self.away)
    @rule(data=st.data(), rotated=st.booleans())
    def end_a_key(self, data: st.DataObject, *, rotated: bool) -> None:
        index = data.draw(st.sampled_from([index for index, (_, _, good) in enumerate(self.own_keys) if good]))
        key, number, _ = self.own_keys[index]
        self.own_keys[index] = (key, number, False)
        if rotated:
            self.own_keys.append((self.run(self.keys.rotate(key)), number, True))
        else:
            self.run(self.keys.revoke(key))

    @precondition(lambda self: self.own_keys and not self.away)
    @rule()
    def use_keys(self) -> None:
        for key, number, good in self.own_keys:
            owner = self.run(self.keys.find(key))
            assert (owner is not None) is good
            assert owner is None or (owner.account_id, owner.account) == (self.ids[number], self.names[number])

    # --- answers ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.living())
    @rule(data=st.data(), number=account_numbers, tokens=some_tokens)
    def hold(self, data: st.DataObject, number: int, tokens: Tokens) -> None:
        server = data.draw(st.sampled_from(self.living()))
        before = self.truth()
        settled = all(held.taken is not None for held in self.held if held.due is not None)
        account, amount = self.ids[number], self.world.price.cost(*tokens)
        try:
            self.held.append(Held(self.run(server.ledger.hold(account, self.world.price, *tokens)), server))
        except DatabaseUnavailable:
            assert self.away
        except InsufficientBalance as refused:
            self.judge_refusal(refused, amount, tokens[0], before.available(account) if settled else None)
        else:
            assert not self.away
            assert self.held[-1].hold.amount == amount
            assert not settled or before.available(account) >= amount
        self.run(_quiet(server))

    def judge_refusal(self, refused: InsufficientBalance, needed: int, prompt_tokens: int, available: int | None) -> None:
        assert refused.needed == needed > refused.available
        if available is not None:
            assert refused.available == available
        rest = refused.available - self.world.price.cost(prompt_tokens, 0)
        assert refused.affordable == (affordable(rest, self.world.price.output) if rest > 0 else None)

    @rule(one=some_hold, more=some_tokens, flush=st.booleans())
    def deliver(self, one: int, more: Tokens, *, flush: bool) -> None:
        if (held := self.open(one)) is None:
            return
        prompt, completion = held.marks[-1]
        tokens = (max(prompt, more[0]), completion + more[1])

        async def mark() -> None:
            held.server.ledger.mark(held.hold, *tokens)
            if flush:
                await held.server.ledger._write_marks()

        self.run(mark())
        held.marks.append(tokens)
        if flush and not self.away:
            for other in self.all_open():
                if other.server is held.server:
                    del other.marks[:-1]

    @rule(one=some_hold, tokens=some_tokens, again=st.booleans())
    def settle(self, one: int, tokens: Tokens, *, again: bool) -> None:
        if (held := self.open(one)) is None:
            return
        held.due = tokens
        self.run(held.server.ledger.settle(held.hold, *tokens))
        if again:
            self.run(held.server.ledger.settle(held.hold, 20, 80))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), asks=st.lists(some_asks, min_size=2, max_size=8), dies=st.booleans(), turns=st.integers(0, 30))
    def crowd(self, data: st.DataObject, asks: list[Ask], *, dies: bool, turns: int) -> None:
        """Many ask one server at once; some leave, and it may die meanwhile."""
        server = data.draw(st.sampled_from(self.living()))

        async def all_ask() -> None:
            tasks = [asyncio.create_task(self.ask(server, ask)) for ask in asks]
            for _ in range(turns):
                await asyncio.sleep(0)
            if dies:
                await server.dies()
            for task, ask in zip(tasks, asks, strict=True):
                if ask.leaves or dies:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _quiet(server)

        self.run(all_ask())
        if dies:
            self.gone(server)

    async def ask(self, server: Mortal, ask: Ask) -> None:
        try:
            held = Held(await server.ledger.hold(self.ids[ask.number], self.world.price, *ask.tokens), server)
        except (InsufficientBalance, DatabaseUnavailable):
            return
        self.held.append(held)
        if ask.used is not None:
            held.due = ask.used
            await server.ledger.settle(held.hold, *ask.used)

    # --- servers and the database -----------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.start()
        for number in range(ACCOUNTS):
            self.credit(number, 10**6, None)

    @precondition(lambda self: len(self.living()) < SERVERS)
    @rule()
    def start(self) -> None:
        try:
            self.servers.append(self.run(Mortal.start(self.world.database, self.world.spools)))
        except DatabaseUnavailable:
            assert self.away
        else:
            assert not (self.away and self.dead), "it settles for the dead before it takes anything"
            self.dead.clear()

    @precondition(lambda self: self.living())
    @rule(data=st.data(), well=st.booleans())
    def end(self, data: st.DataObject, *, well: bool) -> None:
        server = data.draw(st.sampled_from(self.living()))
        self.run(server.ends() if well else server.dies())
        self.gone(server)
        if well and not self.away:
            self.dead.discard(server.ledger.server_id)

    def gone(self, server: Mortal) -> None:
        self.servers.remove(server)
        self.dead.add(server.ledger.server_id)

    @precondition(lambda self: self.living() and not self.away)
    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        """The living give signs of life, and one of them settles for the others."""
        server = data.draw(st.sampled_from(self.living()))
        self.run(server.ledger.watch(self.now))
        for living in self.living():
            self.run(living._commit.run(living.ledger._beat))
        self.now += DEAD_SECONDS
        self.run(server.ledger.watch(self.now))
        self.run(server.ledger._give_back())
        self.dead.clear()

    @rule()
    def goes_away(self) -> None:
        self.world.faults.away = True

    @rule()
    def comes_back(self) -> None:
        self.world.faults.away = False
        for server in self.living():
            self.run(server.ledger._retry())

    # --- what must be true ------------------------------------------------------------------------------

    @invariant()
    def books_and_model_agree(self) -> None:
        truth = self.truth()
        for account, (balance, reserved) in truth.accounts.items():
            known = [held for held in self.held if held.hold.account_id == account]
            used = sum(truth.usage.get(held.hold.request_id, 0) for held in known)
            assert balance == sum(self.credits[account]) - used, "the balance is the sum of the ledger"
            assert reserved == sum(amount for owner, amount, _ in truth.holds.values() if owner == account)
            assert 0 <= reserved <= balance
            assert truth.credited[account] == sorted(self.credits[account])
        for held in self.held:
            self.judge(held, truth)
        known_ids = {held.hold.request_id for held in self.held}
        assert truth.usage.keys() <= known_ids, "nothing was delivered"
        for request_id in truth.holds.keys() - known_ids:
            assert truth.holds[request_id][2] in self.dead, "a hold that nobody knows of"

    def judge(self, held: Held, truth: Truth) -> None:
        request_id = held.hold.request_id
        if request_id in truth.holds:
            assert request_id not in truth.usage
            assert held.taken is None, "it had ended"
            if held.due is not None:
                assert self.away or held.server.ledger.server_id in self.dead, "it is settled by now"
            else:
                assert held.server in self.living() or held.server.ledger.server_id in self.dead, "its server was settled for"
            return
        taken = truth.usage.get(request_id, 0)
        if held.taken is None:
            possible = {held.cost(tokens) for tokens in held.marks}
            if held.server in self.living():
                assert held.due is not None, "its server lives and has not settled it"
            if held.due is not None:
                possible = {held.cost(held.due)} if held.server in self.living() else {*possible, held.cost(held.due)}
            assert taken in possible
            held.taken = taken
        assert taken == held.taken, "it was billed once"

    def teardown(self) -> None:
        """In the end all is settled."""
        self.comes_back()
        while self.servers:
            self.run(self.servers.pop().ends())
        self.run(self.run(Mortal.start(self.world.database, self.world.spools)).ends())
        self.dead.clear()
        self.books_and_model_agree()
        assert self.truth().holds == {}
        assert list(self.world.spools.glob("*.jsonl")) == []
        assert self.run(self.books.check()) == []

    # --- helpers ----------------------------------------------------------------------------------------

    def living(self) -> list[Mortal]:
        return self.servers

    def open(self, number: int) -> Held | None:
        """One of `all_open`."""
        found = self.all_open()
        return found[number % len(found)] if found else None

    def all_open(self) -> list[Held]:
        """Holds that a living server has not settled. How many a crowd leaves is the moment's, so nothing is drawn by it."""
        return [held for held in self.held if held.due is None and held.server in self.living()]

    def truth(self) -> Truth:
        own = ", ".join(map(str, self.ids))
        accounts, holds, used, credited = self.world.see(
            [
                f"SELECT id, balance, reserved FROM accounts WHERE id IN ({own})",
                f"SELECT request_id, account_id, amount, server_id FROM holds WHERE account_id IN ({own})",
                f"SELECT request_id, -amount FROM ledger WHERE kind = 'usage' AND account_id IN ({own})",
                f"SELECT account_id, amount FROM ledger WHERE kind = 'credit' AND account_id IN ({own})",
            ]
        )
        return Truth(
            {account: (balance, reserved) for account, balance, reserved in accounts},
            {request_id: tuple(rest) for request_id, *rest in holds},
            dict(map(tuple, used)),
            {account: sorted(amount for owner, amount in credited if owner == account) for account in self.ids},
        )


async def _quiet(server: Mortal) -> None:
    """Nothing that was begun is on its way any more."""
    while server.ledger._settling:
        await asyncio.gather(*server.ledger._settling, return_exceptions=True)
