"""POST /v1/chat/completions: a conversation in, an answer out, streamed or plain.

Takes its JSON as a `ChatRequest`; reading, starting and telling are `delivery`'s.
"""

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from ecocore.request import ChatRequest
from ecocore.server.delivery import Ready, exchange
from ecocore.server.intake import Intake
from ecocore.server.model_list import ModelList
from ecocore.server.wire import Outbox, Told


class ChatCompletions:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, models: ModelList, outboxes: Mapping[str, Outbox], intake: Intake) -> None:
        """`outboxes`: one for each model, by its name."""
        self._models = models
        self._outboxes = outboxes
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        await exchange(self._intake, ChatRequest.parse, self._prepare, scope=scope, receive=receive, send=send)

    async def _prepare(self, request: ChatRequest) -> Ready:
        region = self._models[request.model]
        admission = await region.prepare(request)
        return Ready(self._outboxes[region.model_id], [admission], Told.chat(request))
