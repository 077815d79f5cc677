"""Regions elsewhere, for tests: over a server that answers as the test tells it, and watched closely."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from tests.bench.fake_server import DONE, END, STREAM_HEAD, Answer, Asked, Fake, chunk, event, fake, plain, usage
from tests.regions.heard import MODEL

from ecocore.regions.breaker import Breaker
from ecocore.regions.peer import Watch
from ecocore.regions.remote import RemoteRegion

# Twenty probes make a second here.
CLOSE: Final = Watch(every=0.05, patience=0.3, silence=0.2)
KEY: Final = "k-5ecre7-0f-7he-re9i0n"
LISTED: Final = {"data": [{"id": MODEL, "created": 1700000000, "owned_by": "somebody"}]}


class Clock:
    """Time as the test says: a breaker's rest is over when it is told so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stream(*events: bytes, end: bytes = END) -> Answer:
    """A stream of these events, whole unless another end is given."""

    async def answer(_asked: Asked, writer: Any) -> None:
        writer.write(STREAM_HEAD + b"".join(map(chunk, events)) + end)
        await writer.drain()

    return answer


WHOLE: Final = stream(event("a"), event("b"), event(finish_reason="stop"), usage(5, 3), DONE)


def told(status: int, value: Any, *headers: str) -> Answer:
    """An answer that is no stream."""

    async def answer(_asked: Asked, writer: Any) -> None:
        writer.write(plain(status, value, *headers))

    return answer


@asynccontextmanager
async def elsewhere(
    answer: Answer,
    *,
    health: Callable[[], int] = lambda: 200,
    listed: Any = LISTED,
    watch: Watch = CLOSE,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[RemoteRegion, Fake]]:
    """A region whose server answers POSTs with `answer`, and knows `MODEL`."""

    async def routed(asked: Asked, writer: Any) -> None:
        if asked.path == "/health":
            writer.write(plain(health(), {}))
        elif asked.path == "/v1/models":
            writer.write(plain(200, listed))
        else:
            await answer(asked, writer)

    async with fake(routed) as server:
        breaker = Breaker(clock or Clock())
        region = RemoteRegion("west", server.url, MODEL, api_key=KEY, watch=watch, breaker=breaker, **settings)
        async with region.connected():
            yield region, server


def posts(server: Fake) -> list[Asked]:
    """What was asked but for the watch."""
    return [asked for asked in server.asked if asked.method == "POST"]
