"""One exchange of a POST that runs a model: what all its endpoints do alike, for as long as the client is there.

Takes how a body is parsed and how its request is prepared, gives the bytes of the answer to the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ecocore.errors import EcocoreError
from ecocore.regions.region import Admission, Owner
from ecocore.server.auth import key_owner
from ecocore.server.error_table import api_error
from ecocore.server.intake import Intake
from ecocore.server.wire import SSE_HEADERS, Answer, Outbox, Told, error_event

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Ready:
    """Requests that could start now, and how their one answer is told."""

    outbox: Outbox
    admissions: list[Admission]
    told: Told


async def exchange(
    intake: Intake,
    parse: Callable[[Mapping[str, Any]], Parsed],
    prepare: Callable[[Parsed], Awaitable[Ready]],
    *,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Reads, prepares, answers. Raises what `error_table` tells.

    The order of judgement: body and JSON, model, template and context, capacity. The body counts as held until the
    request is prepared; then it is let go, for images may weigh megabytes, and an answer may take minutes.
    """
    async with AsyncExitStack() as held:
        # Without a name of its own here, the request is what `_answer` makes of it.
        work = _answer(await held.enter_async_context(intake.holding(scope, receive, parse)), prepare, held, scope, send)
        await until_client_leaves(receive, work)


async def _answer(
    request: Parsed, prepare: Callable[[Parsed], Awaitable[Ready]], held: AsyncExitStack, scope: Scope, send: Send
) -> None:
    preparing = prepare(request)
    del request
    ready = await preparing
    await held.aclose()
    stream = ready.told.stream
    with ready.outbox.open(ready.admissions, ready.told) as answer:
        sender = key_owner(scope)
        owner = Owner(salt=b"account %d" % sender.account_id, key=sender.key_id)
        while ready.admissions:
            await ready.admissions.pop(0).start(owner)
        # What is to be echoed is the writer's now.
        del ready
        await deliver(answer, stream=stream, scope=scope, send=send)


async def deliver(answer: Answer, *, stream: bool, scope: Scope, send: Send) -> None:
    """Sends an answer that was started. The status goes with its first bytes: what fails before is raised."""
    first = await answer.take()
    if stream:
        await _send_stream(first, answer, send)
    else:
        await Response(first, media_type="application/json")(scope, _never, send)


async def until_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends or the client is gone, whichever comes first. A client that left is no error."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_client_leaves(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
        # A failure's traceback holds this frame: without them it does not hold itself, and the request goes at once.
        del task, working, watching


async def _send_stream(first: bytes, answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(SSE_HEADERS)})
    piece = first
    try:
        while piece:
            await answer.send(send, piece)
            piece = await answer.take()
    except EcocoreError as error:
        # The status is gone. An event that holds an error is what clients raise on; there is no [DONE] after it.
        await answer.send(send, error_event(api_error(error)))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    """A plain answer has nothing more to receive."""
    raise AssertionError("a response does not read")
