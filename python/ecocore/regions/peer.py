"""A server elsewhere: takes paths and bodies, gives answers of status 200, or says that it does not answer.

It asks each second whether the server lives, and ends what waits there in vain. What is asked and told is the region's.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from yarl import URL

from ecocore.errors import InvalidConfiguration, RegionUnavailable, RuntimeClosed
from ecocore.regions.body import in_pieces
from ecocore.regions.breaker import Breaker
from ecocore.regions.refusal import STATUSES, Discretion, refusal

log = logging.getLogger(__name__)

# Shorter than other servers wait for the next request, so that none is sent into a connection that is being closed.
KEEP_ALIVE_SECONDS: Final = 3.0
ASK_AGAIN_SECONDS: Final = 30.0
MAX_ERROR_BYTES: Final = 64 * 1024
MAX_JSON_BYTES: Final = 16 * 2**20
EVENT_STREAM: Final = "text/event-stream"
# Said of this request, or of how much there is to do: the server is there, and others may have better luck with it.
_NOT_BROKEN: Final = frozenset({408, 409, 429, 500, 503})


@dataclass(frozen=True, slots=True)
class Watch:
    """How closely a server is watched, in seconds."""

    every: float = 1.0
    """From one probe to the next."""
    patience: float = 1.0
    """For the answer to a probe."""
    connect: float = 1.0
    """For a connection, from the name's address to the end of its handshake."""
    silence: float = 10.0
    """After so long without a byte a stream ends, if probes get no answer either."""


@dataclass(eq=False, slots=True)
class Wait:
    """Something that waits for the server. `heard`: when its answer last said something, on the loop's clock."""

    deadline: asyncio.Timeout
    heard: float | None = None


class Peer:
    """One server, as one model's region sees it. Its key is in no message, no log and no repr."""

    def __init__(
        self, name: str, url: str, *, api_key: str | None, names: Mapping[str, str], watch: Watch, breaker: Breaker
    ) -> None:
        """`names`: of models there, to what they are called here. Raises InvalidConfiguration."""
        self.name: Final = name
        self.breaker: Final = breaker
        self.on_answer: Callable[[], Awaitable[None]] | None = None
        """Awaited when the server answers for the first time, or again after it did not, and now and then while it does."""
        self._root = _root(name, url)
        self._watch = watch
        host = self._root.host or ""
        # A host of very few letters is a part of many words.
        secrets = (api_key or "", str(self._root), host if len(host) > 3 else "")
        self._discretion = Discretion(tuple(filter(None, secrets)), names)
        self._authorization = {} if api_key is None else {"authorization": f"Bearer {_plain(name, api_key)}"}
        self._session: aiohttp.ClientSession | None = None
        self._waiting: set[Wait] = set()
        self._asks_again = 0.0
        self._told: set[str] = set()
        """What the log knows since the server last answered."""

    @property
    def is_alive(self) -> bool:
        """Whether it is worth asking; never waits."""
        return self._session is not None and self.breaker.is_closed

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Inside, the server may be asked, and is watched. It was asked once before this is entered."""
        # No proxy and no key file of the environment, no cookies, nothing that unpacks: what is sent is what was meant, and
        # what comes is taken as it is. How long an answer may take is the server's matter.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._watch.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "user-agent": "ecocore"},
            auto_decompress=False,
            trust_env=False,
        ) as session:
            self._session = session
            await self._look()
            if not self.breaker.is_closed:
                self.warn("does not answer yet; its requests go to other regions")
            watching = asyncio.create_task(self._keep_looking())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                self._session = None

    # --- asking -----------------------------------------------------------------------------------------

    async def stream(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Begins a stream of events. Raises InvalidRequest where the request is at fault, else RegionUnavailable."""
        response = await self._post(path, body, EVENT_STREAM)
        try:
            await self._checked(response)
            self._check_stream(response)
        except BaseException:
            response.close()
            raise
        return response

    async def ask(self, path: str, body: bytes) -> Any | None:
        """JSON for JSON; None where the server has no such path. Raises as `stream`."""
        async with await self._post(path, body, "application/json") as response:
            if response.status in (404, 405, 501):
                return None
            await self._checked(response)
            async with self.waiting():
                told = await _bounded(response, MAX_JSON_BYTES)
        try:
            return json.loads(told or b"")
        except (ValueError, RecursionError):
            raise self._unavailable("answered what is no JSON") from None

    async def look_up(self, path: str) -> Any | None:
        """JSON of a GET, as patiently as for a probe; None for whatever else comes."""
        try:
            async with asyncio.timeout(self._watch.patience), self._get(path, self._authorization) as response:
                told = await _bounded(response, MAX_JSON_BYTES) if response.status == 200 else None
            return None if told is None else json.loads(told)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, RecursionError):
            return None

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[Wait]:
        """Ends what happens inside once the server is silent, or its connection lost. Raises RegionUnavailable for both."""
        try:
            async with asyncio.timeout(None) as deadline:
                wait = Wait(deadline)
                self._waiting.add(wait)
                try:
                    yield wait
                finally:
                    self._waiting.discard(wait)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self.failed(_reason(error)) from None

    def failed(self, reason: str) -> RegionUnavailable:
        """Counts a failure of the server; gives the error for whoever asked, whom it tells no reason."""
        self.breaker.failed()
        return self._unavailable(reason)

    async def _post(self, path: str, body: bytes, accept: str) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeClosed("this region is not connected")
        if not self.breaker.is_closed:
            raise self._unavailable()
        headers = {**self._authorization, "content-type": "application/json", "accept": accept}
        async with self.waiting():
            return await self._session.post(
                self._root.joinpath(path), data=in_pieces(body), headers=headers, allow_redirects=False
            )

    def _get(self, path: str, headers: Mapping[str, str]) -> "aiohttp.client._RequestContextManager":
        assert self._session is not None, "only what is connected looks"
        return self._session.get(self._root.joinpath(path), headers=headers, allow_redirects=False)

    async def _checked(self, response: aiohttp.ClientResponse) -> None:
        """Raises for every status but 200."""
        if response.status == 200:
            return
        if response.status in STATUSES:
            async with self.waiting():
                body = await _bounded(response, MAX_ERROR_BYTES)
            if (error := refusal(response.status, body or b"", self._discretion)) is not None:
                raise error
        reason = f"answered with status {response.status}"
        raise self._unavailable(reason) if response.status in _NOT_BROKEN else self.failed(reason)

    def _check_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.content_type != EVENT_STREAM or "content-encoding" in response.headers:
            raise self.failed("answered something else where a stream of events was asked for")

    def warn(self, reason: str) -> None:
        """Tells the log, once until the server was away: what is wrong stays so until someone mends it."""
        if reason not in self._told:
            self._told.add(reason)
            log.warning("region %s %s", self.name, reason)

    def _unavailable(self, reason: str | None = None) -> RegionUnavailable:
        if reason is not None:
            self.warn(f"{reason}; its requests go to other regions")
        return RegionUnavailable("no server that runs this model answers at the moment; retry in a few seconds")

    # --- watching ---------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A probe that took its whole time is followed by the next at once.
            due = max(due + self._watch.every, loop.time())
            await asyncio.sleep(due - loop.time())
            await self._look()

    async def _look(self) -> None:
        was_alive = self.breaker.is_closed
        self.breaker.probed(answered=await self._answers())
        if self.breaker.is_silent:
            self._end_waits()
        if was_alive and not self.breaker.is_closed:
            self.warn("does not answer; its requests go to other regions")
        if self.breaker.is_closed and not was_alive:
            self._told.clear()
            self._asks_again = 0.0
            log.info("region %s answers", self.name)
        now = asyncio.get_running_loop().time()
        if self.breaker.is_closed and now >= self._asks_again and self.on_answer is not None:
            self._asks_again = now + ASK_AGAIN_SECONDS
            await self.on_answer()

    async def _answers(self) -> bool:
        """Whether it answers HTTP, whatever it says but that it is broken."""
        try:
            # Without the key: whether a server lives is nobody's secret.
            async with asyncio.timeout(self._watch.patience), self._get("health", {}) as response:
                return response.status < 500
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    def _end_waits(self) -> None:
        """Ends what waits for a first byte, and streams that fell silent."""
        now = asyncio.get_running_loop().time()
        for wait in tuple(self._waiting):
            if wait.heard is None or now - wait.heard >= self._watch.silence:
                self._waiting.discard(wait)
                wait.deadline.reschedule(now)


def _root(name: str, url: str) -> URL:
    """The address without `/v1`, which some write and some do not."""
    try:
        root = URL(url)
    except ValueError:
        raise InvalidConfiguration(f"regions: the url of {name!r} is none") from None
    if root.scheme not in ("http", "https") or not root.host:
        raise InvalidConfiguration(f"regions: the url of {name!r} must begin with http:// or https:// and a host")
    if root.user or root.password or root.query_string or root.fragment:
        raise InvalidConfiguration(f"regions: the url of {name!r} must hold no user, key or query; name the key in api_key_env")
    return root.with_path(root.path.rstrip("/").removesuffix("/v1") + "/")


def _plain(name: str, api_key: str) -> str:
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise InvalidConfiguration(f"regions: the key of {name!r} must be printable ASCII without spaces")
    return api_key


async def _bounded(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The whole body; None if it is longer."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            response.close()
            return None
    return bytes(body)


def _reason(error: Exception) -> str:
    """What happened, for the log: no words of other libraries, which might quote a header."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "cannot be trusted: its certificate or its TLS is wrong"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return f"cannot be reached: {os.strerror(error.errno)}"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    return f"was lost ({type(error).__name__})"
