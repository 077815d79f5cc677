"""The application: routes, middleware and handlers as lists. Which server runs it is `serve`'s matter."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ecocore.accounts.answers import Answers
from ecocore.accounts.keys import KeyStore
from ecocore.errors import RegionUnavailable
from ecocore.regions.region import Region
from ecocore.regions.remote import RemoteRegion
from ecocore.server import openapi
from ecocore.server.account import AccountPages
from ecocore.server.auth import Policy, PolicyRoute, enforce
from ecocore.server.billing import Cashier
from ecocore.server.chat import ChatCompletions
from ecocore.server.completions import Completions
from ecocore.server.delivery import Desk
from ecocore.server.error_table import ShuttingDown
from ecocore.server.guard import BodyReader, Guard, Limits
from ecocore.server.intake import Intake
from ecocore.server.metrics import Metrics
from ecocore.server.model_list import ModelList
from ecocore.server.pages import Pages
from ecocore.server.rate_limit import RateLimiter
from ecocore.server.responses import Responses
from ecocore.server.tokenize import Tokenize
from ecocore.server.wire import Outbox, Pace


class Service:
    """What all routes share: the models, the keys, the money, and the answers on their way."""

    def __init__(
        self,
        regions: Iterable[tuple[int, Region]],
        keys: KeyStore | None,
        pace: Pace,
        *,
        cashier: Cashier | None = None,
        answers: Answers | None = None,
        account: AccountPages | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        """Each region comes with its priority; of those of one model the lowest is tried first.

        Without `keys`, whoever gets to the server may use it; without the others, who sent a request has judged who pays.
        `limiter`: counts what each key uses; unless given, in this process alone.
        """
        self.models = ModelList(regions, cashier)
        self.keys = keys
        self.cashier = cashier
        self.answers = answers
        self.account = account
        self.outboxes = {region: Outbox(region, pace) for region in self.models.regions()}
        self.limiter = limiter or RateLimiter()
        self.metrics = Metrics(self.outboxes.values(), self.limiter, cashier)
        self._ending = False

    @asynccontextmanager
    async def running(self, _app: Starlette) -> AsyncIterator[None]:
        """Answers are delivered while inside."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.limiter.connected())
            for outbox in self.outboxes.values():
                await stack.enter_async_context(outbox.region.connected())
                await stack.enter_async_context(outbox.running())
            yield

    async def drain(self, seconds: float) -> None:
        """Is not ready at once and takes nothing new; what runs may end within `seconds`, then ends with an error."""
        self._ending = True
        await asyncio.gather(*(outbox.drain(seconds) for outbox in self.outboxes.values()))

    async def health(self, _request: Request) -> JSONResponse:
        """GET /health: this process answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _request: Request) -> JSONResponse:
        """GET /ready: a chat request would be taken now."""
        if self._ending:
            raise ShuttingDown
        # A model that runs elsewhere alone takes nothing from those that run here.
        for region in self.models.regions():
            lost = not isinstance(region, RemoteRegion) and not self.models[region.model_id].is_alive
            if lost:
                raise RegionUnavailable(f"no engine of {region.model_id} runs; the server's log tells why")
        if self.keys is not None:
            await self.keys.is_empty()
        return JSONResponse({"status": "ready"})


def create_app(service: Service, limits: Limits, *, metrics: bool = True, before: Sequence[PolicyRoute] = ()) -> Starlette:
    """The ASGI application; `metrics`: whether it shows them; `before`: routes that count before the API's own.

    Raises InternalError if a route does not say who may use it.
    """
    intake = Intake(BodyReader(limits))
    desk = Desk(service.models, service.outboxes, intake, service.cashier, service.answers)
    chat = ChatCompletions(desk)
    completions = Completions(desk)
    responses = Responses(desk)
    tokenize = Tokenize(service.models, intake)
    pages = Pages()
    routes = [
        PolicyRoute("/health", service.health, methods=["GET"], policy=Policy.OPEN),
        PolicyRoute("/ready", service.ready, methods=["GET"], policy=Policy.OPEN),
        PolicyRoute("/v1/models", service.models.list_models, methods=["GET"], policy=Policy.KEY),
        PolicyRoute("/v1/models/{model_id:path}", service.models.one_model, methods=["GET"], policy=Policy.KEY),
        PolicyRoute("/v1/chat/completions", chat, methods=["POST"], policy=Policy.KEY),
        PolicyRoute("/v1/completions", completions, methods=["POST"], policy=Policy.KEY),
        PolicyRoute("/v1/responses", responses, methods=["POST"], policy=Policy.KEY),
        PolicyRoute("/tokenize", tokenize.tokenize, methods=["POST"], policy=Policy.KEY),
        PolicyRoute("/detokenize", tokenize.detokenize, methods=["POST"], policy=Policy.KEY),
        PolicyRoute("/openapi.json", openapi.answer, methods=["GET"], policy=Policy.OPEN),
        PolicyRoute("/docs", pages.docs, methods=["GET"], policy=Policy.OPEN),
        PolicyRoute("/static/{name}", pages.file, methods=["GET"], policy=Policy.OPEN),
        PolicyRoute("/", pages.index, methods=["GET"], policy=Policy.OPEN),
    ]
    if service.account is not None:
        routes += [
            PolicyRoute("/v1/balance", service.account.balance, methods=["GET"], policy=Policy.KEY),
            PolicyRoute("/v1/usage", service.account.usage, methods=["GET"], policy=Policy.KEY),
        ]
    return _app(service, limits, [*before, *routes, *_metrics(service)] if metrics else [*before, *routes])


def create_metrics_app(service: Service, limits: Limits) -> Starlette:
    """What a port of its own shows: the metrics, and nothing else."""
    return _app(service, limits, _metrics(service))


def _metrics(service: Service) -> list[PolicyRoute]:
    return [PolicyRoute("/metrics", service.metrics.answer, methods=["GET"], policy=Policy.OPEN)]


def _app(service: Service, limits: Limits, routes: Sequence[PolicyRoute]) -> Starlette:
    app = Starlette(
        routes=enforce(routes, service.keys, service.limiter),
        middleware=[Middleware(Guard, limits=limits, observe=service.metrics.observe)],
        # The guard answers every exception in one way; Starlette's own page for these would be plain text.
        exception_handlers={HTTPException: _pass_on},
        lifespan=service.running,
    )
    # A redirect to the same path without its slash would be built from the Host header, which is the client's to choose.
    app.router.redirect_slashes = False
    return app


def _pass_on(_request: Request, error: Exception) -> Response:
    raise error
