"""POST /v1/chat/completions: one request from its body to the last byte of its answer.

The order of judgement: body and JSON, model, template and context, capacity. The status is sent with the first
bytes of the answer, so that whatever fails before them is told as a proper error.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ecocore.accounts.keys import KeyOwner
from ecocore.errors import EcocoreError
from ecocore.request import ChatRequest
from ecocore.server.auth import key_owner
from ecocore.server.error_table import api_error
from ecocore.server.guard import BodyReader
from ecocore.server.json_in import parse_object
from ecocore.server.model_list import ModelList
from ecocore.server.wire import SSE_HEADERS, Answer, Outbox, error_event

# Parsing a body up to this size takes less time than handing it to a thread.
PARSE_INLINE_BYTES: Final = 16 * 1024
PARSE_WORKERS: Final = 2


class ChatCompletions:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, models: ModelList, outboxes: Mapping[str, Outbox], bodies: BodyReader) -> None:
        """`outboxes`: one for each model, by its name."""
        self._models = models
        self._outboxes = outboxes
        self._bodies = bodies
        self._parsing = asyncio.Semaphore(PARSE_WORKERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        async with self._bodies.read(scope, receive) as body:
            request = await self._parse(body)
        await _until_client_leaves(receive, self._answer(request, key_owner(scope), scope, send))

    async def _parse(self, body: bytes) -> ChatRequest:
        if len(body) <= PARSE_INLINE_BYTES:
            return _chat_request(body)
        async with self._parsing:
            return await asyncio.to_thread(_chat_request, body)

    async def _answer(self, request: ChatRequest, owner: KeyOwner, scope: Scope, send: Send) -> None:
        region = self._models[request.model]
        admission = await region.prepare(request)
        with self._outboxes[region.model_id].open(admission, request) as answer:
            admission.start(b"account %d" % owner.account_id)
            first = await answer.take()
            if request.stream:
                await _send_stream(first, answer, send)
            else:
                await Response(first, media_type="application/json")(scope, _never, send)


def _chat_request(body: bytes) -> ChatRequest:
    return ChatRequest.parse(parse_object(body))


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


async def _until_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
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


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    """A plain answer has nothing more to receive."""
    raise AssertionError("a response does not read")
