"""The door from asyncio to a runtime."""

import asyncio
import threading

import pytest

from ecocore._core import EventBatch
from ecocore.errors import InvalidParameter, RuntimeClosed
from ecocore.regions.local import LocalRegion
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime


def request(**fields: object) -> ChatRequest:
    return ChatRequest.parse({"model": "mock", "messages": [{"role": "user", "content": "hello"}], **fields})


async def test_a_request_is_judged_then_started_and_its_events_carry_its_id(mock: Runtime) -> None:
    region = LocalRegion(mock)
    ended = threading.Event()
    seen: list[int] = []

    def on_step(events: EventBatch) -> None:
        seen.extend(row.request_id for row in events.rows())
        if any(row.kind == "finished" for row in events.rows()):
            ended.set()

    unsubscribe = region.subscribe(on_step)
    first, second = await asyncio.gather(region.prepare(request(max_tokens=3)), region.prepare(request()))
    assert first.request_id != second.request_id
    first.start(b"salt")
    assert await asyncio.to_thread(ended.wait, 10)
    unsubscribe()
    assert set(seen) == {first.request_id}


async def test_what_the_model_cannot_take_is_refused_before_the_start(mock: Runtime) -> None:
    with pytest.raises(InvalidParameter, match="logit_bias"):
        await LocalRegion(mock).prepare(request(logit_bias={"999999": 1}))


async def test_a_closed_region_says_so(mock: Runtime) -> None:
    region = LocalRegion(mock)
    region.close()
    with pytest.raises(RuntimeClosed):
        await region.prepare(request())
