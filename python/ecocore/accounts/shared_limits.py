"""Counts that several servers share in a Redis, as long as it answers.

Takes names and amounts, gives what all servers counted together, or None at once while Redis is lost, slow or wrong:
then each server's own counts hold. Nothing about money is kept there.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from math import floor
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from ecocore.accounts.limits import Standing, Verdict
from ecocore.accounts.window import WINDOW_SECONDS
from ecocore.errors import InvalidConfiguration

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage
    from redis.asyncio import ConnectionPool

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 0.15
"""How long Redis may take for one question; it answers in a millisecond. A request waits so long once at most."""
RETRY_SECONDS: Final = 1.0
# One event loop keeps no more of them busy, and a crowd does not open a crowd of them.
CONNECTIONS: Final = 8
PREFIX: Final = "ecocore"

_EXPIRY: Final = int(WINDOW_SECONDS)
_NO_LIMIT: Final = 2**53
# What a clock of Redis that does not jump could never tell: an entry lives for two windows at most.
_LONGEST: Final = 2 * WINDOW_SECONDS + 1

T = TypeVar("T")


class SharedLimits:
    """Sliding window counters in a Redis."""

    def __init__(self, storage: "RedisStorage", pool: "ConnectionPool", place: str, patience: float, pause: float) -> None:
        """Use `SharedLimits.at`."""
        self._storage = storage
        self._pool = pool
        self._place = place
        self._patience = patience
        self._pause = pause
        self._answers = asyncio.Event()
        self._answers.set()
        # Whoever waits for its turn has not asked yet: the time of an answer is Redis' own, and not that of a crowd.
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    def at(cls, url: str, *, patience: float = ANSWER_SECONDS, pause: float = RETRY_SECONDS) -> Self:
        """Counts in the Redis of a URL, which may hold a password and is never told to anybody.

        `patience`: seconds for one question; `pause`: between two attempts to find a lost one. Connects when it is first
        asked, or in `connected`. Raises InvalidConfiguration.
        """
        place = _place(url)
        try:
            from limits.aio.storage import RedisStorage
            from redis.asyncio import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise InvalidConfiguration("redis: needs a package that is not here: pip install 'ecocore[redis]'") from None
        try:
            pool = ConnectionPool.from_url(
                url.removeprefix("redis+"),
                socket_timeout=patience,
                socket_connect_timeout=patience,
                retry=Retry(NoBackoff(), 0),
            )
            # The pool has the address: what the storage is told besides is read for its scheme alone.
            shared: Any = {"connection_pool": pool}
            storage = RedisStorage("redis://", implementation="redispy", key_prefix=PREFIX, **shared)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, the words of others may quote the password
            raise _invalid() from None
        return cls(storage, pool, place, patience, pause)

    @property
    def lost(self) -> bool:
        """Whether each server counts for itself at the moment."""
        return not self._answers.is_set()

    async def answers(self) -> None:
        """Returns as soon as Redis is not lost."""
        await self._answers.wait()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Asks Redis at once, so that the log tells early if it is not there; closes its connections at the end."""
        await self._ask(self._try)
        try:
            yield
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            with suppress(Exception):
                await self._within_patience(self._pool.disconnect())

    async def take(self, name: str, amount: int, limit: int) -> Verdict | None:
        """Counts an amount if it fits."""
        return await self._ask(lambda: self._take(name, amount, limit))

    async def standing(self, name: str, limit: int) -> Standing | None:
        """Where a key stands; counts nothing."""
        return await self._ask(lambda: self._standing(name, limit))

    def add(self, name: str, amount: int) -> None:
        """Counts an amount whether or not it fits, soon; not at all if Redis is lost before that."""
        if not self.lost:
            self._spawn(self._add(name, amount))

    async def _take(self, name: str, amount: int, limit: int) -> Verdict:
        taken = await self._storage.acquire_sliding_window_entry(name, limit, _EXPIRY, amount)
        counts = await self._counts(name)
        return Verdict(counts.standing(limit), 0 if taken or counts.used == 0 else counts.wait(amount, limit))

    async def _standing(self, name: str, limit: int) -> Standing:
        return (await self._counts(name)).standing(limit)

    async def _add(self, name: str, amount: int) -> None:
        await self._ask(lambda: self._storage.acquire_sliding_window_entry(name, _NO_LIMIT, _EXPIRY, amount))

    async def _counts(self, name: str) -> "_Counts":
        counts = _Counts(*await self._storage.get_sliding_window(name, _EXPIRY))
        if max(counts.previous_ends, counts.current_ends) <= _LONGEST:
            return counts
        # The clock of Redis went back: what it holds would count for as long as the clock is behind.
        await self._storage.clear_sliding_window(name, _EXPIRY)
        return _Counts(0, 0, 0, 0)

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """What Redis answers, or None. Never raises on its account."""
        async with self._turns:
            if self.lost:
                return None
            try:
                return await self._within_patience(question())
            except Exception as error:  # noqa: BLE001  # a wrong Redis fails in more ways than a list could name
                self._lose(error)
                return None

    async def _within_patience(self, asking: Coroutine[Any, Any, T]) -> T:
        """What becomes of a question in its time. Raises TimeoutError, or what the client of Redis raises.

        The question has a task of its own, which nobody waits for beyond that. For the client now and then swallows a
        cancellation, when it is closing a connection: whoever was cancelled would go on, and a time limit would be none.
        """
        task = self._spawn(asking)
        try:
            await asyncio.wait({task}, timeout=self._patience)
            if not task.done() or task.cancelled():
                raise TimeoutError
            return task.result()
        finally:
            task.cancel()

    def _lose(self, error: Exception) -> None:
        if self.lost:
            return
        self._answers.clear()
        log.warning("Redis at %s is lost (%s): limits of keys count in this process alone", self._place, _kind(error))
        self._spawn(self._watch())

    async def _watch(self) -> None:
        """Tries now and then, beside the requests, until Redis answers."""
        while self.lost:
            await asyncio.sleep(self._pause)
            await self._watch_once()

    async def _watch_once(self) -> None:
        try:
            await self._within_patience(self._try())
        except Exception as error:  # noqa: BLE001  # as in `_ask`
            log.debug("Redis at %s is still lost (%s)", self._place, _kind(error))
        else:
            self._answers.set()
            log.warning("Redis at %s is back: limits of keys are shared again", self._place)

    async def _try(self) -> None:
        """What a question needs: a Redis that may only be read, or is full, answers PING as well."""
        await self._storage.acquire_sliding_window_entry("probe", _NO_LIMIT, _EXPIRY, 1)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever asked may be gone: then it is looked at here, so that asyncio does not call it lost.
            task.exception()


class _Counts:
    """A window and the one before it, whose part fades. `_ends`: seconds until Redis forgets the count."""

    def __init__(self, previous: int, previous_ends: float, current: int, current_ends: float) -> None:
        self.previous = previous
        self.previous_ends = previous_ends
        self.current = current
        self.current_ends = current_ends

    @property
    def used(self) -> int:
        return floor(self.previous * self.previous_ends / WINDOW_SECONDS) + self.current

    def standing(self, limit: int) -> Standing:
        reset = self.current_ends if self.current else self.previous_ends if self.previous else 0.0
        return Standing(limit, max(0, limit - self.used), reset)

    def wait(self, amount: int, limit: int) -> float:
        """Seconds until an amount that does not fit does."""
        if self.current + amount <= limit:
            return _fades(self.previous, self.previous_ends, limit - self.current - amount)
        # In this time the current window becomes the previous one, and begins to fade.
        whole = max(0.0, self.current_ends - WINDOW_SECONDS)
        return whole + _fades(self.current, WINDOW_SECONDS, limit - amount)


def _fades(count: int, ends: float, room: int) -> float:
    """Seconds until no more than `room` is left of a window that fades."""
    return max(0.001, ends - WINDOW_SECONDS * (room + 1) / count) if count else 0.001


def _kind(error: Exception) -> str:
    """What an error of Redis may be called in the log: the class of its first cause.

    Its words stay out: a server that does not know AUTH answers with the arguments it was sent.
    """
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return type(error).__name__


def _place(url: str) -> str:
    """Host and port, for the log. Raises InvalidConfiguration for what could make a part of the password look like them."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise _invalid() from None
    if parts.fragment or "@" in parts.query:
        raise _invalid()
    if parts.scheme in {"unix", "redis+unix"} and parts.path.strip("/"):
        return "a Unix socket"
    if parts.scheme not in {"redis", "rediss"} or not _names_a_host(parts):
        raise _invalid()
    return f"{parts.hostname}:{port}"


def _names_a_host(parts: SplitResult) -> bool:
    return bool(parts.hostname) and re.fullmatch(r"(/\d{0,5})?", parts.path) is not None


def _invalid() -> InvalidConfiguration:
    return InvalidConfiguration(
        "redis: is no URL of a Redis; write redis://HOST:6379/0, rediss://USER:PASSWORD@HOST:6379/0 with letters of the "
        "password that are not plain as %40 and the like, or unix:///path/to/redis.sock"
    )
