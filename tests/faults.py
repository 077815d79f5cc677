"""What money survives, tried on real servers under load: kill -9, a locked file, a PostgreSQL or a Redis that goes away.

`make faults` runs all of it at length and prints a table; `tests/test_faults.py` runs each once or thrice.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import httpx
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.accounts.money_machine import Money, World
from tests.servers import Postgres, Redis

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyLimits, KeyStore
from ecocore.accounts.money import cost, parse_usd
from ecocore.weights.embedded import EMBEDDED_MODEL_ID

# The mock engine in the place of the embedded model, so that nothing is loaded.
MODEL: Final = EMBEDDED_MODEL_ID
INPUT, OUTPUT = parse_usd("0.05"), parse_usd("0.10")
CLIENTS: Final = 8
TOKENS_PER_SECOND: Final = 400
MAX_TOKENS: Final = 600
LOAD_SECONDS: Final = 1.5
NO_ANSWER: Final = 0


@dataclass
class Asked:
    """One request, as its client saw it. No two of a client want the same number of tokens."""

    max_tokens: int
    began: float
    status: int = NO_ANSWER
    code: str | None = None
    received: int = 0
    whole: bool = False
    """Its last byte came, which a server sends once it is billed."""
    over: float = 0.0


@dataclass
class Client:
    """An account with a key, and what was asked with it since its bills were last looked at."""

    account_id: int
    key: str
    asked: list[Asked] = field(default_factory=list)


@dataclass
class Shop:
    """A database with accounts that have money, and a place for a server."""

    home: Path
    url: str
    clients: list[Client]
    prompt_tokens: int | None = None
    last_row: int = 0

    @classmethod
    async def open(cls, home: Path, url: str | None = None, clients: int = CLIENTS, limits: KeyLimits | None = None) -> "Shop":
        url = url or f"sqlite:///{home / 'ecocore.db'}"
        database = await Database.open(url)
        books, keys = Books(database), KeyStore(database)
        await books.set_price(MODEL, INPUT, OUTPUT)
        for number in range(clients):
            await books.create_account(f"client {number}")
            await books.credit(f"client {number}", parse_usd("100"))
        known = {account.name: account.id for account in await books.accounts()}
        opened = [
            Client(known[name], await keys.create("load", name, limits=limits or KeyLimits()))
            for name in (f"client {number}" for number in range(clients))
        ]
        await database.close()
        return cls(home, url, opened)

    async def judge(self) -> "Verdict":
        """Compares the bills since the last time with what the clients saw. Nothing may be running."""
        database = await Database.open(self.url)
        try:
            assert await Books(database).check() == [], "balances are the sums of the ledger"
            async with database.reading() as connection:
                held = (await connection.exec_driver_sql("SELECT count(*) FROM holds")).scalar()
                used = "SELECT id, account_id, -amount, prompt_tokens, completion_tokens FROM ledger WHERE kind = 'usage'"
                rows: list[Any] = list(await connection.exec_driver_sql(f"{used} AND id > {self.last_row}"))
        finally:
            await database.close()
        assert held == 0, "no hold is left"
        self.last_row = max([self.last_row, *(row[0] for row in rows)])
        verdict = Verdict()
        for _, _, amount, prompt, completion in rows:
            assert amount == cost(prompt, INPUT) + cost(completion, OUTPUT)
            verdict.billed += amount
        for client in self.clients:
            bills = [(prompt, completion) for _, owner, _, prompt, completion in rows if owner == client.account_id]
            self._match(client.asked, bills, verdict)
            client.asked = []
        return verdict

    def _match(self, asked: Sequence[Asked], bills: list[tuple[int, int]], verdict: "Verdict") -> None:
        """Each whole answer has its bill; each other bill belongs to a request that asked for no less than it says."""
        for one in asked:
            verdict.requests += 1
            if one.whole:
                verdict.whole += 1
                bill = next((bill for bill in bills if bill[1] == one.max_tokens), None)
                assert bill is not None, f"a whole answer was not billed: {one}"
                self.prompt_tokens = self.prompt_tokens or bill[0]
                assert bill[0] == self.prompt_tokens
                bills.remove(bill)
        rest = sorted((one for one in asked if not one.whole), key=lambda one: one.max_tokens)
        for prompt, completion in sorted(bills, key=lambda bill: bill[1]):
            assert prompt == self.prompt_tokens or self.prompt_tokens is None
            owner = next((one for one in rest if one.max_tokens >= completion), None)
            assert owner is not None, "a bill that nobody asked for"
            rest.remove(owner)
            verdict.in_part += 1


@dataclass
class Verdict:
    """What was compared, and found right."""

    requests: int = 0
    whole: int = 0
    in_part: int = 0
    billed: int = 0

    def __iadd__(self, other: "Verdict") -> Self:
        for name in Verdict.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


class Served:
    """`ecocore serve --billing prepaid` as a process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, seconds: float, log: Any) -> None:
        """Use `start`."""
        self.process = process
        self.url = url
        self.start_seconds = seconds
        self._log = log

    @classmethod
    async def spawn(cls, shop: Shop, *flags: str) -> tuple[asyncio.subprocess.Process, Any]:
        """A process that may not answer yet, and the file of its log."""
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the server
        command = [
            sys.executable,
            "-P",
            "-m",
            "ecocore",
            "serve",
            "--port",
            "0",
            "--model",
            f"{MODEL}=mock",
            "--billing",
            "prepaid",
        ]
        command += ["--mock-rate", str(TOKENS_PER_SECOND), "--database", shop.url, *flags]
        environment = {**os.environ, "ECOCORE_HOME": str(shop.home)}
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=shop.home, stdout=asyncio.subprocess.PIPE, stderr=log
        )
        return process, log

    @classmethod
    async def start(cls, shop: Shop, *flags: str) -> "Served":
        """One that answers."""
        began = time.monotonic()
        process, log = await cls.spawn(shop, *flags)
        assert process.stdout is not None
        said = b""
        async for line in process.stdout:
            said += line
            if b"ecocore answers at" in line:
                url = line.split()[-1].decode().removesuffix("/v1")
                return cls(process, url, time.monotonic() - began, log)
        log.seek(0)
        raise AssertionError(said.decode() + log.read())

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()
        self._log.close()

    async def stop(self) -> str:
        """SIGTERM; gives the log."""
        self.process.terminate()
        await asyncio.wait_for(self.process.wait(), 60)
        assert self.process.returncode == 0
        self._log.seek(0)
        said = str(self._log.read())
        self._log.close()
        return said


class Load:
    """Clients that ask a server one thing after another, plain and streamed; some leave in the middle."""

    def __init__(self, shop: Shop, url: str, chance: random.Random, *, leaving: bool = True) -> None:
        self._url = url
        self._leaving = leaving
        self._tasks = [asyncio.create_task(self._ask_often(client, random.Random(chance.random()))) for client in shop.clients]
        self._shop = shop

    async def end(self) -> None:
        """No new requests; those that run may end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def asked(self) -> list[Asked]:
        """All of them, the latest to end last."""
        return sorted((one for client in self._shop.clients for one in client.asked), key=lambda one: one.over)

    def has_delivered(self) -> bool:
        """Whether some stream has begun."""
        return any(one.received for one in self.asked)

    async def _ask_often(self, client: Client, chance: random.Random) -> None:
        sizes = iter(chance.sample(range(1, MAX_TOKENS), MAX_TOKENS - 1))
        async with httpx.AsyncClient(base_url=self._url, headers={"authorization": f"Bearer {client.key}"}, timeout=60) as http:
            while True:
                one = Asked(next(sizes), time.monotonic())
                client.asked.append(one)
                leaves = self._leaving and chance.random() < 0.25
                patience = chance.uniform(0.01, 0.5) if leaves else 60.0
                try:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(patience):
                            await _ask(http, one, stream=chance.random() < 0.6)
                except httpx.TransportError:
                    return
                finally:
                    one.over = time.monotonic()
                if one.status not in {NO_ANSWER, 200}:
                    await asyncio.sleep(0.1)


async def _ask(http: httpx.AsyncClient, one: Asked, *, stream: bool) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "max_tokens": one.max_tokens,
        "stream": stream,
    }
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        one.status = response.status_code
        done = False
        if one.status != 200:
            one.code = (await _json(response))["error"]["code"]
        elif stream:
            async for line in response.aiter_lines():
                one.received += '"content":"' in line
                done = done or line == "data: [DONE]"
        else:
            assert (await _json(response))["usage"]["completion_tokens"] == one.max_tokens
            done = True
    one.whole = done


async def _json(response: httpx.Response) -> Any:
    await response.aread()
    return response.json()


# --- kill -9 ------------------------------------------------------------------------------------------------


@dataclass
class Kills:
    """What the loop saw."""

    kills: int = 0
    slowest_start: float = 0.0
    seen: Verdict = field(default_factory=Verdict)


async def kill_often(shop: Shop, kills: int, seed: int) -> Kills:
    """Starts, loads and kills a server, over and over; after each start the books are right."""
    chance = random.Random(seed)
    found = Kills()
    while True:
        if chance.random() < 0.1:
            # Also one that is just about to start.
            process, log = await Served.spawn(shop)
            await asyncio.sleep(chance.uniform(0.0, 2 * max(found.slowest_start, 1.0)))
            process.kill()
            await process.wait()
            log.close()
            found.kills += 1
        served = await Served.start(shop)
        found.slowest_start = max(found.slowest_start, served.start_seconds)
        found.seen += await shop.judge()
        if found.kills >= kills:
            await served.stop()
            return found
        load = Load(shop, served.url, chance)
        if chance.random() < 0.8:
            # Most have something in their hands.
            await _until(load.has_delivered, 20)
        await asyncio.sleep(chance.uniform(0.0, LOAD_SECONDS))
        await served.kill()
        await load.end()
        found.kills += 1


# --- databases that go away ---------------------------------------------------------------------------------


@dataclass
class Outage:
    """What clients saw of it."""

    statuses: dict[str, int]
    recovery: float
    """From the end of the outage to the first whole answer of a request that came after it."""
    slowest_refusal: float
    seen: Verdict


async def outage(shop: Shop, away: Callable[[], Awaitable[None]], back: Callable[[], Awaitable[None]], seconds: float) -> Outage:
    """Loads a server while its database goes away and comes back. Requests are answered or get a 503, and all is billed."""
    served = await Served.start(shop)
    load = Load(shop, served.url, random.Random(1), leaving=False)
    await _until(lambda: any(one.whole for one in load.asked), 20)
    await away()
    await asyncio.sleep(seconds)
    await back()
    returned = time.monotonic()
    await _until(lambda: any(one.whole and one.began > returned for one in load.asked), 30)
    recovery = min(one.over for one in load.asked if one.whole and one.began > returned) - returned
    # Some more of normal life, so that what is late may come.
    await asyncio.sleep(1.0)
    asked = load.asked
    await load.end()
    log = await served.stop()
    assert "Traceback" not in log, log
    statuses: dict[str, int] = {}
    for one in asked:
        assert one.status in {NO_ANSWER, 200} or (one.status, one.code) == (503, "ledger_unavailable"), one
        if one.status != NO_ANSWER:
            name = str(one.status) if one.code is None else f"{one.status} {one.code}"
            statuses[name] = statuses.get(name, 0) + 1
    refusals = [one.over - one.began for one in asked if one.code is not None]
    return Outage(statuses, recovery, max(refusals, default=0.0), await shop.judge())


@contextmanager
def locker(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, that takes SQLite's write lock when it is sent a line, and gives it back at the next."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "for statement in ('BEGIN IMMEDIATE', 'ROLLBACK'):\n"
        "    sys.stdin.readline()\n"
        "    connection.execute(statement)\n"
        "    print(flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def lock_sqlite(home: Path, seconds: float) -> Outage:
    """Another process holds the write lock."""
    shop = await Shop.open(home)
    with locker(home / "ecocore.db") as process:

        def turn() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()

        return await outage(shop, partial(asyncio.to_thread, turn), partial(asyncio.to_thread, turn), seconds)


async def stop_postgres(home: Path, postgres: Postgres, seconds: float, how: str) -> Outage:
    """`how`: "stop" and "start", "kill" and "start", or "pause" and "resume"."""
    shop = await Shop.open(home, postgres.url(postgres.create()))
    again = "resume" if how == "pause" else "start"
    return await outage(
        shop, partial(asyncio.to_thread, getattr(postgres, how)), partial(asyncio.to_thread, getattr(postgres, again)), seconds
    )


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


# --- a Redis that goes away ---------------------------------------------------------------------------------


@dataclass
class Uncounted:
    """What a key could use while the Redis that counts its limits was killed."""

    limit: int
    before: int
    after: int
    refused: int


async def kill_redis(home: Path, redis: Redis, limit: int = 60) -> Uncounted:
    """Traffic goes on, and no key gets more than twice its limit."""
    shop = await Shop.open(home, clients=1, limits=KeyLimits(requests_per_minute=limit))
    served = await Served.start(shop, "--redis", redis.url)
    [client] = shop.clients
    async with httpx.AsyncClient(base_url=served.url, headers={"authorization": f"Bearer {client.key}"}, timeout=60) as http:

        async def ask(times: int) -> list[int]:
            asked = [Asked(1 + number, time.monotonic()) for number in range(times)]
            await asyncio.gather(*(_ask(http, one, stream=False) for one in asked))
            return [one.status for one in asked]

        before = await ask(limit // 2)
        assert set(before) == {200}
        await asyncio.to_thread(redis.kill)
        after = [status for _ in range(3) for status in await ask(limit)]
    await asyncio.to_thread(redis.start)
    await served.stop()
    assert set(after) == {200, 429}, "traffic goes on"
    assert before.count(200) + after.count(200) <= 2 * limit
    return Uncounted(limit, before.count(200), after.count(200), after.count(429))


# --- all of it ----------------------------------------------------------------------------------------------


def live(url: str, folder: Path, lives: int) -> int:
    """Random lives of money, see `tests.accounts.money_machine`; gives how many there were."""
    world = World(url, folder / "spools")
    try:
        many = settings(max_examples=lives, stateful_step_count=20, deadline=None, database=None)
        run_state_machine_as_test(partial(Money, world), settings=many)  # type: ignore[arg-type]
        return world.lives
    finally:
        world.close()


def main() -> None:
    """Runs all of it and prints what was seen. Whatever is wrong ends it with an AssertionError."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills of a server on SQLite; a tenth as many on PostgreSQL")
    parser.add_argument("--lives", type=int, default=5000, help="random lives on SQLite; a tenth as many on PostgreSQL")
    parser.add_argument("--seed", type=int, default=1, help="other instants with another seed")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    postgres, redis = Postgres(), Redis()
    try:
        postgres.start()
        redis.start()
        for name, told in _all(asked, postgres, redis):
            print(f"{name:<44} {told}", flush=True)  # noqa: T201
    finally:
        postgres.close()
        redis.close()


def _all(asked: argparse.Namespace, postgres: Postgres, redis: Redis) -> Iterator[tuple[str, str]]:
    with _folder() as home:
        yield "kill -9, SQLite", _told_kills(asyncio.run(_kill(home, None, asked.kills, asked.seed)))
    with _folder() as home:
        url = postgres.url(postgres.create())
        yield "kill -9, PostgreSQL", _told_kills(asyncio.run(_kill(home, url, asked.kills // 10, asked.seed)))
    with _folder() as home:
        yield "SQLite locked for 10 s", _told_outage(asyncio.run(lock_sqlite(home, 10.0)))
    for how, seconds in (("stop", 5.0), ("kill", 5.0), ("pause", 12.0)):
        with _folder() as home:
            yield f"PostgreSQL, {how} for {seconds:g} s", _told_outage(asyncio.run(stop_postgres(home, postgres, seconds, how)))
    with _folder() as home:
        found = asyncio.run(kill_redis(home, redis))
        told = f"limit {found.limit} a minute: {found.before} served before, {found.after} after, then {found.refused} refused"
        yield "kill -9 of Redis", told
    # What is on a real disk is killed above; here nothing but our own steps matters.
    with _folder(Path("/dev/shm")) as home:
        yield "random lives, SQLite", f"{live(f'sqlite:///{home}/db', home, asked.lives)} lives, all books right"
    with _folder() as home:
        url = postgres.url(postgres.create())
        yield "random lives, PostgreSQL", f"{live(url, home, asked.lives // 10)} lives, all books right"


async def _kill(home: Path, url: str | None, kills: int, seed: int) -> Kills:
    return await kill_often(await Shop.open(home, url), kills, seed)


def _told_kills(found: Kills) -> str:
    seen = found.seen
    return (
        f"{found.kills} kills, {seen.requests} requests: {seen.whole} whole and billed, {seen.in_part} billed in part; "
        f"slowest start {found.slowest_start:.1f} s"
    )


def _told_outage(found: Outage) -> str:
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(found.statuses.items()))
    return f"{statuses}; slowest refusal {found.slowest_refusal:.1f} s; served again after {found.recovery:.2f} s"


@contextmanager
def _folder(parent: Path | None = None) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="ecocore-faults-", dir=parent if parent is not None and parent.is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
