"""Puts load on a server: a number of streams held busy, or requests arriving at a rate whatever becomes of them.

Takes an endpoint and what to ask, gives an `Outcome` for each request. Makes no figures; see `figures`.
"""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from ecocore.bench.answer import ChatAnswer
from ecocore.bench.endpoint import CHAT, Endpoint
from ecocore.bench.http1 import BrokenAnswer, ConnectionCut, Hears, reason_of
from ecocore.bench.outcome import Outcome

REQUEST_SECONDS: Final = 600.0
# A stream whose request was refused asks again, but not without end and not at once.
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0


Ask = Callable[[int], bytes]
"""The body of the request of a number; the same number gives the same body."""


@dataclass(slots=True)
class Load:
    """What a load did so far: live views read it meanwhile. Times are seconds of `time.perf_counter`."""

    streams: int | None = None
    """None where requests arrive at a rate."""
    outcomes: list[Outcome] = field(default_factory=list)
    """Of the requests that ended, in the order of their ends."""
    open: dict[int, Outcome] = field(default_factory=dict)
    """Of those that run, by number; what was running when a load was broken off stays here."""
    began: float = 0.0
    busy_until: float | None = None
    """When the first stream found no more to do: until then all were busy. At a rate: the end of the arrivals."""
    ended: float | None = None
    client_cpu: float = 0.0
    """Processor seconds that this process used meanwhile."""
    lateness: float = 0.0
    """At a rate: by how much the latest request was sent later than it was due."""

    @property
    def seconds(self) -> float:
        """From its begin until its end, or until now."""
        return (time.perf_counter() if self.ended is None else self.ended) - self.began


class Client:
    """Asks one server. Used as a context, it closes its connections at the end."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float = REQUEST_SECONDS,
        hearing: Callable[[Outcome], ChatAnswer] = ChatAnswer,
    ) -> None:
        """`timeout`: seconds for one request. `hearing`: who hears the answer to each and fills in its outcome."""
        self.endpoint = endpoint
        self._timeout = timeout
        self._hearing = hearing
        self._pool = endpoint.pool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections at once."""
        self._pool.close()

    async def exchange(self, request: bytes, hears: Hears) -> None:
        """Any request. Raises TimeoutError, OSError, ConnectionCut, BrokenAnswer."""
        async with asyncio.timeout(self._timeout):
            await self._pool.exchange(request, hears)

    async def ask(self, number: int, body: bytes, due: float | None = None) -> Outcome:
        """One streamed chat. Every fault is told in the outcome; only being cancelled raises."""
        outcome = Outcome(number, time.perf_counter() if due is None else due)
        await self.fill(outcome, body)
        return outcome

    async def fill(self, outcome: Outcome, body: bytes) -> None:
        """`ask`, for an outcome that others look at meanwhile."""
        answer = self._hearing(outcome)
        try:
            await self.exchange(self.endpoint.request("POST", CHAT, body), answer)
            answer.on_end()
        except TimeoutError:
            answer.fail("timeout", f"no whole answer within {self._timeout:g} s")
        except ConnectionCut as error:
            answer.fail("broken stream" if error.began else "connection", str(error))
        except BrokenAnswer as error:
            answer.fail("malformed", str(error))
        except OSError as error:
            answer.fail("connection", f"{reason_of(error)}")
        outcome.ended = time.perf_counter()


async def closed_loop(
    client: Client, ask: Ask, *, streams: int, count: int | None = None, seconds: float | None = None, load: Load | None = None
) -> Load:
    """Keeps `streams` requests running: `count` in all, or new ones for so many seconds; those that run may end.

    `load`: where to tell what happens meanwhile, also if this is cancelled; given back at the end.
    """
    assert (count is None) != (seconds is None)
    load = Load() if load is None else load
    load.streams = streams
    numbers = iter(range(count)) if count is not None else _until(seconds or 0.0)

    async def stream() -> None:
        pause = FIRST_PAUSE
        for number in numbers:
            outcome = await _run(client, load, Outcome(number, time.perf_counter()), ask)
            if outcome.failure is None:
                pause = FIRST_PAUSE
            else:
                await asyncio.sleep(_pause(outcome, pause))
                pause = min(2 * pause, LONGEST_PAUSE)
        if load.busy_until is None:
            load.busy_until = time.perf_counter()

    with _timed(load):
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(stream())
    return load


async def open_loop(client: Client, ask: Ask, *, rate: float, seconds: float, load: Load | None = None) -> Load:
    """Sends `rate` requests in each second for so long, whether or not answers come; those that run may end.

    A request's times count from when it was due, so a server that holds up its client does not hide its delays.
    """
    load = Load() if load is None else load
    with _timed(load):
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                due = load.began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                load.lateness = max(load.lateness, time.perf_counter() - due)
                group.create_task(_run(client, load, Outcome(number, due), ask))
            load.busy_until = time.perf_counter()
    return load


def _until(seconds: float) -> Iterator[int]:
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        yield number
        number += 1


async def _run(client: Client, load: Load, outcome: Outcome, ask: Ask) -> Outcome:
    load.open[outcome.number] = outcome
    await client.fill(outcome, ask(outcome.number))
    del load.open[outcome.number]
    load.outcomes.append(outcome)
    return outcome


def _pause(outcome: Outcome, seconds: float) -> float:
    """What the server asked for, within reason."""
    asked = outcome.retry_after or ""
    return min(float(asked), LONGEST_PAUSE) if asked.isascii() and asked.isdigit() else seconds


@contextmanager
def _timed(load: Load) -> Iterator[None]:
    """Takes the times of a load, and keeps the collector of garbage from pausing it."""
    collecting = gc.isenabled()
    gc.disable()
    cpu = time.process_time()
    load.began = time.perf_counter()
    try:
        yield
    finally:
        load.ended = time.perf_counter()
        load.busy_until = load.ended if load.busy_until is None else load.busy_until
        load.client_cpu = time.process_time() - cpu
        if collecting:
            gc.enable()


def chat_body(model: str, prompt: str, **fields: Any) -> bytes:
    """The body of a streamed chat with one message."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, **fields}).encode()
