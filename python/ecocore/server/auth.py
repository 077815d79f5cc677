"""Who may pass: every route says whether it is open or wants a key, and one that says nothing does not start.

Takes a request's headers, gives the key's owner. The key is judged before any byte of the body is read.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ecocore.accounts.keys import KeyOwner, KeyStore
from ecocore.errors import InternalError
from ecocore.server.error_table import KeyInvalid, KeyMissing
from ecocore.server.guard import SENDER
from ecocore.server.rate_limit import RateLimiter

_OWNER: Final = "ecocore.key_owner"
_NOBODY: Final = KeyOwner(account_id=0, account="", key_name="", key_id=0)


class Policy(Enum):
    """Who may use a route."""

    OPEN = "open"
    KEY = "key"


class PolicyRoute(Route):
    """A route with its policy."""

    def __init__(self, path: str, endpoint: Any, *, methods: Sequence[str], policy: Policy) -> None:
        """`endpoint`: as Starlette takes it."""
        super().__init__(path, endpoint, methods=list(methods))
        self.policy = policy


def enforce(routes: Sequence[BaseRoute], keys: KeyStore | None, limiter: RateLimiter | None = None) -> list[BaseRoute]:
    """Puts the key check before the routes that want it. Raises InternalError for a route without a policy.

    Without `keys`, whoever gets to the server may use them: the socket is what is guarded. `limiter`: counts for all
    routes what each key uses.
    """
    limiter = limiter or RateLimiter()
    for route in routes:
        if not isinstance(route, PolicyRoute):
            raise InternalError(f"the route {getattr(route, 'path', route)} does not say who may use it")
        if route.policy is Policy.KEY:
            route.app = _KeyCheck(route.app, keys, limiter) if keys is not None else _NoCheck(route.app, limiter)
    return list(routes)


def key_owner(scope: Scope) -> KeyOwner:
    """Who sent the request, on a route that wants a key."""
    owner = scope[_OWNER]
    assert isinstance(owner, KeyOwner)
    return owner


class _KeyCheck:
    def __init__(self, app: ASGIApp, keys: KeyStore, limiter: RateLimiter) -> None:
        self._app = app
        self._keys = keys
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = await self._keys.find(_bearer(scope))
        if owner is None:
            raise KeyInvalid(
                "the API key is not valid; ask whoever runs this server for a new one (ecocore keys create --name NAME)"
            )
        scope[_OWNER] = owner
        scope[SENDER] = f"{owner.account}/{owner.key_name}"
        await self._app(self._limiter.watch(scope, owner), receive, send)


class _NoCheck:
    def __init__(self, app: ASGIApp, limiter: RateLimiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_OWNER] = _NOBODY
        await self._app(self._limiter.watch(scope, _NOBODY), receive, send)


def _bearer(scope: Scope) -> str:
    """The key in the Authorization header. Never quoted in an error: it might be right but for a letter."""
    values: list[bytes] = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if not values:
        raise KeyMissing("send your API key in the header: Authorization: Bearer eco_...")
    if len(values) > 1:
        raise KeyInvalid("send one Authorization header, not several")
    scheme, _, key = values[0].decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer":
        raise KeyInvalid("the Authorization header must read: Bearer eco_...")
    return key.strip()
