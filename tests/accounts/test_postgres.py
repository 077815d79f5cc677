"""PostgreSQL that comes and goes: what is told meanwhile, and how soon it is forgotten. What holds on both is in the others."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, event, func, select, text
from tests.servers import PASSWORD, Postgres

from ecocore.accounts import postgres as postgres_module
from ecocore.accounts.database import BrokenConstraint, Database, DatabaseUnavailable
from ecocore.accounts.keys import KeyStore
from ecocore.accounts.schema import accounts
from ecocore.errors import InvalidConfiguration

pytestmark = pytest.mark.postgres

QUERY = select(accounts.c.id).where(accounts.c.name == bindparam("name"))
RECOVERY_SECONDS = 5.0


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    """It may be stopped: afterwards it runs."""
    yield postgres
    postgres.stop()
    postgres.start()


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


async def answers(database: Database) -> bool:
    """Whether it reads, looks up and writes; else it is unavailable each time."""
    failures: list[str] = []
    for ask in (KeyStore(database).is_empty(), database.look_up(QUERY, {"name": "default"}), KeyStore(database).create("a")):
        try:
            await ask
        except DatabaseUnavailable as error:
            failures.append(str(error))
    assert len(failures) in {0, 3}
    for secret in (PASSWORD, "127.0.0.1"):
        assert secret not in "".join(failures)
    return not failures


async def crowd(database: Database) -> list[bool]:
    """More than there are connections ask at once."""
    return list(await asyncio.gather(*(answers(database) for _ in range(2 * postgres_module.CONNECTIONS))))


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_server_that_was_gone_is_used_as_soon_as_it_is_back(how: str, server: Postgres, database: Database) -> None:
    assert all(await crowd(database))
    getattr(server, how)()
    assert not any(await crowd(database))
    server.start()
    began = time.monotonic()
    assert all(await crowd(database))
    assert time.monotonic() - began < RECOVERY_SECONDS


async def test_nobody_notices_a_restart_between_requests(server: Postgres, database: Database) -> None:
    assert all(await crowd(database))
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    assert all(await crowd(database))


async def test_a_server_that_hangs_is_given_up(server: Postgres, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(postgres_module, "CONNECT_SECONDS", 0.3)
    assert await answers(database)
    server.pause()
    began = time.monotonic()
    assert not await answers(database)
    assert time.monotonic() - began < RECOVERY_SECONDS
    server.resume()
    began = time.monotonic()
    assert await answers(database)
    assert time.monotonic() - began < RECOVERY_SECONDS


async def test_a_long_transaction_is_not_given_up_while_the_server_answers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "ANSWER_SECONDS", 1.5)
    async with database.writing() as connection:
        for _ in range(6):
            await connection.execute(text("SELECT pg_sleep(0.3)"))
    with pytest.raises(DatabaseUnavailable, match=r"InterfaceError|ConnectionDoesNotExist"):
        async with database.writing() as connection:
            await connection.execute(text("SELECT pg_sleep(4)"))


async def test_a_busy_event_loop_is_no_silence_of_the_server(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "ANSWER_SECONDS", 1.2)
    async with database.writing() as connection:
        asking = asyncio.create_task(connection.scalar(text("SELECT 1")))
        await asyncio.sleep(0)
        busy_until = time.monotonic() + 1.3
        while time.monotonic() < busy_until:
            pass
        assert await asking == 1
        assert await connection.scalar(text("SELECT 2")) == 2


class ByHand:
    """A loop of which there are only timers, and time is what the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = (self.now + delay, callback)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def wait_until(self, then: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= then]:
            timer = min(due, key=itemgetter(0))
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = then


def test_a_silence_is_whole_after_each_answer() -> None:
    """A statement that PostgreSQL itself ends after five seconds is not cut off before."""
    loop: Any = ByHand()
    given_up: list[float] = []
    silence = postgres_module._Silence(6.0, lambda: given_up.append(loop.now), loop)
    for answer in (0.9, 5.0, 10.95):
        loop.wait_until(answer)
        silence.restart()
    loop.wait_until(30.0)
    assert given_up == [pytest.approx(16.95)]


async def test_who_waits_for_a_connection_to_ask_the_same_asks_it_once(database: Database) -> None:
    asked: list[str] = []
    event.listen(database._engine.sync_engine, "after_cursor_execute", lambda *said: asked.append(said[2]))
    async with AsyncExitStack() as held:
        for _ in range(postgres_module.CONNECTIONS):
            await held.enter_async_context(database.writing())
        crowd = [asyncio.create_task(database.look_up(QUERY, {"name": name})) for name in ["default", "nobody"] * 100]
        await asyncio.sleep(0)
        # The first of each question leaves. The others have their answer all the same.
        for first in crowd[:2]:
            first.cancel()
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[:2])
    assert outcomes[2:] == [(1,), None] * 99
    assert sum(said.startswith("SELECT accounts.id") for said in asked) == 2


async def test_who_asks_again_sees_what_was_written_meanwhile(database: Database) -> None:
    slow = select(select(func.count()).select_from(accounts).scalar_subquery(), func.pg_sleep(0.5))
    sent = asyncio.Event()
    event.listen(database._engine.sync_engine, "before_cursor_execute", lambda *_: sent.set())
    first = asyncio.create_task(database.look_up(slow, {}))
    await sent.wait()
    await database.transact(lambda connection: connection.execute(accounts.insert().values(id=2, name="new", created=0)))
    second = await database.look_up(slow, {})
    assert second is not None
    assert second[0] == 2
    await first


async def test_nobody_minds_a_lookup_that_fails_when_all_have_left(database: Database) -> None:
    bad = select(bindparam("wanted") / 0)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await database.look_up(bad, {"wanted": 1})
    # To gather them would be to ask how they ended.
    await asyncio.wait([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])
    gc.collect()
    assert complaints == []


async def test_a_lookup_that_failed_is_asked_anew(server: Postgres, database: Database) -> None:
    server.stop()
    for _ in range(2):
        failures = await asyncio.gather(
            *(database.look_up(QUERY, {"name": "default"}) for _ in range(100)), return_exceptions=True
        )
        assert all(isinstance(failure, DatabaseUnavailable) for failure in failures)
    server.start()
    assert await database.look_up(QUERY, {"name": "default"}) == (1,)


async def test_a_statement_that_waits_too_long_ends(database: Database) -> None:
    async def lock() -> None:
        async with database.writing() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await connection.execute(text("LOCK accounts"))

    async with database.writing() as connection:
        await connection.execute(text("LOCK accounts"))
        with pytest.raises(DatabaseUnavailable, match="statement timeout"):
            await lock()
    await lock()


async def test_a_server_that_may_only_read_any_more_is_left_for_its_successor(
    postgres: Postgres, postgres_url: str, database: Database
) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.ask(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await database._engine.dispose()
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await KeyStore(database).create("a")
    postgres.ask(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    assert await answers(database)


async def test_who_gives_way_to_another_transaction_tries_again(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(accounts.insert().values(id=2, name="other", created=0))

    def both(first: int, second: int) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            for account in (first, second):
                connection.execute(text("UPDATE accounts SET created = created + 1 WHERE id = :id"), {"id": account})
                connection.execute(text("SELECT pg_sleep(0.1)"))

        return work

    await asyncio.gather(database.transact(both(1, 2)), database.transact(both(2, 1)))
    async with database.reading() as connection:
        assert await connection.scalar(select(accounts.c.created).where(accounts.c.id == 2)) == 2


async def test_settings_are_those_of_short_transactions(database: Database) -> None:
    async with database.reading() as connection:
        for name, value in {
            "statement_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
            "transaction_isolation": "repeatable read",
            "transaction_read_only": "on",
        }.items():
            assert await connection.scalar(select(func.current_setting(name))) == value


async def test_a_migration_waits_for_another_as_long_as_it_takes(
    postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_module._SETTINGS, "statement_timeout", "100ms")
    monkeypatch.setattr(postgres_module, "ANSWER_SECONDS", 0.2)
    other = postgres_module.postgres_engine(database_url)
    async with other.connect() as connection, connection.begin():
        await connection.run_sync(postgres_module.take_turns)
        opening = asyncio.create_task(Database.open(database_url))
        done, _ = await asyncio.wait({opening}, timeout=0.5)
        assert not done
    await (await opening).close()
    await other.dispose()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url.replace(PASSWORD, "wrong"), "password authentication failed"),
        (lambda url: f"{url}_no", "does not exist"),
        (lambda url: url.replace("127.0.0.1", "host.invalid"), "does not answer"),
        (lambda url: f"{url}?sslmode=require", "does not answer"),
    ],
)
async def test_what_cannot_be_reached_says_why_and_no_secret(change: object, told: str, postgres_url: str) -> None:
    assert callable(change)
    with pytest.raises(DatabaseUnavailable, match=told) as raised:
        await Database.open(change(postgres_url))
    for secret in (PASSWORD, "127.0.0.1", "host.invalid"):
        assert secret not in str(raised.value)


async def test_a_url_with_a_wrong_option_is_refused_in_words(postgres_url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="sslmode"):
        await Database.open(f"{postgres_url}?sslmode=perhaps")


async def test_a_constraint_is_named_and_the_row_is_not(database: Database) -> None:
    with pytest.raises(BrokenConstraint, match="accounts_name_key") as raised:
        await database.transact(lambda connection: connection.execute(accounts.insert(), {"name": "default", "created": 0}))
    for part in ("default", "INSERT", "DETAIL"):
        assert part not in str(raised.value)


async def test_errors_hold_no_statement_and_no_value(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as raised:
        async with database.writing() as connection:
            await connection.execute(text("SELECT CAST(:value AS integer)"), {"value": "secret"})
    for part in ("secret", "SELECT", "sqlalche.me"):
        assert part not in str(raised.value)
