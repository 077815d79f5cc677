"""Counts in a real Redis: shared while it answers, given up at once when it does not, taken up again when it is back."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis as Client
from tests.servers import Redis

from ecocore.accounts.limits import Counted, KeyCounts
from ecocore.accounts.shared_limits import ANSWER_SECONDS, SharedLimits, _Counts
from ecocore.errors import InvalidConfiguration

REQUESTS, TOKENS = Counted.REQUESTS, Counted.TOKENS
SLOWEST = 0.2
TICK = 0.005

redis = pytest.mark.redis


@asynccontextmanager
async def servers(url: str, patience: float = 10.0) -> AsyncIterator[list[tuple[SharedLimits, KeyCounts]]]:
    """Limits as two servers would count them in one Redis. On a crowded machine, patience keeps it from seeming lost."""
    async with AsyncExitStack() as stack:
        pairs = []
        for _ in range(2):
            shared = SharedLimits.at(url, patience=patience, pause=0.02)
            limits = KeyCounts(shared)
            await stack.enter_async_context(limits.connected())
            pairs.append((shared, limits))
        yield pairs


async def back(shared: SharedLimits) -> None:
    async with asyncio.timeout(10):
        await shared.answers()


class Lateness:
    """How late the event loop has been in all: what a crowded machine adds to the time of a request."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ended = False

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            self._ended = True
            await ticking

    async def _tick(self) -> None:
        while not self._ended:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.seconds += time.monotonic() - due


async def many(limits: KeyCounts, count: int, limit: int, key: int = 1) -> int:
    """How many of so many requests at once are taken. None may be slow."""
    late = Lateness()
    took: list[float] = []

    async def one() -> bool:
        begun = time.monotonic()
        verdict = await limits.take(key, REQUESTS, 1, limit)
        took.append(time.monotonic() - begun)
        return verdict.admitted

    async with late.measured():
        taken = sum(await asyncio.gather(*(one() for _ in range(count))))
    assert max(took) < SLOWEST + late.seconds
    return taken


@redis
async def test_two_servers_share_a_limit(lone_redis: Redis) -> None:
    async with servers(lone_redis.url) as [(_, first), (_, second)]:
        assert sum(await asyncio.gather(many(first, 30, 50), many(second, 30, 50))) == 50
        refused = await first.take(1, REQUESTS, 1, 50)
        assert refused.standing.remaining == 0
        assert refused.wait is not None
        assert 55 < refused.wait <= 62
        assert await many(first, 5, 50, key=2) == 5


@redis
async def test_tokens_that_were_used_count_at_the_other_server_even_above_the_limit(lone_redis: Redis) -> None:
    async with servers(lone_redis.url) as [(shared, first), (_, second)]:
        assert (await first.take(1, TOKENS, 60, 100)).standing.remaining == 40
        assert (await second.standing(1, TOKENS, 100)).remaining == 40
        first.add(1, TOKENS, 70)
        await asyncio.gather(*shared._tasks)
        standing = await second.standing(1, TOKENS, 100)
        assert standing.remaining == 0
        assert 100 < standing.reset <= 120
        assert not (await second.take(1, TOKENS, 1, 100)).admitted


async def fail_by_death(server: Redis) -> None:
    server.kill()


async def fail_by_silence(server: Redis) -> None:
    server.pause()


async def fail_by_being_full(server: Redis) -> None:
    async with client(server) as asking:
        await asking.config_set("maxmemory", "1")


async def fail_by_being_a_replica(server: Redis) -> None:
    async with client(server) as asking:
        await asking.execute_command("REPLICAOF", "127.0.0.1", "1")


async def mend_death(server: Redis) -> None:
    server.start()


async def mend_silence(server: Redis) -> None:
    server.resume()


async def mend_memory(server: Redis) -> None:
    async with client(server) as asking:
        await asking.config_set("maxmemory", "0")


async def mend_replica(server: Redis) -> None:
    async with client(server) as asking:
        await asking.execute_command("REPLICAOF", "NO", "ONE")


def client(server: Redis) -> Any:
    return Client.from_url(server.url)


Act = Callable[[Redis], Awaitable[None]]


@redis
@pytest.mark.parametrize(
    ("fail", "mend"),
    [
        (fail_by_death, mend_death),
        (fail_by_silence, mend_silence),
        (fail_by_being_full, mend_memory),
        (fail_by_being_a_replica, mend_replica),
    ],
)
async def test_traffic_goes_on_without_redis_and_limits_stay_within_twice(
    lone_redis: Redis, caplog: pytest.LogCaptureFixture, fail: Act, mend: Act
) -> None:
    limit = 40
    async with servers(lone_redis.url, ANSWER_SECONDS) as [(first_shared, first), (second_shared, second)]:
        taken = await many(first, 10, limit) + await many(second, 10, limit)
        await fail(lone_redis)
        taken += await many(first, 60, limit) + await many(second, 60, limit)
        assert first_shared.lost
        assert second_shared.lost
        # Each of the two counts for itself, from what it has taken in this minute.
        assert taken == 2 * limit
        assert await many(first, 60, limit, key=7) == limit
        await mend(lone_redis)
        await asyncio.gather(back(first_shared), back(second_shared))
        taken += await many(first, 60, limit) + await many(second, 60, limit)
        assert taken == 2 * limit
        assert await they_share(first, second)
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line for line in lines if "is lost" not in line and "is back" not in line] == []
    assert sum("is lost" in line for line in lines) == sum("is back" in line for line in lines)


async def they_share(first: KeyCounts, second: KeyCounts) -> bool:
    """Whether two servers count together; tried often, for on a crowded machine Redis may be lost again for a moment."""
    for key in range(100, 150):
        if await many(first, 8, 10, key) + await many(second, 8, 10, key) == 10:
            return True
    return False


@redis
async def test_a_redis_whose_clock_went_back_blocks_nobody(lone_redis: Redis) -> None:
    async with servers(lone_redis.url) as [(_, first), (_, second)]:
        assert await many(first, 5, 5) == 5
        assert await many(second, 5, 5) == 0
        # What a clock that is an hour slow would make of the time that is left.
        async with client(lone_redis) as asking:
            for name in await asking.keys("*requests*"):
                await asking.pexpire(name, 3_720_000)
        assert await many(second, 6, 5) == 5


@redis
async def test_nothing_stays_in_redis(lone_redis: Redis) -> None:
    async with servers(lone_redis.url) as [(_, first), _]:
        for key in range(20):
            await first.take(key, REQUESTS, 1, 5)
        async with client(lone_redis) as asking:
            names = await asking.keys("*")
            assert len(names) == 21
            assert all([0 < await asking.pttl(name) <= 120_000 for name in names])


async def test_without_redis_from_the_start_each_server_counts_for_itself_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with servers(f"unix://{tmp_path}/none") as [(shared, first), _]:
        assert shared.lost
        assert await many(first, 10, 6) == 6
        for _ in range(10):
            await shared._watch_once()
        assert shared.lost
    assert [record.message.split(":")[0] for record in caplog.records] == ["Redis at a Unix socket is lost (ConnectionError)"] * 2


async def test_a_question_that_does_not_let_itself_be_cancelled_holds_nobody_up() -> None:
    """As the client of Redis may, while it closes a connection."""
    shared = SharedLimits.at("redis://127.0.0.1:1", patience=0.01)
    may_end = asyncio.Event()

    async def stubborn() -> None:
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    with pytest.raises(TimeoutError):
        await shared._within_patience(stubborn())
    asker = asyncio.create_task(shared._within_patience(stubborn()))
    await asyncio.sleep(0)
    asker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asker
    assert len(shared._tasks) == 2
    may_end.set()
    await asyncio.gather(*shared._tasks)
    assert not shared._tasks


PASSWORD = "S3cret-w0rd"


@redis
async def test_a_password_opens_redis_and_a_wrong_one_is_told_to_nobody(
    lone_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with client(lone_redis) as asking:
        await asking.config_set("requirepass", PASSWORD)
    async with servers(f"redis://:{PASSWORD}@127.0.0.1:{lone_redis.port}") as [(shared, first), (_, second)]:
        assert not shared.lost
        assert await many(first, 5, 8) + await many(second, 5, 8) == 8
    for url in (f"redis://:{PASSWORD}-no@127.0.0.1:{lone_redis.port}/0", lone_redis.url):
        async with servers(url) as [(shared, first), _]:
            assert shared.lost
            assert await many(first, 10, 6) == 6
    assert "AuthenticationError" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "says",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command 'HELLO', with args: %s\r\n", b"$-7\r\n", b"\xff" * 99, b""],
)
async def test_what_is_no_redis_counts_as_lost_and_does_not_make_the_password_known(
    caplog: pytest.LogCaptureFixture, says: bytes
) -> None:
    caplog.set_level(logging.DEBUG)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.read(10_000)
        writer.write(says.replace(b"%s", heard.replace(b"\r\n", b" ")))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with servers(f"redis://someone:{PASSWORD}@127.0.0.1:{port}/0") as [(shared, first), _]:
            assert shared.lost
            assert await many(first, 10, 6) == 6
    assert f"Redis at 127.0.0.1:{port} is lost" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "memcached://localhost",
        "redis://",
        f"redis://:{PASSWORD}/x@localhost:6379",
        f"redis://{PASSWORD}/x@localhost:6379",
        f"redis://:{PASSWORD}#x@localhost:6379",
        f"redis://{PASSWORD}?x@localhost:6379",
        f"redis://:{PASSWORD}@localhost:port",
        f"redis://:{PASSWORD}@localhost:99999",
        f"redis://:{PASSWORD}@[localhost:6379",
        f"redis://:{PASSWORD}@localhost:6379/name",
        f"redis://:{PASSWORD}@localhost/0?socket_timeout={PASSWORD}",
        "unix://",
    ],
)
def test_a_url_that_cannot_be_right_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"^redis: is no URL of a Redis; write redis://") as refused:
        SharedLimits.at(url)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


# The previous window was the current one until a minute before the current one ends.
COUNTS = st.builds(
    lambda previous, current, left: _Counts(previous, left, current, left + 60),
    st.integers(0, 300),
    st.integers(0, 300),
    st.floats(0.001, 60),
)


def later(counts: _Counts, seconds: float) -> _Counts:
    """What Redis holds after a time: the windows move on as its script has it."""
    if counts.current_ends - seconds >= 60:
        left = max(0.0, counts.previous_ends - seconds)
        return _Counts(counts.previous if left else 0, left, counts.current, counts.current_ends - seconds)
    return _Counts(counts.current, max(0.0, counts.current_ends - seconds), 0, 0)


@given(COUNTS, st.integers(1, 100), st.integers(100, 200))
def test_what_redis_refused_fits_when_it_was_told_to_come_again(counts: _Counts, amount: int, limit: int) -> None:
    if counts.used + amount <= limit:
        assert counts.standing(limit).remaining >= amount
        return
    wait = counts.wait(amount, limit)
    assert 0 < wait <= 120
    assert later(counts, wait + 0.001).used + amount <= limit
    if wait > 0.01:
        assert later(counts, wait - 0.01).used + amount > limit


@given(COUNTS)
def test_what_redis_holds_is_gone_after_its_reset(counts: _Counts) -> None:
    reset = counts.standing(1000).reset
    assert later(counts, reset).used == 0
    assert (reset > 0) is (counts.previous + counts.current > 0)
