"""One exchange of a POST that runs a model: what all its endpoints do alike, for as long as the client is there.

Takes how a body is parsed and how its request is prepared, gives the bytes of the answer to the connection. The order of
judgement: body and JSON, model, price and balance, rate of requests, template and context, what it may cost, rate of
tokens, capacity.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ecocore.accounts.answers import Answers
from ecocore.accounts.pricing import Price
from ecocore.errors import EcocoreError, QueueFull, RegionUnavailable, RuntimeClosed
from ecocore.regions.region import Admission, Owner, Region
from ecocore.server.auth import key_owner
from ecocore.server.billing import Bill, Cashier, Kept, Used
from ecocore.server.error_table import api_error
from ecocore.server.idempotency import REPLAYED, fingerprint, idempotency_key
from ecocore.server.intake import Intake
from ecocore.server.model_list import ModelList
from ecocore.server.rate_limit import allowance
from ecocore.server.wire import SSE_HEADERS, Answer, Outbox, Told, error_event

log = logging.getLogger(__name__)


class Asked(Protocol):
    """A parsed body."""

    @property
    def model(self) -> str:
        """Which model is to run."""

    @property
    def stream(self) -> bool:
        """Whether the answer comes in pieces."""


Parsed = TypeVar("Parsed", bound=Asked)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the endpoints that run a model share.

    Without a `cashier` and `answers`, whoever sent the request has judged who pays.
    """

    models: ModelList
    outboxes: Mapping[Region, Outbox]
    intake: Intake
    cashier: Cashier | None = None
    answers: Answers | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Requests that could start now, and how their one answer is told."""

    admissions: list[Admission]
    told: Told


Prepare = Callable[[Region, Parsed], Awaitable[Ready]]


async def exchange(
    desk: Desk,
    parse: Callable[[Mapping[str, Any]], Parsed],
    prepare: Prepare[Parsed],
    *,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Reads, prepares, answers. Raises what `error_table` tells."""
    key = idempotency_key(scope) if desk.answers is not None else None
    prints: list[str] = []

    def parsed(fields: Mapping[str, Any]) -> Parsed:
        if key is not None:
            prints.append(fingerprint(scope["path"], fields))
        return parse(fields)

    async with AsyncExitStack() as held:
        # Without a name of its own here, the request is what the exchange makes of it.
        answering = _Exchange(
            desk, prepare, await held.enter_async_context(desk.intake.holding(scope, receive, parsed)), held, _Client(scope, send)
        )
        work = answering.run() if key is None else answering.run_once(key, *prints)
        await until_client_leaves(receive, work)


class _Client(NamedTuple):
    """Where the answer goes."""

    scope: Scope
    send: Send


class _Exchange(Generic[Parsed]):
    """From the parsed request to the last byte of its answer."""

    def __init__(self, desk: Desk, prepare: Prepare[Parsed], asked: Parsed, held: AsyncExitStack, client: _Client) -> None:
        self._desk = desk
        self._prepare = prepare
        self._asked: Parsed | None = asked
        self._held = held
        self._scope, self._send = client
        self._owner = key_owner(client.scope)
        self._allowance = allowance(client.scope)
        self._model = asked.model
        self._stream = asked.stream
        self._claim_id: str | None = None
        """A claim that nobody will end but this exchange."""
        self._begun = False

    async def run_once(self, key: str, told: str) -> None:
        """`run`, unless a plain request was answered under this key before. `told`: its fingerprint."""
        answers = self._desk.answers
        if answers is None or self._stream:
            await self.run()
            return
        claim_id = secrets.token_hex(16)
        kept = await answers.claim(self._owner.account_id, key, told, claim_id)
        if kept is not None:
            await self._send_plain(kept, [REPLAYED])
            return
        self._claim_id = claim_id
        try:
            await self.run()
        finally:
            if self._claim_id is not None:
                # Nothing came of it.
                await answers.release(claim_id)

    async def run(self) -> None:
        """The answer of the first region that gives one. After its first byte there is no other."""
        cashier = self._desk.cashier
        regions = self._desk.models.candidates(self._model)
        price = None if cashier is None else await cashier.tariff(self._owner, self._model)
        async with self._allowance.request():
            await self._try_each(regions, price)

    async def _try_each(self, regions: Sequence[Region], price: Price | None) -> None:
        for number, region in enumerate(regions, 1):
            last = number == len(regions)
            try:
                await self._attempt(region, price, last=last)
            except (RegionUnavailable, RuntimeClosed, QueueFull) as error:
                if last or self._begun:
                    raise
                self._desk.outboxes[region].failovers += 1
                # A region tells once that it is down; each request of a second would be a flood.
                log.info("trying another region of %s: %s", self._model, error)
            else:
                break

    async def _attempt(self, region: Region, price: Price | None, *, last: bool) -> None:
        """Raises RegionUnavailable where another region may be tried."""
        assert self._asked is not None
        ready = await self._prepare(region, self._asked)
        if last:
            await self._let_go()
        least = sum(one.prompt_tokens if one.least_prompt_tokens is None else one.least_prompt_tokens for one in ready.admissions)
        answer_id = ready.told.new_id()
        bill = await self._bill(answer_id, region, price, ready)
        try:
            outbox = self._desk.outboxes[region]
            with outbox.open(ready.admissions, ready.told, answer_id) as answer, self._spending(answer, least):
                await self._allowance.admit_tokens(least)
                owner = Owner(salt=b"account %d" % self._owner.account_id, key=self._owner.key_id)
                while ready.admissions:
                    await ready.admissions.pop(0).start(owner)
                # What is to be echoed is the writer's now.
                del ready
                # The status goes with the first bytes: what fails before is raised.
                first = await answer.take()
                self._begun = True
                await self._let_go()
                if self._stream:
                    await self._tell_stream(first, answer, bill, least)
                else:
                    await self._tell_plain(first, answer, bill)
        finally:
            if bill is not None:
                await bill.settle()

    @contextmanager
    def _spending(self, answer: Answer, prompt_tokens: int) -> Iterator[None]:
        """Counts what the answer used when it ends, however it ends. `prompt_tokens`: what counts already."""
        try:
            yield
        finally:
            usage = answer.usage
            self._allowance.spend(answer.delivered if usage is None else max(0, usage[0] - prompt_tokens) + usage[2])

    async def _bill(self, answer_id: str, region: Region, price: Price | None, ready: Ready) -> Bill | None:
        cashier, told = self._desk.cashier, ready.told
        if cashier is None:
            return None
        try:
            return await cashier.bill(
                answer_id, self._owner, price, ready.admissions, model=self._model, token_limit=told.token_limit
            )
        except BaseException:
            for admission in ready.admissions:
                region.cancel(admission.request_id)
            raise

    async def _let_go(self) -> None:
        """The body counts as held until nobody else may need it: images may weigh megabytes, and an answer may take minutes."""
        self._asked = None
        await self._held.aclose()

    async def _tell_plain(self, body: bytes, answer: Answer, bill: Bill | None) -> None:
        if bill is not None:
            kept = None if self._claim_id is None else Kept(self._claim_id, body.decode())
            # Whatever happens from here on, the answer is paid and will be kept: a release might come before it.
            self._claim_id = None
            await bill.settle(_used(answer), kept)
        await self._send_plain(body, [])

    async def _send_plain(self, body: bytes, headers: Sequence[tuple[str, str]]) -> None:
        await Response(body, 200, dict(headers), "application/json")(self._scope, _never, self._send)

    async def _tell_stream(self, first: bytes, answer: Answer, bill: Bill | None, prompt_tokens: int) -> None:
        send = self._send
        await send({"type": "http.response.start", "status": 200, "headers": list(SSE_HEADERS)})
        piece = first
        try:
            while piece:
                if bill is not None:
                    # Before it is sent: who waits for the end of it may leave with most of it.
                    bill.delivered(Used(prompt_tokens, answer.delivered))
                await answer.send(send, piece)
                piece = await answer.take()
        except EcocoreError as error:
            # The status is gone. An event that holds an error is what clients raise on; there is no [DONE] after it.
            await answer.send(send, error_event(api_error(error)))
        if bill is not None:
            await bill.settle(_used(answer))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _used(answer: Answer) -> Used | None:
    """What a whole answer used; None for one that ended before it was whole."""
    usage = answer.usage
    return None if usage is None else Used(usage[0], usage[2])


async def until_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends or the client is gone, whichever comes first. A client that left is no error."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_client_leaves(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
        # A failure's traceback holds this frame: without them it does not hold itself, and the request goes at once.
        del task, working, watching


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    """A plain answer has nothing more to receive."""
    raise AssertionError("a response does not read")
