"""POST /v1/chat/completions: a conversation in, an answer out, streamed or plain.

Takes its JSON as a `ChatRequest`; reading, starting and telling are `delivery`'s.
"""

from starlette.types import Receive, Scope, Send

from ecocore.regions.region import Region
from ecocore.request import ChatRequest
from ecocore.server.delivery import Desk, Ready, exchange
from ecocore.server.wire import Told


class ChatCompletions:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        await exchange(self._desk, ChatRequest.parse, _prepare, scope=scope, receive=receive, send=send)


async def _prepare(region: Region, request: ChatRequest) -> Ready:
    return Ready([await region.prepare(request)], Told.chat(request))
