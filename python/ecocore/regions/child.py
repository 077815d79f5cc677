"""The region in a process of its own: the door from asyncio to an engine that may be lost without its server.

Takes requests as every region, sends them as the API's JSON to the process that `ChildProcess` watches over, and gives the
events that come back. Whatever ends there, each request here ends with an event or an error.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from ecocore._core import EventBatch, EventDecoder
from ecocore.errors import ENGINE_LOST, InternalError, InvalidParameter, RegionUnavailable, RuntimeClosed
from ecocore.regions.body import SHORT_CHARACTERS, Fields, in_pieces, is_short, spelled
from ecocore.regions.child_process import ChildProcess, Watch
from ecocore.regions.contract import ADMISSION, ADMISSIONS_PATH, EVENTS, owner_headers, rebuilt
from ecocore.regions.region import Admission, Owner
from ecocore.regions.subscribers import Subscribers
from ecocore.request import ChatRequest

log = logging.getLogger(__name__)

# The name stands in the Host header; the way there is the connector's.
ENGINE: Final = URL("http://engine")
# Shorter than the other side waits for the next request, so that none is sent into a connection that is being closed.
KEEP_ALIVE_SECONDS: Final = 3.0


class ChildRegion:
    """Runs requests in a process of its own, which is started again whenever it ends."""

    def __init__(self, process: ChildProcess) -> None:
        """Use `start`."""
        self._process = process
        self.model_id: Final = process.facts.model_id
        self.created: Final = process.facts.created
        self.accepts_images: Final = process.facts.accepts_images
        self._request_ids = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parked: dict[int, str] = {}
        """What the other side keeps for requests that have not been started."""
        self._running: dict[int, asyncio.Task[None]] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Timeout] = set()
        self._subscribers = Subscribers()
        process.on_loss = self._lose

    @classmethod
    def start(cls, name: str, command: Sequence[str], watch: Watch | None = None) -> Self:
        """Starts the engine of `name` and waits until it answers. See `ChildProcess`."""
        process = ChildProcess(name, command, watch)
        try:
            process.start()
        except BaseException:
            process.close()
            raise
        return cls(process)

    @property
    def context_length(self) -> int:
        """See `Region.context_length`."""
        return self._process.facts.context_length

    @property
    def fingerprint(self) -> str:
        """See `Region.fingerprint`."""
        return self._process.facts.fingerprint

    @property
    def abilities(self) -> tuple[str, ...]:
        """See `Region.abilities`."""
        return self._process.facts.abilities

    @property
    def is_alive(self) -> bool:
        """See `Region.is_alive`."""
        return self._process.is_alive

    @property
    def pid(self) -> int | None:
        """The number of the engine's process, if there is one."""
        return self._process.pid

    def stats(self) -> Mapping[str, int]:
        """See `Region.stats`; as of the last heartbeat, and `restarts`."""
        return self._process.stats()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """See `Region.connected`."""
        connector = aiohttp.UnixConnector(str(self._process.socket_path), limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        self._loop = asyncio.get_running_loop()
        # How long anything may take is the server's matter, and whether the other side lives is the watch's.
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session:
            self._session = session
            try:
                yield
            finally:
                running = [*self._running.values(), *self._releasing]
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                self._parked.clear()
                self._session = self._loop = None

    # --- asking -----------------------------------------------------------------------------------------

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """See `Region.tokenize`."""
        fields = {"model": self.model_id, "prompt": text, "add_special_tokens": add_special_tokens}
        tokens: list[int] = (await self._ask("/tokenize", lambda: fields, short=len(text) <= SHORT_CHARACTERS))["tokens"]
        return tokens

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Region.detokenize`."""
        try:
            fields = {"model": self.model_id, "tokens": list(token_ids)}
            prompt: str = (await self._ask("/detokenize", lambda: fields, short=False))["prompt"]
        except InvalidParameter as error:
            # The endpoint has its own name for what is `ids` here.
            raise InvalidParameter("ids", error.message) from None
        return prompt

    async def prepare(self, request: ChatRequest) -> Admission:
        """See `Region.prepare`."""
        return await self._admitted("/v1/chat/completions", request.told_again, request, short=is_short(request))

    async def prepare_plain(self, request: ChatRequest, prompt: str | Sequence[int], *, scores: bool) -> Admission:
        """See `Region.prepare_plain`."""

        def fields() -> Mapping[str, Any]:
            logprobs = {"logprobs": request.top_logprobs} if request.logprobs else {}
            own = {"prompt": prompt, "max_tokens": request.token_limit, "echo": scores, **logprobs}
            shared = request.told_again()
            for name in ("messages", "logprobs", "top_logprobs"):
                shared.pop(name, None)
            return {**shared, **own}

        return await self._admitted("/v1/completions", fields, request, short=len(prompt) <= SHORT_CHARACTERS)

    async def _admitted(self, path: str, fields: Fields, request: ChatRequest, *, short: bool) -> Admission:
        choices = request.n
        told = await self._ask(path, fields, short=short)
        name = told["admission"]
        request_id = next(self._request_ids)
        self._parked[request_id] = name

        async def start(owner: Owner) -> None:
            headers = {"accept": EVENTS, **owner_headers(owner)}
            response = await self._send(f"{ADMISSIONS_PATH}/{name}", None, headers)
            # Whoever leaves before this line still gives it up with `cancel`.
            self._parked.pop(request_id, None)
            await self._checked(response)
            following = self._follow(response, EventDecoder(request_id, choices))
            self._running[request_id] = task = asyncio.create_task(following)
            task.add_done_callback(partial(self._leave, request_id, response))

        return Admission(request_id, start, told["prompt_tokens"], told["max_completion_tokens"], choices)

    async def _ask(self, path: str, fields: Fields, *, short: bool) -> Any:
        body = await spelled(fields, short=short)
        response = await self._send(path, body, {"accept": ADMISSION, "content-type": "application/json"})
        del body
        await self._checked(response)
        return json.loads(await self._whole(response))

    async def _send(
        self, path: str, body: bytes | None, headers: Mapping[str, str], *, method: str = "POST"
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeClosed("this region is not connected")
        if not self.is_alive:
            raise self._unavailable()
        async with self._while_alive():
            return await self._session.request(method, ENGINE.with_path(path), data=in_pieces(body), headers=headers)

    async def _checked(self, response: aiohttp.ClientResponse) -> None:
        """Raises what the other side raised."""
        if response.status == 200:
            return
        body = await self._whole(response)
        if response.content_type != ADMISSION:
            raise InternalError(f"the engine of {self.model_id} answered {response.status}: {body[:200]!r}")
        error = rebuilt(json.loads(body))
        # The engine ends, and this server goes on.
        raise self._unavailable() if isinstance(error, RuntimeClosed) else error

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        async with self._while_alive():
            return await response.read()

    @asynccontextmanager
    async def _while_alive(self) -> AsyncIterator[None]:
        """Ends what happens inside once the engine is lost, or its connection. Raises RegionUnavailable for both."""
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.add(waiting)
                try:
                    yield
                finally:
                    self._waiting.discard(waiting)
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise self._unavailable() from None

    def _lose(self) -> None:
        """On the thread of the watch: the engine is lost, though its sockets may be open for a while."""

        def end() -> None:
            while self._waiting:
                self._waiting.pop().reschedule(0)

        # A loop that is closed, or none, has nobody left who waits.
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(end)

    def _unavailable(self) -> RegionUnavailable:
        return RegionUnavailable(f"the engine of {self.model_id} is being started again; retry in a few seconds")

    # --- telling ----------------------------------------------------------------------------------------

    async def _follow(self, response: aiohttp.ClientResponse, decoder: EventDecoder) -> None:
        """Tells the events of a request as they come, and its loss if they end before they should."""
        try:
            with suppress(RegionUnavailable):
                async with self._while_alive():
                    async for piece in response.content.iter_any():
                        self._subscribers.tell(decoder.push(piece))
        except InternalError:
            log.exception("the engine of %s is not understood", self.model_id)
        if not decoder.is_complete:
            words = f"the engine of {self.model_id} ended before the answer did; it is being started again"
            self._subscribers.tell(decoder.fail(ENGINE_LOST, words))

    def _leave(self, request_id: int, response: aiohttp.ClientResponse, _following: object) -> None:
        # Before the last event the other side sees this and stops; after it the connection has other uses already.
        response.close()
        self._running.pop(request_id, None)

    def cancel(self, request_id: int) -> None:
        """See `Region.cancel`."""
        known = request_id in self._running or request_id in self._parked
        if known and self._loop is not None:
            # A loop that is closed has let its tasks go already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop, request_id)

    def _stop(self, request_id: int) -> None:
        if task := self._running.get(request_id):
            task.cancel()
        elif name := self._parked.pop(request_id, None):
            self._releasing.add(releasing := asyncio.create_task(self._release(name)))
            releasing.add_done_callback(self._releasing.discard)

    async def _release(self, name: str) -> None:
        """What is not started must not fill the engine's memory until its time is over."""
        # An engine that is gone keeps nothing.
        with suppress(RegionUnavailable):
            response = await self._send(f"{ADMISSIONS_PATH}/{name}", None, {}, method="DELETE")
            await self._checked(response)
            await self._whole(response)

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """See `Region.subscribe`; the calls come on the event loop that is connected."""
        return self._subscribers.subscribe(callback)

    def close(self) -> None:
        """Ends the process."""
        self._process.close()
