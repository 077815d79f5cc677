"""A server that answers as a test tells it, in the test's own event loop: whole, cut, late, or wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"

Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Fake:
    """The running server: where it is, and what it was asked so far."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0


@asynccontextmanager
async def fake(answer: Answer) -> AsyncIterator[Fake]:
    """Answers each request with `answer`; whether the connection lives on is up to it."""
    state = Fake()
    handlers: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state.open += 1
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            while not writer.is_closing() and (asked := await _read(reader)) is not None:
                state.asked.append(asked)
                await answer(asked, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            handlers.discard(task)
            state.open -= 1
            writer.transport.abort()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Lets the event loop run until something holds."""
    async with asyncio.timeout(20):
        while True:
            if holds():
                return
            await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head.decode().strip().split("\r\n")
    method, path, _ = request.split()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, json.loads(body) if body else None)


def chunk(data: bytes) -> bytes:
    """One piece of a body, as HTTP/1.1 wraps it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str | None = None, **fields: Any) -> bytes:
    """One event of a stream: with text, or with a finish reason, usage, an error."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": fields.pop("finish_reason", None)}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """The event that tells what was used."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


def plain(status: int, value: Any, *headers: str) -> bytes:
    """A whole answer that is no stream."""
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def whole(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A good answer of as many events as asked for, each a word; two events to a chunk."""
    if asked.path.endswith("/models"):
        writer.write(plain(200, {"data": [{"id": "fake-model"}]}))
        return
    wanted = asked.body["max_tokens"]
    words = asked.body["messages"][0]["content"].split()
    events = [event(f"{number} ") for number in range(wanted)]
    events += [event(finish_reason="length", system_fingerprint="fp_fake"), usage(len(words) + 5, wanted), DONE]
    pairs = (b"".join(events[place : place + 2]) for place in range(0, len(events), 2))
    writer.write(STREAM_HEAD + b"".join(map(chunk, pairs)) + END)
