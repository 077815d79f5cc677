"""How answers are spelled on HTTP, and how the engine's events reach the connections that wait for them.

Takes `EventBatch` and `ApiError`, gives bytes. At most one wake-up of the event loop for each step of the engine; no
Python object for each token: bytes are rendered and gathered by `_core.SseWriter`.
"""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal, Self

from starlette.responses import Response
from starlette.types import Send

from ecocore._core import EventBatch, RequestMeter, SseWriter
from ecocore.errors import EcocoreError, failure
from ecocore.regions.region import Admission, Region
from ecocore.request import ChatRequest
from ecocore.server.error_table import AnswerTooSlow, ApiError, ReaderTooSlow, ShuttingDown

PING: Final = b": ping\n\n"
SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies of the nginx kind would hold pieces back to send larger ones.
    (b"x-accel-buffering", b"no"),
)
MAX_ERROR_BYTES: Final = 4000
FAREWELL_SECONDS: Final = 2.0
# About what it costs to wake a connection and to send: the engine has as long for itself as the connections had.
REST_SECONDS: Final = 100e-6
LONGEST_REST_SECONDS: Final = 0.01


def error_body(error: ApiError) -> bytes:
    """The envelope: always all four keys, never more than `MAX_ERROR_BYTES`."""
    message = error.message
    while True:
        fields = {"message": message, "type": error.type, "param": error.param, "code": error.code}
        body = json.dumps({"error": fields}, ensure_ascii=False).encode("utf-8", "replace")
        if len(body) <= MAX_ERROR_BYTES:
            return body
        message = message[: len(message) // 2] + "..."


def error_response(error: ApiError) -> Response:
    """An error as an answer of its own."""
    return Response(error_body(error), error.status, dict(error.headers), "application/json")


def error_event(error: ApiError) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + error_body(error) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long, and how much of it, an answer may wait."""

    answer_seconds: float = 600.0
    """From its start to its end."""
    ping_seconds: float = 15.0
    """A stream that is silent so long gets a comment, so that no proxy cuts it."""
    buffer_bytes: int = 256 * 1024
    """What may gather for a client that reads slower than the engine writes, the largest single event aside."""
    tick_seconds: float = 1.0
    """How exactly the times above are kept."""


@dataclass(frozen=True, slots=True)
class Told:
    """How an answer is told; the fields are those of `SseWriter.open`."""

    form: Literal["chat", "completion", "response", "events"]
    id_prefix: str
    model: str
    stream: bool
    choices: int = 1
    include_usage: bool = False
    logprobs: bool = False
    service_tier: str | None = None
    prompts: int = 1
    echo: tuple[str, ...] = ()
    echo_hidden: int = 0
    prompt_only: bool = False
    fields: str = ""

    @property
    def token_limit(self) -> str:
        """The field in which this endpoint is sent the most tokens that an answer may have."""
        return "max_output_tokens" if self.form == "response" else "max_tokens"

    def new_id(self) -> str:
        """By which the client knows its answer: another each time."""
        return self.id_prefix + secrets.token_hex(16)

    @classmethod
    def chat(cls, request: ChatRequest) -> Self:
        """How the answer to a chat is told."""
        return cls(
            form="chat",
            id_prefix="chatcmpl-",
            model=request.model,
            stream=request.stream,
            choices=request.n,
            include_usage=request.stream_options is not None and request.stream_options.include_usage,
            logprobs=request.logprobs,
            service_tier=request.service_tier,
        )


class Outbox:
    """The answers of one region that are on their way to their connections."""

    def __init__(self, region: Region, pace: Pace) -> None:
        """Delivers nothing before `running`."""
        self.region: Final = region
        self.pace: Final = pace
        self.writer: Final = SseWriter()
        self.meter: Final = RequestMeter()
        self.accepting = True
        self.failovers = 0
        """Requests that went on to another region."""
        self.stalled: Final[set[Answer]] = set()
        """Answers whose connection does not take the last piece at once."""
        self._answers: dict[int, Answer] = {}
        self._arrived: deque[EventBatch] = deque()
        self._waking = False
        self._rests_until = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers what happens in the region, on the event loop that enters."""
        loop = asyncio.get_running_loop()

        def on_step(events: EventBatch) -> None:
            # On the engine's thread. One wake-up at a time: each is a byte in a pipe that asyncio shares with signals,
            # and an engine that is faster than the event loop would fill it until a SIGTERM found no room.
            self.meter.push(events, time.monotonic())
            self._arrived.append(events)
            if not self._waking:
                self._waking = True
                # A loop that is closed has nobody left to tell.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._deliver)

        unsubscribe = self.region.subscribe(on_step)
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            unsubscribe()
            ticking.cancel()

    def open(self, admissions: Sequence[Admission], told: Told, answer_id: str | None = None) -> "Answer":
        """One answer to requests that have not been started yet, as many as `told.prompts`. Raises ShuttingDown.

        `answer_id`: as `Told.new_id` makes them.
        """
        request_ids = tuple(admission.request_id for admission in admissions)
        if not self.accepting:
            for request_id in request_ids:
                self.region.cancel(request_id)
            raise ShuttingDown
        self.writer.open(
            request_ids[0],
            completion_id=answer_id or told.new_id(),
            created=int(time.time()),
            model=told.model,
            system_fingerprint=self.region.fingerprint,
            stream=told.stream,
            choices=told.choices,
            include_usage=told.include_usage,
            logprobs=told.logprobs,
            form=told.form,
            service_tier=told.service_tier,
            prompts=told.prompts,
            echo=told.echo,
            echo_hidden=told.echo_hidden,
            prompt_only=told.prompt_only,
            fields=told.fields,
        )
        each = told.choices // told.prompts
        for number, request_id in enumerate(request_ids):
            if number:
                self.writer.join(request_id, request_ids[0], number * each)
            self.meter.open(request_id, each, time.monotonic())
        answer = Answer(self, request_ids)
        self._answers[answer.request_id] = answer
        self._idle.clear()
        return answer

    def forget(self, answer: "Answer") -> None:
        """Stops what is still being done for an answer and drops what nobody took."""
        for request_id in answer.request_ids:
            self.region.cancel(request_id)
            self.meter.close(request_id)
        self.writer.close(answer.request_id)
        del self._answers[answer.request_id]
        if not self._answers:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Takes no more answers, gives the open ones time to end, then ends them with an error."""
        self.accepting = False
        for patience in (seconds, FAREWELL_SECONDS):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._idle.wait()
            for answer in self._answers.values():
                answer.fail(ShuttingDown())

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        if (rest := self._rests_until - loop.time()) > 0:
            # Many connections have just had their turn. What the engine tells meanwhile goes out with it, in one piece for each.
            loop.call_later(rest, self._deliver)
            return
        # A step that ends from here on asks for a wake-up of its own. It is not waited for: connections have their turn.
        self._waking = False
        woken = 0
        for _ in range(len(self._arrived)):
            for request_id in self.writer.push(self._arrived.popleft()):
                if answer := self._answers.get(request_id):
                    answer.wake()
                    woken += 1
        self._rests_until = loop.time() + min(woken * REST_SECONDS, LONGEST_REST_SECONDS)
        for answer in self.stalled:
            answer.bound_buffer()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.pace.tick_seconds)
            for answer in self._answers.values():
                answer.tick(time.monotonic())


class Answer:
    """One answer: its bytes as they come. Leaving it as a context stops the work, however it was left."""

    def __init__(self, outbox: Outbox, request_ids: tuple[int, ...]) -> None:
        """Use `Outbox.open`."""
        self.request_ids: Final = request_ids
        self.request_id: Final = request_ids[0]
        """By which the writer knows the answer."""
        self._outbox = outbox
        self._news = asyncio.Event()
        self._failure: EcocoreError | None = None
        self._begun = self._last_sent = time.monotonic()
        self._streaming = False
        self._ping_due = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._outbox.forget(self)

    async def take(self) -> bytes:
        """What is there, as soon as there is something; b"" at the end.

        Raises EngineFailure and its kin, ShuttingDown, AnswerTooSlow or ReaderTooSlow, after all bytes.
        """
        writer = self._outbox.writer
        while True:
            self._news.clear()
            if data := writer.take(self.request_id):
                return data
            if self._failure is not None:
                raise self._failure
            if writer.is_finished(self.request_id):
                if failed := writer.failure(self.request_id):
                    raise failure(*failed)
                return b""
            if self._ping_due:
                self._ping_due = False
                return PING
            await self._news.wait()

    async def send(self, send: Send, data: bytes) -> None:
        """Sends a piece; meanwhile only so much may gather."""
        self._streaming = True
        self._outbox.stalled.add(self)
        try:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._outbox.stalled.discard(self)
        self._last_sent = time.monotonic()

    @property
    def delivered(self) -> int:
        """Tokens of all choices that are told by the bytes taken so far."""
        return self._outbox.writer.delivered(self.request_id)

    @property
    def usage(self) -> tuple[int, int, int, int] | None:
        """Prompt, cached, completion and reasoning tokens, once the answer is whole."""
        return self._outbox.writer.usage(self.request_id)

    def wake(self) -> None:
        """There is news: bytes, or the end."""
        self._news.set()

    def fail(self, error: EcocoreError) -> None:
        """Ends the answer from this side; what is rendered is still delivered."""
        if self._failure is None:
            self._failure = error
            for request_id in self.request_ids:
                self._outbox.region.cancel(request_id)
            self.wake()

    def bound_buffer(self) -> None:
        """Ends an answer that goes on while its client does not keep up."""
        if self._outbox.writer.backlog(self.request_id) > self._outbox.pace.buffer_bytes:
            self.fail(ReaderTooSlow("the client reads too slowly; the answer was given up"))

    def tick(self, now: float) -> None:
        """What the clock alone decides."""
        pace = self._outbox.pace
        if now - self._begun > pace.answer_seconds:
            self.fail(AnswerTooSlow(f"the answer took longer than {pace.answer_seconds:g} seconds; ask for fewer tokens"))
        elif self._streaming and now - self._last_sent >= pace.ping_seconds:
            self._ping_due = True
            self.wake()
