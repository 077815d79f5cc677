"""The database: opened with its durability settled, brought to today's tables, and asked in short transactions.

Takes a URL, gives connections to `keys`. Which rows mean what is not its matter.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Select, create_engine, event, make_url
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ecocore.accounts import postgres
from ecocore.errors import EcocoreError, InternalError, InvalidConfiguration

Result = TypeVar("Result")

BUSY_SECONDS: Final = 5
COLLISIONS: Final = 5
WAL_PAUSE_SECONDS: Final = 0.01
_ASYNC_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite"}


class DatabaseUnavailable(EcocoreError):
    """The database does not answer: locked, full, read-only or gone. What was asked did not happen."""


class Collided(DatabaseUnavailable):
    """Two transactions waited for each other, and this one gave way. Asked again, it may pass."""


class BrokenConstraint(InternalError):
    """The database refused what would break one of its rules. What was asked did not happen."""


class Database:
    """An open database. Reading never waits for a writer; writers queue for up to five seconds."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use `Database.open`."""
        self._engine = engine
        self._is_postgres = engine.dialect.name == "postgresql"
        self._reader = self._finder = engine
        if self._is_postgres:
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # One statement needs no transaction around it: one round trip in the place of three.
            self._finder = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._direct: sqlite3.Connection | None = None
        self._spelled: dict[Select[Any], str] = {}
        self._queued: dict[tuple[Any, ...], asyncio.Task[Sequence[Any] | None]] = {}
        """What `look_up` has no connection for yet: each a query and its values."""
        self._writer: _Writer | None = None

    @classmethod
    async def open(cls, url: str, *, must_exist: bool = False) -> Self:
        """Opens the database and makes or migrates its tables; a new SQLite file is its owner's alone.

        `must_exist`: makes no file, for what makes no sense in an empty one. Raises InvalidConfiguration for a URL that cannot
        be used here, DatabaseUnavailable.
        """
        database = cls(_engine(url, must_exist=must_exist))
        try:
            await database._migrate()
            if _is_file(database._engine):
                database._direct = _direct(database._engine)
                database._writer = _Writer(database._engine)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def is_shared(self) -> bool:
        """Whether servers on other machines may use it too."""
        return self._is_postgres

    @asynccontextmanager
    async def reading(self, *, patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state; a `patient` one may take long. Raises DatabaseUnavailable."""
        async with self._connected(self._reader, patient=patient) as connection:
            yield connection

    async def look_up(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any] | None:
        """The one row that an index finds, or None. `query` is a constant of its module. Raises DatabaseUnavailable.

        For what every request asks. A connection of the pool lives on a thread of its own, and asking it takes ten
        turns between that thread and the event loop: milliseconds where the engine is busy. SQLite itself finds a row in
        microseconds, without waiting for writers, so it is asked right here; and again in the long way if it could not.

        While all connections are in use, who asks the same waits for the same answer, and gives up with who asked first:
        hundreds of requests with one key ask for it once.
        """
        if self._direct is not None:
            with suppress(sqlite3.Error):
                row: Sequence[Any] | None = self._direct.execute(self._spelling(query), values).fetchone()
                return row
        question = (query, *values.values())
        if (asking := self._queued.get(question)) is None:
            asking = self._queued[question] = asyncio.create_task(self._find(question, values))
            asking.add_done_callback(partial(self._forget, question))
        return await asyncio.shield(asking)

    async def _find(self, question: tuple[Any, ...], values: Mapping[str, Any]) -> Sequence[Any] | None:
        async with self._connected(self._finder) as connection:
            # From now on others may write what this will not see: who comes later asks anew.
            del self._queued[question]
            return (await connection.execute(question[0], values)).one_or_none()

    def _forget(self, question: tuple[Any, ...], asking: asyncio.Task[Any]) -> None:
        if self._queued.get(question) is asking:
            del self._queued[question]
        if not asking.cancelled():
            # Whoever wanted to know may have left.
            asking.exception()

    def _spelling(self, query: Select[Any]) -> str:
        if (text := self._spelled.get(query)) is None:
            text = self._spelled[query] = str(query.compile(dialect=SQLiteDialect(paramstyle="named")))
        return text

    @asynccontextmanager
    async def writing(self, *, patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that is on disk when the block ends; a `patient` one may take long. Raises DatabaseUnavailable.

        On SQLite it waits for the write lock first; PostgreSQL locks the rows that are written, as they are written.
        """
        async with self._connected(self._engine, patient=patient) as connection:
            await connection.execution_options(begin="BEGIN IMMEDIATE")
            async with connection.begin():
                yield connection

    async def transact(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` gives, in a transaction of its own that is on disk at the end.

        As `writing`, for what is written all the time: on SQLite the whole of it is one visit to one thread, where each
        statement of `writing` is one. On PostgreSQL `work` is called again where it gave way to another transaction.
        Raises DatabaseUnavailable, BrokenConstraint.
        """
        if self._writer is not None:
            with _named_failures():
                return await self._writer.transact(work)
        for _ in range(COLLISIONS):
            with suppress(Collided):
                async with self.writing() as connection:
                    return await connection.run_sync(work)
        raise DatabaseUnavailable("the database does not answer: others were always first")

    async def close(self) -> None:
        """Closes every connection."""
        for asking in self._queued.values():
            asking.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        await self._engine.dispose()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine, *, patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """`patient`: waits for a server of PostgreSQL as long as it takes."""
        with _named_failures():
            async with engine.connect() as connection:
                patience: AbstractAsyncContextManager[None] = nullcontext()
                if self._is_postgres and not patient:
                    patience = postgres.patience(connection)
                async with patience:
                    yield connection

    async def _migrate(self) -> None:
        """Brings the tables to today's form. What has it already is not written to."""
        async with self.reading() as connection:
            if await connection.run_sync(_is_of_today):
                return
        async with self._connected(self._engine, patient=True) as connection:
            await connection.execution_options(begin="BEGIN IMMEDIATE")
            async with connection.begin():
                if self._is_postgres:
                    await connection.run_sync(postgres.take_turns)
                await connection.run_sync(_migrate)


class _Writer:
    """The thread that writes to a file of SQLite, with a connection that is its alone."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine: Engine = create_engine(engine.url.set(drivername="sqlite"), connect_args={"timeout": BUSY_SECONDS})
        _listen(self._engine)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database writer")

    async def transact(self, work: Callable[[Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        with self._engine.connect() as connection:
            connection.execution_options(begin="BEGIN IMMEDIATE")
            with connection.begin():
                return work(connection)

    def close(self) -> None:
        self._thread.submit(self._engine.dispose)
        self._thread.shutdown()


def _engine(url: str, *, must_exist: bool) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not quoted: it may hold a password.
        raise InvalidConfiguration(
            "database: this is no database URL; write sqlite:///path/to/file.db or postgresql://USER@HOST/NAME"
        ) from None
    if parsed.drivername in postgres.NAMES:
        return postgres.postgres_engine(url)
    if parsed.drivername in _ASYNC_DRIVERS:
        parsed = parsed.set(drivername=_ASYNC_DRIVERS[parsed.drivername])
    if parsed.drivername == "sqlite+aiosqlite" and parsed.database not in {None, "", ":memory:"}:
        path = Path(str(parsed.database))
        if must_exist and not path.exists():
            raise InvalidConfiguration(
                f"database: there is no database at {path}; ecocore serve or ecocore keys create makes one"
            )
        _make_private(path)
    try:
        engine = create_async_engine(parsed, connect_args={"timeout": BUSY_SECONDS} if "sqlite" in parsed.drivername else {})
    except (NoSuchModuleError, ImportError, ArgumentError) as error:
        kind = parsed.drivername.split("+")[0]
        raise InvalidConfiguration(
            f"database: {kind!r} needs an asyncio driver that is not installed here ({type(error).__name__}); "
            "sqlite:///path/to/file.db always works"
        ) from None
    if engine.dialect.name == "sqlite":
        _listen(engine.sync_engine)
    return engine


def _listen(engine: Engine) -> None:
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


def _is_file(engine: AsyncEngine) -> bool:
    return engine.dialect.name == "sqlite" and engine.url.database not in {None, "", ":memory:"}


def _make_private(path: Path) -> None:
    """The file holds hashes of keys: nobody else may read it. SQLite gives its side files the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as error:
        raise InvalidConfiguration(f"database: {path} cannot be written: {error.strerror}") from None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions begin where `_begin_sqlite` says so and nowhere else.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    # A committed transaction survives power loss; readers and one writer do not wait for each other.
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Turns a new file to its write-ahead log. SQLite does not wait here for others who do the same, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(WAL_PAUSE_SECONDS)
        else:
            return


def _direct(engine: AsyncEngine) -> sqlite3.Connection | None:
    """A connection for `look_up`, which never waits; None if it cannot be had."""
    try:
        connection = sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error:
        return None
    connection.execute("PRAGMA query_only = ON")
    return connection


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _is_of_today(connection: Connection) -> bool:
    head = ScriptDirectory.from_config(_migrations()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def _migrate(connection: Connection) -> None:
    config = _migrations()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise InvalidConfiguration("database: its tables were made by a newer ecocore; use that one, or a backup") from None


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", "ecocore.accounts:migrations")
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _named_failures() -> Iterator[None]:
    """Turns what the driver raises into DatabaseUnavailable, without the statement and its parameters."""
    try:
        yield
    except (IntegrityError, DataError) as error:
        raise BrokenConstraint(f"the database refused a change ({_reason(error)})") from None
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in postgres.COLLISION:
            raise Collided("the database does not answer: another transaction was first") from None
        raise DatabaseUnavailable(f"the database does not answer ({_reason(error)})") from None
    except PoolTimeout:
        raise DatabaseUnavailable("the database does not answer: all of its connections are in use") from None
    except OSError as error:
        raise DatabaseUnavailable(f"the database does not answer ({postgres.reason(error)})") from None


def _reason(error: DBAPIError) -> str:
    """What SQLite says holds no values; what PostgreSQL says may."""
    original = error.orig
    if original is None or isinstance(original, sqlite3.Error):
        return str(original)
    return postgres.reason(original.__cause__ or original)
