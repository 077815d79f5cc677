"""Load on a server that behaves as it is told: what is kept busy, what arrives at a rate, and every way to fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bench.fake_server import DONE, END, STREAM_HEAD, Asked, Fake, chunk, event, fake, plain, until, whole
from tests.live_server import MODEL, serving

from ecocore.bench.answer import ChatAnswer
from ecocore.bench.endpoint import Endpoint
from ecocore.bench.load import Client, Load, chat_body, closed_loop, open_loop

Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def ask(number: int) -> bytes:
    return chat_body("m", f"prompt {number}", max_tokens=5)


def client(server: Fake, timeout: float = 20) -> Client:
    return Client(Endpoint.parse(server.url, "key"), timeout=timeout)


@pytest.fixture
async def good() -> AsyncIterator[Fake]:
    async with fake(whole) as server:
        yield server


async def test_a_closed_loop_asks_each_number_once_on_so_many_connections(good: Fake) -> None:
    with client(good) as one:
        load = await closed_loop(one, ask, streams=3, count=10)
    assert sorted(outcome.number for outcome in load.outcomes) == list(range(10))
    assert sorted(asked.body["messages"][0]["content"] for asked in good.asked) == sorted(f"prompt {n}" for n in range(10))
    assert all(outcome.succeeded and len(outcome.times) == 5 and outcome.completion_tokens == 5 for outcome in load.outcomes)
    assert good.connections == 3
    assert good.asked[0].headers["authorization"] == "Bearer key"
    assert not load.open
    assert load.busy_until is not None
    assert load.ended is not None
    assert load.began <= load.busy_until <= load.ended


async def test_a_closed_loop_of_no_time_ends_what_it_began(good: Fake) -> None:
    with client(good) as one:
        load = await closed_loop(one, ask, streams=4, seconds=1e-9)
    assert len(load.outcomes) <= 4
    assert all(outcome.succeeded for outcome in load.outcomes)


async def test_times_are_those_of_arrival() -> None:
    """The second event comes only after the first was seen, the end only after the second."""
    seen = asyncio.Event()
    moments: list[float] = []

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for piece in (event("one"), event("two"), DONE):
            await seen.wait()
            seen.clear()
            moments.append(asyncio.get_running_loop().time())
            writer.write(chunk(piece))
        writer.write(END)

    async with fake(answer) as server:
        with client(server) as one:
            load = Load()
            running = asyncio.create_task(closed_loop(one, ask, streams=1, count=1, load=load))
            await until(lambda: bool(load.open) and load.open[0].head is not None)
            outcome = load.open[0]
            assert not outcome.times
            for events in range(2):
                seen.set()
                await until(lambda events=events: len(outcome.times) == events + 1)  # type: ignore[misc]
            seen.set()
            await running
    # Both clocks are the system's monotonic one.
    assert moments[0] <= outcome.times[0] <= moments[1] <= outcome.times[1] <= moments[2]
    assert outcome.ended is not None
    assert outcome.due < (outcome.head or 0) < outcome.times[0] < outcome.times[1] < outcome.ended


async def refuse(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    error = {"error": {"message": "busy", "type": "server_error", "param": None, "code": "overloaded"}}
    writer.write(plain(503, error, "Retry-After: 0"))


async def fail(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(plain(500, {"error": {"message": "bug", "type": "server_error", "code": None}}))


async def cut(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(event("half")) + b"40\r\ndata: ")
    await writer.drain()
    writer.transport.abort()


async def hang_up(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def never_done(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunk(event("all")) + END)


async def break_down(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    error = b'data: {"error": {"message": "gone", "type": "server_error", "code": "engine_error"}}\n\n'
    writer.write(STREAM_HEAD + chunk(event("half")) + chunk(error) + END)


async def babble(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello?\r\n\r\n")


async def say_nothing(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (refuse, "http: 503 overloaded"),
        (fail, "http: 500 server_error"),
        (cut, "broken stream: the connection ended in the middle of the answer"),
        (hang_up, "connection: the connection ended before the answer"),
        (never_done, "no [DONE]: the stream ended without data: [DONE]"),
        (break_down, "error event: engine_error"),
        (babble, "malformed: the answer begins with b'hello?"),
        (say_nothing, "timeout: no whole answer within 0.05 s"),
    ],
)
async def test_every_fault_has_its_name_and_the_others_go_on(script: Script, failure: str) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        bad = asked.body["messages"][0]["content"] == "prompt 1"
        await (script if bad else whole)(asked, writer)

    async with fake(answer) as server:
        with client(server, 0.05 if script is say_nothing else 20) as one:
            load = await closed_loop(one, ask, streams=1, count=3)
    told = {outcome.number: outcome.failure for outcome in load.outcomes}
    assert (told[0], told[2]) == (None, None)
    assert str(told[1]).startswith(failure)
    assert all(outcome.ended is not None for outcome in load.outcomes)


async def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async with fake(whole) as server:
        gone = server.url
    with Client(Endpoint.parse(gone)) as one:
        outcome = await one.ask(0, ask(0))
    assert str(outcome.failure) == "connection: Connection refused"


async def test_a_broken_off_load_keeps_what_it_saw() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.body["messages"][0]["content"] == "prompt 0":
            await whole(asked, writer)
        else:
            writer.write(STREAM_HEAD + chunk(event("half")))

    async with fake(answer) as server:
        with client(server) as one:
            load = Load()
            running = asyncio.create_task(closed_loop(one, ask, streams=2, count=5, load=load))
            await until(lambda: load.open.keys() == {1, 2} and all(outcome.times for outcome in load.open.values()))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        await until(lambda: server.open == 0)
    assert [outcome.number for outcome in load.outcomes] == [0]
    assert {number: len(outcome.times) for number, outcome in load.open.items()} == {1: 1, 2: 1}
    assert load.ended is not None
    assert load.busy_until == load.ended


async def test_an_open_loop_sends_at_its_rate_whatever_the_server_does() -> None:
    """No request is answered before the last one has arrived."""
    go_on = asyncio.Event()

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await whole(asked, writer)

    async with fake(answer) as server:
        with client(server) as one:
            load = Load()
            running = asyncio.create_task(open_loop(one, ask, rate=2000, seconds=0.01, load=load))
            await until(lambda: len(server.asked) == 20)
            assert not load.outcomes
            go_on.set()
            await running
    dues = sorted(outcome.due for outcome in load.outcomes)
    assert dues == pytest.approx([load.began + number / 2000 for number in range(20)])
    assert all(outcome.succeeded for outcome in load.outcomes)
    assert load.streams is None
    assert load.lateness > 0


async def test_ecocores_own_server_is_read_to_the_last_token(tmp_path: Path) -> None:
    """Second opinion: the client of openai gets the same text from the same requests."""
    options: dict[str, Any] = {"max_tokens": 30, "stream_options": {"include_usage": True}}
    bodies = [chat_body(MODEL, f"question {number}", seed=number, **options) for number in range(6)]
    with serving(tmp_path) as live:
        with Client(Endpoint.parse(live.url, live.key), hearing=lambda outcome: ChatAnswer(outcome, keep_text=True)) as one:
            load = await closed_loop(one, bodies.__getitem__, streams=3, count=len(bodies))
        assert [outcome.failure for outcome in load.outcomes] == [None] * 6
        with live.client() as openai:
            for outcome in load.outcomes:
                fields = json.loads(bodies[outcome.number]) | {"stream": False, "stream_options": None}
                answer = await asyncio.to_thread(lambda fields=fields: openai.chat.completions.create(**fields))  # type: ignore[misc]
                assert "".join(outcome.text or ()) == answer.choices[0].message.content
                assert answer.usage is not None
                assert outcome.completion_tokens == answer.usage.completion_tokens
                assert outcome.prompt_tokens == answer.usage.prompt_tokens
                assert outcome.finish_reason == answer.choices[0].finish_reason
