"""Limits before anything else: what a request may weigh, how long its body may take, what JSON may look like.

Stands before every route. Gives each exchange its id and every error its envelope; knows no keys and no models.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ecocore.redaction import redacted
from ecocore.server.error_table import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    EncodingUnsupported,
    HeadersTooLarge,
    PathTooLong,
    ServerBusy,
    api_error,
)
from ecocore.server.tidy import Tidier
from ecocore.server.wire import error_response

log = logging.getLogger(__name__)
access = logging.getLogger("ecocore.access")

MAX_LOGGED_PATH: Final = 200
SENDER: Final = "ecocore.sender"
"""In the scope of an exchange, once its key is known: whose it is, for the log."""

Headers = list[tuple[bytes, bytes]]
Observer = Callable[[Scope, int, float], None]
LateHeaders = Callable[[], Awaitable[Headers]]

HEADERS: Final = "ecocore.headers"
"""In the scope: a list of what the answer's head tells besides, whatever the answer; who stands behind may add to it."""
LATE_HEADERS: Final = "ecocore.late_headers"
"""In the scope: a list of functions that give such headers when the head is about to be sent."""

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/]*+)", re.IGNORECASE)
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost before it is understood."""

    headers: int = 100
    header_bytes: int = 32 * 1024
    path_bytes: int = 8 * 1024
    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    small_body_bytes: int = 64 * 1024
    """A body up to this size never waits for room."""
    large_bodies_bytes: int = 64 * 2**20
    """All larger bodies together."""
    linger_seconds: float = 2.0
    """How long an answered client may go on sending, so that it gets to read the answer."""

    @classmethod
    def for_models(cls, *, images: bool) -> Self:
        """The defaults; `images`: whether any model looks at them, which makes requests larger."""
        return cls(body_bytes=16 * 2**20) if images else cls()


class Guard:
    """The outermost layer: refuses what no route should see, and answers every exception."""

    def __init__(self, app: ASGIApp, limits: Limits, observe: Observer | None = None) -> None:
        """`app`: everything behind. `observe` hears of each answer: its scope, status and seconds."""
        self._app = app
        self._limits = limits
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            exchange = _Exchange(scope, receive, send, self._limits)
            try:
                await exchange.run(self._app)
            finally:
                if exchange.status is not None:
                    exchange.note()
                    if self._observe is not None:
                        self._observe(scope, exchange.status, exchange.seconds())
        else:
            await self._app(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._begun = time.monotonic()
        self._request_id = _request_id(scope["headers"])
        self._body_read = not _announces_body(scope["headers"])
        self._closing = False
        self._headers: Headers = scope.setdefault(HEADERS, [])
        self._late_headers: list[LateHeaders] = scope.setdefault(LATE_HEADERS, [])
        self.status: int | None = None
        """Of the answer, once it has begun."""

    def seconds(self) -> float:
        """Since the head of the request was read."""
        return time.monotonic() - self._begun

    def note(self) -> None:
        """One line for the log."""
        path = self._scope.get("raw_path", b"")[:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
        milliseconds = self.seconds() * 1000
        sender = self._scope.get(SENDER, "-")
        access.info(
            "%s %s %s %s by %s, %.0f ms", self._request_id, self._scope["method"], path, self.status, sender, milliseconds
        )

    async def run(self, app: ASGIApp) -> None:
        try:
            self._judge()
            await app(self._scope, self.receive, self.send)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001  # whatever happens, the client gets an answer and the log the reason
            await self._answer_with(error)

    def _judge(self) -> None:
        """Refuses what is wrong whoever asks for whatever; the connection ends with the answer."""
        try:
            _judge_head(self._scope, self._limits)
        except Exception:
            self._closing = True
            raise

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            late = [header for give in self._late_headers for header in await give()]
            await self._send({**message, "headers": [*message["headers"], *self._headers, *late, *self._own_headers()]})
        elif self._body_read or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send_while_draining(message)

    def _own_headers(self) -> Headers:
        milliseconds = round(self.seconds() * 1000)
        headers = [(b"x-request-id", self._request_id.encode()), (b"openai-processing-ms", b"%d" % milliseconds)]
        if self._closing or not self._body_read:
            headers.append((b"connection", b"close"))
        return headers

    async def _send_while_draining(self, last: Message) -> None:
        """Ends an answer whose request is still arriving.

        Closing at once would reset the connection, and the client would lose the answer with it. And the server
        below hands over the body through a short queue: if nobody emptied it, its own end would never come through.
        """
        draining = asyncio.create_task(self._drain())
        left = self._limits.body_seconds - self.seconds()
        try:
            await self._send({**last, "more_body": True})
            await asyncio.wait({draining}, timeout=max(0.0, min(left, self._limits.linger_seconds)))
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            await asyncio.wait({draining}, timeout=self._limits.linger_seconds)
        finally:
            draining.cancel()

    async def _drain(self) -> None:
        while not self._body_read:
            await self.receive()

    async def _answer_with(self, error: Exception) -> None:
        told = api_error(error)
        if told.status == 500 or self.status is not None:
            log.error("request %s failed", self._request_id, exc_info=error)
        if self.status is not None:
            # Too late for a status: the server cuts the connection, which no client takes for a whole answer.
            return
        await error_response(told)(self._scope, self.receive, self.send)


def _judge_head(scope: Scope, limits: Limits) -> None:
    headers: Headers = scope["headers"]
    if len(headers) > limits.headers:
        raise HeadersTooLarge(f"a request may have at most {limits.headers} header fields, this one has {len(headers)}")
    if sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
        raise HeadersTooLarge(f"the header fields of a request may take at most {limits.header_bytes} bytes together")
    if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > limits.path_bytes:
        raise PathTooLong(f"path and query may take at most {limits.path_bytes} bytes")
    names = [name for name, _ in headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise BadRequest("send Content-Length or Transfer-Encoding, not both")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 and scope["http_version"] != "1.0":
        raise BadRequest("send one Host header")
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise BadRequest("the Host header is no host name")
    _strip_authority(scope, hosts)


def _strip_authority(scope: Scope, hosts: list[bytes]) -> None:
    """Turns `GET http://host/path`, as it is sent to proxies, into `GET /path`: both name the same thing here."""
    absolute = _ABSOLUTE.match(scope.get("raw_path", b""))
    if absolute is None:
        return
    authority = absolute[1].lower()
    if not _HOST.fullmatch(authority) or any(host.lower() != authority for host in hosts):
        raise BadRequest("the URL of the request and its Host header name different hosts")
    scope["raw_path"] = scope["raw_path"][absolute.end() :] or b"/"
    scope["path"] = unquote(scope["raw_path"].decode("ascii", "replace"))


def _announces_body(headers: Headers) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _request_id(headers: Headers) -> str:
    """The client's own id if it is short, plain and no key, so that both logs can be read together; else a fresh one."""
    for name, value in headers:
        if name == b"x-request-id" and _PLAIN_ID.fullmatch(text := value.decode("latin-1")) and redacted(text) == text:
            return text
    return fresh_request_id()


def fresh_request_id() -> str:
    """An id for an exchange whose client sent none."""
    return f"req_{secrets.token_hex(16)}"


class BodyReader:
    """Reads bodies, within their size, their time and the memory that all of them may take."""

    def __init__(self, limits: Limits) -> None:
        """Counts the large bodies that are held at the moment."""
        self._limits = limits
        self._held = 0
        self._tidier = Tidier()

    @asynccontextmanager
    async def read(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body; it counts as held until the block ends.

        Raises BodyTooLarge, BodyTooSlow, EncodingUnsupported, ServerBusy, ClientDisconnect.
        """
        _judge_body_headers(scope["headers"], self._limits)
        body = bytearray()
        try:
            await self._fill(body, receive)
            yield bytes(body)
        finally:
            self._held -= self._weight(len(body))
            if self._weight(len(body)):
                self._tidier.after_large_request()

    async def _fill(self, body: bytearray, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    self._add(body, message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive within {self._limits.body_seconds:g} seconds") from None

    def _add(self, body: bytearray, piece: bytes) -> None:
        before = self._weight(len(body))
        body += piece
        self._held += self._weight(len(body)) - before
        if len(body) > self._limits.body_bytes:
            raise _too_large(self._limits)
        if self._held > self._limits.large_bodies_bytes and len(body) > self._limits.small_body_bytes:
            raise ServerBusy("many large requests are being read; retry in a moment")

    def _weight(self, size: int) -> int:
        return size if size > self._limits.small_body_bytes else 0


def _judge_body_headers(headers: Headers, limits: Limits) -> None:
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise EncodingUnsupported("send the body uncompressed, without Content-Encoding")
        if name == b"content-length" and value.isdigit() and int(value) > limits.body_bytes:
            raise _too_large(limits)


def _too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"a body may have at most {limits.body_bytes} bytes ({limits.body_bytes / 2**20:g} MiB)")
