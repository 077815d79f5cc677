"""From the engine's thread to the event loop: one wake-up at a time, and nothing lost."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from ecocore._core import EventBatch, OutputStreams, Tokenizer
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Owner
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime
from ecocore.server.error_table import ReaderTooSlow, ShuttingDown
from ecocore.server.wire import Outbox, Pace, Told


def request(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "mock", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields})


async def test_an_engine_that_outruns_the_event_loop_asks_for_one_wake_up(mock: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wake-up is a byte in a pipe that signals use too: a full pipe would swallow a SIGTERM."""
    callbacks: list[Callable[[EventBatch], None]] = []

    class Listening(LocalRegion):
        def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
            callbacks.append(callback)
            return super().subscribe(callback)

    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []
    ask = loop.call_soon_threadsafe

    def count(callback: Any, *arguments: Any) -> asyncio.Handle:
        wake_ups.append(callback)
        return ask(callback, *arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    nothing = OutputStreams(Tokenizer.bytes_only()).fail([], "none", "nothing happened")
    async with Outbox(Listening(mock), Pace()).running():
        for _ in range(1000):
            callbacks[0](nothing)
        assert len(wake_ups) == 1
        await asyncio.sleep(0)
        callbacks[0](nothing)
        assert len(wake_ups) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_is_delivered_whole(mock: Runtime, *, stream: bool) -> None:
    region = LocalRegion(mock)
    outbox = Outbox(region, Pace())
    async with outbox.running():
        admission = await region.prepare(request(stream=stream, max_tokens=500))
        with outbox.open([admission], Told.chat(request(stream=stream))) as answer:
            await admission.start(Owner())
            pieces = []
            while piece := await answer.take():
                pieces.append(piece)
    whole = b"".join(pieces)
    assert whole.count(b'"finish_reason":"length"') == 1
    assert whole.endswith(b"data: [DONE]\n\n") is stream


async def test_an_answer_that_is_left_is_forgotten_everywhere(mock: Runtime) -> None:
    region = LocalRegion(mock)
    outbox = Outbox(region, Pace())
    async with outbox.running():
        admission = await region.prepare(request(stream=True))
        with outbox.open([admission], Told.chat(request(stream=True))) as answer:
            await admission.start(Owner())
            assert await answer.take()
        assert outbox.writer.is_finished(admission.request_id)
        assert outbox.writer.buffered(admission.request_id) == 0


async def test_a_drained_outbox_takes_nothing_and_has_told_everybody(mock: Runtime) -> None:
    region = LocalRegion(mock)
    outbox = Outbox(region, Pace())
    async with outbox.running():
        admission = await region.prepare(request())
        with outbox.open([admission], Told.chat(request())) as answer:
            draining = asyncio.create_task(outbox.drain(0))
            with pytest.raises(ShuttingDown):
                await answer.take()
        await draining
        with pytest.raises(ShuttingDown):
            outbox.open([admission], Told.chat(request()))


@pytest.mark.parametrize(("drawn", "message"), [(600, None), (8000, "too slowly")], ids=["complete", "going on"])
async def test_only_an_answer_that_goes_on_may_be_too_much_for_its_reader(mock: Runtime, drawn: int, message: str | None) -> None:
    """The last events of a response repeat it three times: more than may gather, and nothing that a reader could hasten."""
    region = LocalRegion(mock)
    asked = request(stream=True, max_tokens=drawn)
    told = replace(Told.chat(asked), form="response", id_prefix="resp_", fields=',"instructions":"' + "x" * 100_000 + '"')
    outbox = Outbox(region, Pace(buffer_bytes=150_000))
    gone_on = asyncio.Event()

    async def send(_message: Any) -> None:
        """A client that takes its first piece only when enough has gathered."""
        await gone_on.wait()

    async with outbox.running():
        admission = await region.prepare(asked)
        with outbox.open([admission], told) as answer:
            await admission.start(Owner())
            sending = asyncio.create_task(answer.send(send, await answer.take()))
            # Neither wakes anybody while bytes wait.
            while not (outbox.writer.is_finished(answer.request_id) or answer._failure):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert outbox.writer.buffered(answer.request_id) > 150_000 or message
            gone_on.set()
            await sending
            with nullcontext() if message is None else pytest.raises(ReaderTooSlow, match=message):
                rest = b""
                while piece := await answer.take():
                    rest += piece
                assert b"response.incomplete" in rest
