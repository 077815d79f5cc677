"""Events to server-sent events: `SseWriter` beside a dictionary and `json.dumps` per event, alone and in a server.

The peer gets the events as ready Python tuples, which a server in Python would have to make first. In the server both
sides answer through Starlette's routing, over one ASGI door, in one process; the peer as Starlette's own pages do it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

from benches.harness import Bench, Case, Peer, Settings
from benches.plain_frames import CREATED, FINGERPRINT, MODEL, Told, first_frame, frames, values

STREAMS: Final = 64
TOKENS: Final = 64
# How often connections have their turn between two steps: never, so that all that has gathered goes out together, or often
# enough that every event is out before the next step.
PACES: Final = {"served at full speed": 0, "served one by one": 4}


def cases(settings: Settings) -> Iterator[Case]:
    streams, tokens = (2, 4) if settings.quick else (STREAMS, TOKENS)
    batches = _mock_events(streams, tokens)
    told = [[(row.request_id, row.kind, row.text, row.reason) for row in batch.rows()] for batch in batches]
    ours, theirs = _ecocore(batches, streams), _json_dumps(told, streams)
    count = sum(body.count(b"\n\n") for body in ours())
    peer = Peer("json.dumps per event", theirs, lambda: values(ours()) == values(theirs()))
    yield Case(f"{streams} streams of {tokens} tokens", "frame", count, ours, (peer,))
    for pace, turns in PACES.items():
        yield _served_case(f"{streams} streams of {tokens} tokens, {pace}", count, streams, turns, batches=batches, told=told)


def _served_case(name: str, count: int, streams: int, turns: int, *, batches: list[Any], told: list[list[Told]]) -> Case:
    ours = _served(lambda: _Ours(batches), streams, turns)
    theirs = _served(lambda: _Theirs(told, streams), streams, turns)
    peer = Peer("Starlette + json.dumps", theirs, lambda: values(ours()) == values(theirs()))
    return Case(name, "frame", count, ours, (peer,))


def _mock_events(streams: int, tokens: int) -> list[Any]:
    """The engine's own event batches, one per step of the mock model."""
    import numpy as np

    from ecocore._core import OutputStreams, Scheduler, Tokenizer
    from ecocore.model.mock import MockModel
    from ecocore.request import SamplingParams
    from ecocore.sampling.sampler import BatchSampler

    tokenizer = Tokenizer.bytes_only()
    scheduler = Scheduler(num_blocks=streams * 8, max_sequences=streams, max_waiting=streams)
    model = MockModel(tokenizer.vocab_size, max_sequences=streams)
    sampler, outputs = BatchSampler(tokenizer.vocab_size), OutputStreams(tokenizer)
    for number in range(streams):
        prompt = np.frombuffer(f"user: tell me story {number}\nassistant: ".encode(), np.uint8).astype(np.uint32)
        outputs.open(number, request_id=number, choice=0, prompt_tokens=len(prompt), max_tokens=tokens)
        sampler.open(number, SamplingParams(), number, 0, prompt)
        scheduler.submit(number, prompt, tokens)
    batches = []
    while (batch := scheduler.schedule()) is not None:
        logits = model.forward(batch)
        drawn = sampler.sample(logits, sampler.prepare(batch))
        events = outputs.push(batch, drawn)
        scheduler.commit(batch, drawn, events.finished_sequences)
        batches.append(events)
    return batches


def _ecocore(batches: list[Any], streams: int) -> Callable[[], list[bytes]]:
    from ecocore._core import SseWriter

    def run() -> list[bytes]:
        """Each connection takes its bytes after every step, as when no client is slow."""
        writer = SseWriter()
        bodies = [bytearray() for _ in range(streams)]
        for number in range(streams):
            writer.open(
                number,
                completion_id=f"chatcmpl-{number}",
                created=CREATED,
                model=MODEL,
                system_fingerprint=FINGERPRINT,
                stream=True,
            )
        for batch in batches:
            for number in writer.push(batch):
                bodies[number] += writer.take(number)
        return [bytes(body) for body in bodies]

    return run


def _json_dumps(told: list[list[Told]], streams: int) -> Callable[[], list[bytes]]:
    def run() -> list[bytes]:
        bodies = [bytearray(first_frame(number)) for number in range(streams)]
        for step in told:
            for event in step:
                bodies[event[0]] += frames(event)
        return [bytes(body) for body in bodies]

    return run


# --- in a server ----------------------------------------------------------------------------------------


class Side(Protocol):
    """One way to serve: answers requests, and hears of one step of the engine after another."""

    steps: list[Any]

    def running(self) -> AbstractAsyncContextManager[None]:
        """Serves while inside."""

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, whose path holds the number of its stream."""

    def tell(self, step: Any) -> None:
        """One step of the engine, for all streams."""


def _served(side: Callable[[], Side], streams: int, turns: int) -> Callable[[], list[bytes]]:
    """Runs all streams at once behind Starlette's routing."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def run() -> list[bytes]:
        one = side()
        app = Starlette(routes=[Route("/{number:int}", _Endpoint(one.answer))])
        bodies = [bytearray() for _ in range(streams)]
        async with one.running():
            connections = [asyncio.create_task(_connection(app, number, bodies[number])) for number in range(streams)]
            await _turns(max(PACES.values()))
            for step in one.steps:
                one.tell(step)
                await _turns(turns)
            await asyncio.gather(*connections)
        return [bytes(body) for body in bodies]

    return lambda: asyncio.run(run())


class _Endpoint:
    """Starlette takes a function for a handler of its own requests; an object it calls as an ASGI application."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(scope, receive, send)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _connection(app: Any, number: int, body: bytearray) -> None:
    """One request over ASGI, whose client takes every piece at once."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        body.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": f"/{number}",
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)


class _Ours:
    """The server's own outbox, with the recorded steps in the place of a region."""

    model_id = MODEL
    fingerprint = FINGERPRINT

    def __init__(self, batches: list[Any]) -> None:
        from ecocore.request import ChatRequest
        from ecocore.server.wire import Outbox, Pace

        self.steps = batches
        self._outbox = Outbox(self, Pace())  # type: ignore[arg-type]
        self._request = ChatRequest.parse({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True})

    def running(self) -> AbstractAsyncContextManager[None]:
        return self._outbox.running()

    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        self.tell = callback
        return lambda: None

    def cancel(self, request_id: int) -> None:
        """Everything ends by itself here."""

    async def answer(self, scope: Any, _receive: Any, send: Any) -> None:
        from ecocore.regions.region import Admission
        from ecocore.server.wire import SSE_HEADERS
        from ecocore.server.wire import Told as Telling

        async def start(_: Any) -> None:
            """The load begins by itself."""

        admission = Admission(scope["path_params"]["number"], start, 1, 1)
        with self._outbox.open([admission], Telling.chat(self._request)) as answer:
            await send({"type": "http.response.start", "status": 200, "headers": list(SSE_HEADERS)})
            while piece := await answer.take():
                await answer.send(send, piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Theirs:
    """A queue for each stream, and a generator for Starlette's streaming response that renders what comes."""

    def __init__(self, told: list[list[Told]], streams: int) -> None:
        self.steps = told
        self._queues: list[asyncio.Queue[Told]] = [asyncio.Queue() for _ in range(streams)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    def tell(self, step: list[Told]) -> None:
        for event in step:
            self._queues[event[0]].put_nowait(event)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import StreamingResponse

        pieces = self._pieces(scope["path_params"]["number"])
        await StreamingResponse(pieces, media_type="text/event-stream")(scope, receive, send)

    async def _pieces(self, number: int) -> AsyncIterator[bytes]:
        yield first_frame(number)
        while True:
            event = await self._queues[number].get()
            yield frames(event)
            if event[1] != "text":
                return


BENCH = Bench("frontend", threads=1, cases=cases)
