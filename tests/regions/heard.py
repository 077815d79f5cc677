"""What a region tells of its requests, for tests of any region."""

import asyncio
from typing import Any

from ecocore._core import EventBatch, EventRow
from ecocore.regions.region import Region
from ecocore.request import ChatRequest

MODEL = "some-maker/some-model"


def request(**fields: Any) -> ChatRequest:
    """At temperature 0 the mock engine never draws its end token."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
    return ChatRequest.parse(body)


class Heard:
    """Gathers the events, and lets a test wait for one."""

    def __init__(self, region: Region) -> None:
        self.rows: list[EventRow] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        region.subscribe(self._hear)

    def _hear(self, events: EventBatch) -> None:
        self.rows += events.rows()
        self._loop.call_soon_threadsafe(self._news.set)

    async def until(self, kind: str, number: int = 1) -> list[EventRow]:
        """All events, once so many of a kind are among them."""
        async with asyncio.timeout(60):
            while sum(row.kind == kind for row in self.rows) < number:
                self._news.clear()
                await self._news.wait()
        return self.rows
