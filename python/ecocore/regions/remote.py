"""The region that is an URL: the door from asyncio to any server that speaks the OpenAI API, an ecocore or another.

Takes requests as every region, tells them to that server, and gives the events of its stream. It judges little itself: what
a request may cost at most, and whether the server lives. Whatever ends there, each request here ends with an event or an error.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import aiohttp

from ecocore._core import ChunkDecoder, EventBatch
from ecocore.errors import ENGINE_LOST, InternalError, InvalidParameter, InvalidRequest, RegionUnavailable, UnsupportedParameter
from ecocore.regions import retold
from ecocore.regions.body import SHORT_CHARACTERS, is_short, spelled
from ecocore.regions.breaker import Breaker
from ecocore.regions.card import Card, Dialect
from ecocore.regions.peer import Peer, Watch
from ecocore.regions.region import Admission, Owner
from ecocore.regions.subscribers import Subscribers
from ecocore.request import ChatRequest

# Where nobody says how long the context is: few models have more, and the server there knows.
ASSUMED_CONTEXT: Final = 131_072
# The end of a stream comes with its last event, or just behind it; then the connection has other uses.
LAST_BYTES_SECONDS: Final = 1.0

Spell = Callable[[Owner], dict[str, Any]]


class RemoteRegion:
    """Runs requests at another server, over HTTP or HTTPS."""

    def __init__(
        self,
        name: str,
        url: str,
        model_id: str,
        *,
        model_there: str | None = None,
        api_key: str | None = None,
        context_length: int | None = None,
        watch: Watch | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        """`name`: of the region, for people. `url`: with or without `/v1`. `model_there`: what the model is called there.

        `context_length` counts over what the server tells. Raises InvalidConfiguration.
        """
        self.name: Final = name
        self.model_id: Final = model_id
        self._model_there = model_there or model_id
        self._set_context = context_length
        self._card = Card()
        self._started = int(time.time())
        self._peer = Peer(
            name,
            url,
            api_key=api_key,
            names={self._model_there: model_id},
            watch=watch or Watch(),
            breaker=breaker or Breaker(),
        )
        self._peer.on_answer = self._read_card
        self._request_ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: dict[int, asyncio.Timeout] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        """Whose answers are whole, and whose connections have not ended yet."""
        self._opening: list[int] | None = None
        self._prompt_tokens = self._generation_tokens = 0
        self._subscribers = Subscribers()

    def __repr__(self) -> str:
        return f"<RemoteRegion {self.name!r} of {self.model_id!r}>"

    @property
    def created(self) -> int:
        """See `Region.created`; as the server tells it."""
        return self._card.created or self._started

    @property
    def context_length(self) -> int:
        """See `Region.context_length`; as set, or else as the server tells it."""
        return self._set_context or self._card.context_length or ASSUMED_CONTEXT

    @property
    def abilities(self) -> tuple[str, ...]:
        """See `Region.abilities`; as the server tells it."""
        return ("text", "json", "tools") if self._card.abilities is None else self._card.abilities

    @property
    def accepts_images(self) -> bool:
        """See `Region.accepts_images`. A server that says nothing of it judges for itself."""
        return self._card.abilities is None or "images" in self._card.abilities

    @property
    def fingerprint(self) -> str:
        """See `Region.fingerprint`; of weights elsewhere nothing is known but where they are."""
        facts = f"{self.name}\0{self._model_there}\0{self._card.created}"
        return f"fp_{hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()}"

    @property
    def is_alive(self) -> bool:
        """See `Region.is_alive`; as of the last probe and the last requests."""
        return self._peer.is_alive

    def stats(self) -> Mapping[str, int]:
        """See `Region.stats`; what of it this side knows."""
        waiting, running = len(self._starting), len(self._running)
        unknown = ("free_blocks", "total_blocks", "prefix_queries", "prefix_hits", "preemptions")
        return {
            **dict.fromkeys(unknown, 0),
            "open": waiting + running,
            "waiting": waiting,
            "running": running,
            "prompt_tokens": self._prompt_tokens,
            "generation_tokens": self._generation_tokens,
        }

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """See `Region.connected`. The server is asked whether it lives before this is entered, and each second from then on."""
        self._loop = asyncio.get_running_loop()
        async with self._peer.connected():
            try:
                yield
            finally:
                tasks = [*self._running.values(), *self._ending]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._loop = None

    async def _read_card(self) -> None:
        card = Card.find(await self._peer.look_up("v1/models"), self._model_there)
        if card is None:
            self._peer.warn(f"does not list {self._model_there}; its answers will tell whether it runs it")
        self._card = card or self._card
        self._opening = None

    # --- asking -----------------------------------------------------------------------------------------

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """See `Region.tokenize`. Raises UnsupportedParameter where the server tells no tokens."""
        if text or not add_special_tokens:
            tokens = await self._tokens(text, add_special_tokens=add_special_tokens)
            if tokens is None:
                raise UnsupportedParameter("model", "the server that runs this model tells no tokens")
            return tokens
        # What every text begins with is asked for with each completion, and is always the same.
        if self._opening is None:
            self._opening = await self._tokens("", add_special_tokens=True) or []
        return list(self._opening)

    async def _tokens(self, text: str, *, add_special_tokens: bool) -> list[int] | None:
        fields = {"model": self._model_there, "prompt": text, "add_special_tokens": add_special_tokens}
        told = await self._peer.ask("tokenize", await spelled(lambda: fields, short=len(text) <= SHORT_CHARACTERS))
        tokens = told.get("tokens") if isinstance(told, Mapping) else None
        return tokens if isinstance(tokens, list) and all(type(one) is int and 0 <= one < 2**32 for one in tokens) else None

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Region.detokenize`. Raises as `tokenize`."""
        fields = {"model": self._model_there, "tokens": list(token_ids)}
        try:
            told = await self._peer.ask("detokenize", await spelled(lambda: fields, short=len(token_ids) <= SHORT_CHARACTERS))
        except InvalidRequest as error:
            # The endpoint has its own name for what is `ids` here.
            raise InvalidParameter("ids", error.message) from None
        prompt = told.get("prompt") if isinstance(told, Mapping) else None
        if not isinstance(prompt, str):
            raise UnsupportedParameter("model", "the server that runs this model tells no texts of tokens")
        return prompt

    async def prepare(self, request: ChatRequest) -> Admission:
        """See `Region.prepare`. Nothing is sent: the server there judges when the request is started."""
        if request.images and not self.accepts_images:
            raise UnsupportedParameter("messages", "this model reads text only; send no images")
        spell = partial(retold.chat, request, self._model_there, self._dialect)
        return self._admitted("v1/chat/completions", spell, request, retold.chat_tokens(request), short=is_short(request))

    async def prepare_plain(self, request: ChatRequest, prompt: str | Sequence[int], *, scores: bool) -> Admission:
        """See `Region.prepare_plain`, and `prepare`. Raises UnsupportedParameter for scores."""
        if scores:
            raise UnsupportedParameter(
                "echo", "cannot go with logprobs for this model: the server that runs it tells none of prompts"
            )
        spell = partial(retold.completion, request, prompt, self._model_there, self._dialect)
        short = len(prompt) <= SHORT_CHARACTERS
        return self._admitted("v1/completions", spell, request, retold.prompt_tokens(prompt), short=short)

    @property
    def _dialect(self) -> Dialect:
        return self._card.dialect

    def _admitted(self, path: str, spell: Spell, request: ChatRequest, tokens: tuple[int, int], *, short: bool) -> Admission:
        if not self.is_alive:
            raise RegionUnavailable("no server that runs this model answers at the moment; retry in a few seconds")
        least, most = tokens
        request_id = next(self._request_ids)
        choices = request.n
        most_drawn = choices * min(request.token_limit or self.context_length, self.context_length)

        async def start(owner: Owner) -> None:
            body = await spelled(partial(spell, owner), short=short)
            await self._start(request_id, path, body, ChunkDecoder(request_id, choices, prompt_tokens=least))

        return Admission(request_id, start, most, most_drawn, choices, least)

    # --- telling ----------------------------------------------------------------------------------------

    async def _start(self, request_id: int, path: str, body: bytes, decoder: ChunkDecoder) -> None:
        """Returns when the server has taken the request, or when it was cancelled: then nothing is told of it."""
        async with AsyncExitStack() as leaving:
            leaving.enter_context(suppress(TimeoutError))
            self._starting[request_id] = await leaving.enter_async_context(asyncio.timeout(None))
            leaving.callback(self._starting.pop, request_id, None)
            response = await self._peer.stream(path, body)
            self._running[request_id] = task = asyncio.create_task(self._follow(request_id, response, decoder))
            task.add_done_callback(partial(self._leave, request_id, response))

    async def _follow(self, request_id: int, response: aiohttp.ClientResponse, decoder: ChunkDecoder) -> None:
        """Tells the events of a request as they come, and its loss if they end before they should."""
        try:
            with suppress(RegionUnavailable):
                await self._tell_stream(response, decoder)
        except InternalError as error:
            self._peer.failed(f"is not understood: {error}")
        if not decoder.is_complete:
            words = "the server that ran this request was lost before the answer ended; retry"
            self._tell(decoder.fail(ENGINE_LOST, words))
        # From here on there is nothing left to cancel.
        if (task := self._running.pop(request_id, None)) is not None:
            self._ending.add(task)
        if decoder.usage is not None:
            self._prompt_tokens += decoder.usage[0]
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(LAST_BYTES_SECONDS):
                while await response.content.readany():
                    pass

    async def _tell_stream(self, response: aiohttp.ClientResponse, decoder: ChunkDecoder) -> None:
        now = asyncio.get_running_loop().time
        async with self._peer.waiting() as wait:
            async for piece in response.content.iter_any():
                events = decoder.push(piece)
                # A server that only says that it lives keeps the client's first byte waiting all the same.
                if wait.heard is not None or len(events):
                    wait.heard = now()
                self._tell(events)
                if decoder.is_complete:
                    return
        if not decoder.is_complete:
            self._peer.failed("ended a stream before the answer did")

    def _leave(self, request_id: int, response: aiohttp.ClientResponse, task: asyncio.Task[None]) -> None:
        # Before the last byte the other side sees this and stops; after it the connection has other uses already.
        response.close()
        self._running.pop(request_id, None)
        self._ending.discard(task)

    def _tell(self, events: EventBatch) -> None:
        self._generation_tokens += events.num_tokens
        self._subscribers.tell(events)

    def cancel(self, request_id: int) -> None:
        """See `Region.cancel`."""
        known = request_id in self._running or request_id in self._starting
        if known and self._loop is not None:
            # A loop that is closed has let its tasks go already.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop, request_id)

    def _stop(self, request_id: int) -> None:
        if task := self._running.get(request_id):
            task.cancel()
        elif starting := self._starting.pop(request_id, None):
            starting.reschedule(0)

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """See `Region.subscribe`; the calls come on the event loop that is connected."""
        return self._subscribers.subscribe(callback)

    def close(self) -> None:
        """Nothing is held outside `connected`."""
