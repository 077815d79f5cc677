"""The door from asyncio to a runtime."""

import asyncio
import base64
import threading

import pytest
from tests.prompt.images.conftest import encoded, picture

from ecocore._core import EventBatch
from ecocore.errors import InvalidParameter, RuntimeClosed
from ecocore.prompt.prompt import Prompt
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Owner
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
    await first.start(Owner(b"salt"))
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


async def test_a_request_with_images_is_prepared_once_and_its_prompt_shows_them(
    mock: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Prompt] = []
    prepared: list[ChatRequest] = []
    prepare = mock.prepare

    def counting(asked: ChatRequest) -> Prompt:
        prepared.append(asked)
        return prepare(asked)

    monkeypatch.setattr(mock, "prepare", counting)
    monkeypatch.setattr(mock, "submit", lambda prompt, *_, **__: submitted.append(prompt))
    region = LocalRegion(mock)
    for seed in (1, 2, 1):
        url = "data:image/png;base64," + base64.b64encode(encoded(picture(8, 8, seed))).decode()
        content = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": url}}]
        admission = await region.prepare(request(messages=[{"role": "user", "content": content}], cache_salt="mine"))
        await admission.start(Owner(b"salt"))
    assert len(prepared) == 3
    digests = [prompt.image_digest for prompt in submitted]
    assert digests[0] == digests[2] != digests[1]
    assert all(len(digest) == 32 for digest in digests)
    assert {prompt.cache_salt for prompt in submitted} == {b"mine"}
