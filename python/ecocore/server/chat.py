"""POST /v1/chat/completions: one request from its body to the last byte of its answer.

The order of judgement: body and JSON, model, template and context, capacity. The status is sent with the first
bytes of the answer, so that whatever fails before them is told as a proper error.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.types import Receive, Scope, Send

from ecocore.accounts.keys import KeyOwner
from ecocore.request import ChatRequest
from ecocore.server.auth import key_owner
from ecocore.server.delivery import deliver, until_client_leaves
from ecocore.server.intake import Intake
from ecocore.server.model_list import ModelList
from ecocore.server.wire import Outbox


class ChatCompletions:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, models: ModelList, outboxes: Mapping[str, Outbox], intake: Intake) -> None:
        """`outboxes`: one for each model, by its name."""
        self._models = models
        self._outboxes = outboxes
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        async with AsyncExitStack() as held:
            # Without a name of its own here, the request is what `_answer` makes of it.
            work = self._answer(
                await held.enter_async_context(self._intake.holding(scope, receive, ChatRequest.parse)),
                held,
                key_owner(scope),
                scope,
                send,
            )
            await until_client_leaves(receive, work)

    async def _answer(self, request: ChatRequest, held: AsyncExitStack, owner: KeyOwner, scope: Scope, send: Send) -> None:
        region = self._models[request.model]
        admission = await region.prepare(request)
        # Images may weigh megabytes, and an answer may take minutes.
        request = request.model_copy(update={"messages": ()})
        await held.aclose()
        with self._outboxes[region.model_id].open(admission, request) as answer:
            admission.start(b"account %d" % owner.account_id)
            await deliver(answer, stream=request.stream, scope=scope, send=send)
