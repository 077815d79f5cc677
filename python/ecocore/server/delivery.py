"""From an answer to its connection: the last steps of every POST that runs a model.

Takes an `Answer`, gives bytes to a connection for as long as its client is there.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ecocore.errors import EcocoreError
from ecocore.server.error_table import api_error
from ecocore.server.wire import SSE_HEADERS, Answer, error_event


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
