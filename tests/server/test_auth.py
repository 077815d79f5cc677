"""Keys at the door: deny by default, judged before the body."""

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from ecocore.accounts.keys import KeyStore, new_key
from ecocore.errors import InternalError
from ecocore.server.app import Service, create_app
from ecocore.server.auth import Policy, PolicyRoute, enforce, key_owner
from ecocore.server.guard import Guard, Limits
from ecocore.server.wire import Pace

HOST = (b"host", b"localhost")


async def _whose(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(key_owner(scope).account)(scope, receive, send)


class Whose:
    """Tells the account of the key that was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _whose(scope, receive, send)


def guarded(keys: KeyStore) -> Guard:
    routes = enforce([PolicyRoute("/", Whose(), methods=["POST"], policy=Policy.KEY)], keys)
    return Guard(Router(routes), Limits())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_opens_the_door(exchange: Any, keys: KeyStore, scheme: str) -> None:
    key = await keys.create("laptop")
    answered = await exchange(guarded(keys), headers=[HOST, (b"authorization", f"{scheme} {key}".encode())])
    assert (answered.status, answered.body) == (200, b"default")


KEY = new_key()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], None),
        ([(b"x-api-key", KEY.encode())], None),
        ([(b"authorization", b"")], "invalid_api_key"),
        ([(b"authorization", b"Bearer")], "invalid_api_key"),
        ([(b"authorization", b"Bearer ")], "invalid_api_key"),
        ([(b"authorization", KEY.encode())], "invalid_api_key"),
        ([(b"authorization", b"Basic " + KEY.encode())], "invalid_api_key"),
        ([(b"authorization", b"Bearer eco_short")], "invalid_api_key"),
        ([(b"authorization", b"Bearer " + KEY.encode())], "invalid_api_key"),
        ([(b"authorization", b"Bearer " + KEY.encode() + b"'; DROP TABLE keys; --")], "invalid_api_key"),
        ([(b"authorization", b"Bearer \xff\xfe")], "invalid_api_key"),
    ],
)
async def test_without_a_valid_key_it_stays_shut(
    exchange: Any, keys: KeyStore, headers: list[tuple[bytes, bytes]], code: str | None
) -> None:
    await keys.create("somebody else's")
    answered = await exchange(guarded(keys), headers=[HOST, *headers])
    assert (answered.status, answered.error["code"]) == (401, code)
    assert answered.headers["www-authenticate"] == "Bearer"
    assert KEY not in answered.body.decode()


async def test_a_key_that_was_revoked_tells_whom_to_ask(exchange: Any, keys: KeyStore) -> None:
    key = await keys.create("laptop")
    await keys.revoke("laptop")
    answered = await exchange(guarded(keys), headers=[HOST, (b"authorization", f"Bearer {key}".encode())])
    words = "the API key is not valid; ask whoever runs this server for a new one (ecocore keys create --name NAME)"
    assert answered.error["message"] == words


async def test_two_authorization_headers_are_refused_though_both_are_right(exchange: Any, keys: KeyStore) -> None:
    header = (b"authorization", f"Bearer {await keys.create('twice')}".encode())
    answered = await exchange(guarded(keys), headers=[HOST, header, header])
    assert (answered.status, answered.error["code"]) == (401, "invalid_api_key")


def test_a_route_that_does_not_say_who_may_use_it_does_not_start(keys: KeyStore) -> None:
    with pytest.raises(InternalError, match="/open"):
        enforce([Route("/open", PlainTextResponse("hello"))], keys)


OPEN = {"/health", "/ready", "/metrics", "/openapi.json", "/docs", "/static/{name}", "/"}


async def test_a_key_is_needed_but_for_what_is_named(exchange: Any, keys: KeyStore) -> None:
    app = create_app(Service((), keys, Pace()), Limits())
    routes = [route for route in app.routes if isinstance(route, PolicyRoute)]
    assert len(routes) == len(app.routes)
    assert {route.path for route in routes if route.policy is Policy.OPEN} == OPEN
    for route in routes:
        method = next(iter((route.methods or set()) - {"HEAD"}))
        path = route.path.replace("{model_id:path}", "x").replace("{name}", "docs.css")
        answered = await exchange(app, method=method, path=path, headers=[HOST])
        assert answered.status == (200 if route.policy is Policy.OPEN else 401)
