"""PostgreSQL: how connections are made, kept and found dead, and what its errors are called.

Takes a URL, gives an engine to `database`. asyncpg is imported here alone, when a URL asks for it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ecocore.errors import InvalidConfiguration

if TYPE_CHECKING:
    import asyncpg

NAMES: Final = frozenset({"postgresql", "postgres", "postgresql+asyncpg"})
CONNECT_SECONDS: Final = 3.0
STATEMENT_SECONDS: Final = 5.0
# A server that was frozen ends no statement of its own. What is asked there is given up a little later.
ANSWER_SECONDS: Final = STATEMENT_SECONDS + 1
# A transaction that its owner forgot, because it hangs, keeps nobody from the rows that it has locked.
IDLE_SECONDS: Final = 10.0
# Of each server: several may share the hundred connections that a PostgreSQL takes unless told otherwise.
CONNECTIONS: Final = 16
# A burst of requests waits its turn: that is no fault of the database.
QUEUE_SECONDS: Final = 10.0
RECYCLE_SECONDS: Final = 1800
_SETTINGS: Final = {
    "application_name": "ecocore",
    "statement_timeout": f"{STATEMENT_SECONDS:g}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS:g}s",
    # It would compile what takes microseconds.
    "jit": "off",
}
# A deadlock, or a row that changed meanwhile.
COLLISION: Final = frozenset({"40P01", "40001"})
_READ_ONLY: Final = "25006"
_TICKS: Final = 6
# Its place in a connection's `info`.
_SILENCE: Final = "silence"
_MIGRATION_LOCK: Final = int.from_bytes(b"ecocore")
# Their words name a user, a database or a state of the server: no statement and no value.
_TELLING: Final = ("08", "25", "28", "3D", "53", "57")


class Unreachable(ConnectionError):
    """No connection could be made. Its words may be told."""


def postgres_engine(url: str) -> AsyncEngine:
    """An engine for `url`, which asyncpg reads as libpq would: `?sslmode=`, several hosts, the folder of a socket.

    Nothing is connected yet. Raises InvalidConfiguration if asyncpg is not installed.
    """
    try:
        import asyncpg
    except ImportError:
        raise InvalidConfiguration(
            "database: PostgreSQL needs asyncpg, which is not installed here: pip install 'ecocore[postgres]'; "
            "sqlite:///path/to/file.db always works"
        ) from None
    place = "postgresql:" + url.partition(":")[2]

    async def connect() -> "asyncpg.Connection[Any]":
        try:
            async with _within(CONNECT_SECONDS):
                return await asyncpg.connect(place, timeout=None, server_settings=_SETTINGS)
        except (ValueError, asyncpg.exceptions.ClientConfigurationError) as error:
            raise InvalidConfiguration(f"database: this PostgreSQL URL cannot be used: {_without_place(error)}") from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unreachable(reason(error)) from None

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=QUEUE_SECONDS,
        pool_recycle=RECYCLE_SECONDS,
        # Few connections do the work, and the others are there when they are needed.
        pool_use_lifo=True,
    )
    event.listen(engine.sync_engine, "checkout", _leave_the_dead)
    event.listen(engine.sync_engine, "after_cursor_execute", _hear)
    return engine


class _Silence:
    """Calls `give_up` once nothing was heard for so many seconds.

    They are counted in ticks: an event loop that stands still, and reads the server's answers late, counts one tick for it.
    """

    def __init__(self, seconds: float, give_up: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._pause = seconds / _TICKS
        self._give_up = give_up
        self._loop = loop
        self._begin()

    def _begin(self) -> None:
        self._ticks = 0
        self._timer = self._loop.call_later(self._pause, self._tick)

    def restart(self) -> None:
        self._timer.cancel()
        self._begin()

    def end(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks == _TICKS:
            self._give_up()
        else:
            self._timer = self._loop.call_later(self._pause, self._tick)


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError after so many seconds, as `_Silence` counts them."""
    async with asyncio.timeout(None) as limit:
        silence = _Silence(seconds, lambda: limit.reschedule(0), asyncio.get_running_loop())
        try:
            yield
        finally:
            silence.end()


@asynccontextmanager
async def patience(connection: AsyncConnection) -> AsyncIterator[None]:
    """Gives up a server that answers nothing within `ANSWER_SECONDS`: its connection is cut, and what waits for it fails.

    Each answer begins the time anew: a transaction of many statements may take longer.
    SQLAlchemy then takes every connection of that time for lost.
    """
    cut = (await connection.get_raw_connection()).driver_connection.terminate  # type: ignore[union-attr]
    silence = _Silence(ANSWER_SECONDS, cut, asyncio.get_running_loop())
    info = connection.info
    info[_SILENCE] = silence
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
            # Another has taken this server's place. The next connection finds it.
            cut()
        raise
    finally:
        silence.end()
        info.pop(_SILENCE, None)


def take_turns(connection: Connection) -> None:
    """Only one server migrates at a time; others wait here for the end of its transaction, however long it takes."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def reason(error: BaseException) -> str:
    """Why, in words that hold no statement, no value of one, and no place."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, Unreachable):
        return str(error)
    if isinstance(state, str) and state.startswith(_TELLING):
        return str(getattr(error, "message", None) or type(error).__name__)
    if (constraint := getattr(error, "constraint_name", None)) is not None:
        return f"{type(error).__name__} of {constraint}"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__


def _leave_the_dead(connection: Any, _record: object, _proxy: object) -> None:
    """Finds a connection that the server has closed, without a round trip; those of its time are left with it."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _hear(connection: Connection, *_: object) -> None:
    """Each answer begins the silence anew, where a connection is used with patience."""
    silence: _Silence | None = connection.info.get(_SILENCE)
    if silence is not None:
        silence.restart()


def _without_place(error: Exception) -> str:
    """What asyncpg says of a URL, unless it quotes from it: there may be a password."""
    said = str(error)
    return type(error).__name__ if "@" in said or "//" in said else said
