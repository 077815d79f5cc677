"""The application in the process of one engine: the API as it is everywhere, and the doors for the server beside it.

Takes a region, gives the ASGI application. Nobody but the server reaches it, and the server has judged who asks and
how much: JSON is read as from a friend, keys are not looked at, and a request's owner is whom the server names.
"""

import asyncio
import faulthandler
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ecocore.errors import EcocoreError, QueueFull, RegionUnavailable
from ecocore.regions.contract import ADMISSION, ADMISSIONS_PATH, EVENTS, HEARTBEAT_PATH, Facts, owner_of, spelled
from ecocore.regions.region import Admission, Region
from ecocore.regions.router import DEFAULT_PRIORITY
from ecocore.request import ChatRequest
from ecocore.server.app import Service, create_app
from ecocore.server.auth import Policy, PolicyRoute
from ecocore.server.completions import CompletionRequest
from ecocore.server.delivery import until_client_leaves
from ecocore.server.error_table import Refusal, api_error
from ecocore.server.guard import BodyReader, Limits
from ecocore.server.intake import Intake
from ecocore.server.serve import bind_unix, serve_child
from ecocore.server.tokenize import Tokenize
from ecocore.server.wire import Outbox, Pace, Told

# A server that goes on to the start does so in milliseconds; what waits longer was given up.
PARKED_SECONDS: Final = 60.0
# More than an engine of the usual capacity would take at once: whatever else happens, no more memory is held than this.
PARKED_AT_MOST: Final = 1024
# Its server asks each second, and kills it long before; unless the server was killed itself.
DESERTED_SECONDS: Final = 60.0
_BOUNDLESS: Final = 2**40

# The server bounds all of this, and its own copy of the JSON may be a little larger than what it was sent.
TRUSTING: Final = Limits(body_bytes=_BOUNDLESS, body_seconds=600.0, large_bodies_bytes=_BOUNDLESS)
# How long an answer may take and how much may wait is judged where the client is.
PATIENT: Final = Pace(answer_seconds=float("inf"), ping_seconds=float("inf"), buffer_bytes=64 * 2**20)

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def serve_engine(region: Region, socket: Path, tell: Callable[[Mapping[str, Any]], None], *, log_level: str) -> NoReturn:
    """Answers the server on `socket`, and ends the process with the engine. `tell` hears once that it answers, and the facts."""
    listening = bind_unix(socket)
    serve_child(
        create_engine_app(region, _stay_for_a_while),
        listening,
        lambda: tell({"facts": Facts.of(region).spelled(), "stats": dict(region.stats())}),
        lambda: region.is_alive,
        name=region.model_id,
        log_level=log_level,
    )


def _stay_for_a_while() -> None:
    """An engine that nobody asks for so long hangs so deeply that not even the end of its server would end it.

    This is the interpreter's own clock, which needs no turn of its own: it writes where everything stands, and exits.
    """
    faulthandler.dump_traceback_later(DESERTED_SECONDS, exit=True)


def create_engine_app(region: Region, on_heartbeat: Callable[[], None]) -> Starlette:
    """`on_heartbeat` is called whenever the server asks."""
    service = Service([(DEFAULT_PRIORITY, region)], None, PATIENT)
    doors = _Doors(region, service, on_heartbeat)
    return create_app(service, TRUSTING, before=doors.routes())


class _Doors:
    """What the server asks for: admissions, their events, and a sign of life."""

    def __init__(self, region: Region, service: Service, on_heartbeat: Callable[[], None]) -> None:
        self._region = region
        self._outbox: Outbox = service.outboxes[region]
        self._on_heartbeat = on_heartbeat
        self._intake = Intake(BodyReader(TRUSTING), json.loads)
        self._tokenize = Tokenize(service.models, self._intake)
        self._parked: dict[str, tuple[Admission, int]] = {}

    def routes(self) -> list[PolicyRoute]:
        return [
            _Negotiated("/v1/chat/completions", _Judged(self._chat)),
            _Negotiated("/v1/completions", _Judged(self._completion)),
            _Negotiated("/tokenize", _Judged(_as_app(self._tokenize.tokenize))),
            _Negotiated("/detokenize", _Judged(_as_app(self._tokenize.detokenize))),
            PolicyRoute(ADMISSIONS_PATH + "/{name}", _Judged(self._start), methods=["POST"], policy=Policy.OPEN),
            PolicyRoute(ADMISSIONS_PATH + "/{name}", self._give_up, methods=["DELETE"], policy=Policy.OPEN),
            PolicyRoute(HEARTBEAT_PATH, self._heartbeat, methods=["GET"], policy=Policy.OPEN),
        ]

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await self._intake.read(scope, receive, ChatRequest.parse)
        await self._admit(self._region.prepare(request), request.n, scope, receive, send)

    async def _completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await self._intake.read(scope, receive, CompletionRequest.parse)
        preparing = self._region.prepare_plain(asked.request, asked.prompts[0], scores=asked.scores)
        await self._admit(preparing, asked.request.n, scope, receive, send)

    async def _admit(self, preparing: Awaitable[Admission], choices: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Keeps what was judged until it is started, and tells its name: one that no other process would make."""

        async def answer() -> None:
            admission = await preparing
            if len(self._parked) >= PARKED_AT_MOST:
                raise QueueFull(f"{PARKED_AT_MOST} requests are waiting for their start already; retry in a moment")
            name = secrets.token_hex(16)
            self._parked[name] = admission, choices
            asyncio.get_running_loop().call_later(PARKED_SECONDS, self._parked.pop, name, None)
            told = {
                "admission": name,
                "prompt_tokens": admission.prompt_tokens,
                "max_completion_tokens": admission.max_completion_tokens,
            }
            await JSONResponse(told)(scope, receive, send)

        await until_client_leaves(receive, answer())

    async def _give_up(self, request: Request) -> JSONResponse:
        """The server's own exchange failed, or its client left. One that has run, or was forgotten, is given up already."""
        self._parked.pop(request.path_params["name"], None)
        return JSONResponse({})

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        parked = self._parked.pop(scope["path_params"]["name"], None)
        if parked is None:
            raise RegionUnavailable("the engine was started again meanwhile, or the request was not; retry")
        await until_client_leaves(receive, self._run(*parked, scope, send))

    async def _run(self, admission: Admission, choices: int, scope: Scope, send: Send) -> None:
        told = Told(form="events", id_prefix="", model=self._region.model_id, stream=True, choices=choices)
        with self._outbox.open([admission], told) as answer:
            await admission.start(owner_of(Request(scope).headers))
            # The server is told at once that it runs; the first event may take a while.
            headers = [(b"content-type", EVENTS.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while piece := await answer.take():
                await answer.send(send, piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _heartbeat(self, _request: Request) -> JSONResponse:
        self._on_heartbeat()
        return JSONResponse(dict(self._region.stats()))


class _Negotiated(PolicyRoute):
    """A path of the API, for who asks for an admission."""

    def __init__(self, path: str, endpoint: ASGIApp) -> None:
        super().__init__(path, endpoint, methods=["POST"], policy=Policy.OPEN)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        asked = scope["type"] == "http" and (b"accept", ADMISSION.encode()) in scope["headers"]
        return super().matches(scope) if asked else (Match.NONE, {})


class _Judged:
    """A door whose errors are told as they were raised. Those of HTTP itself, and bugs, are left to the guard."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._handler(scope, receive, send)
        except EcocoreError as error:
            if isinstance(error, Refusal):
                raise
            body = json.dumps(spelled(error), ensure_ascii=False).encode("utf-8", "replace")
            await Response(body, api_error(error).status, media_type=ADMISSION)(scope, receive, send)


def _as_app(endpoint: Callable[[Request], Awaitable[Response]]) -> Handler:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (await endpoint(Request(scope, receive)))(scope, receive, send)

    return app
