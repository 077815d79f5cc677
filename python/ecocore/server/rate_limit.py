"""What a key may still use, as the API tells it: 429 with when to come again, and headers on every answer.

Takes a key's owner from `auth`, gives an exchange its `Allowance`. The counting is `accounts.limits`'.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import ceil
from typing import Final

from starlette.types import Scope

from ecocore.accounts.keys import KeyOwner
from ecocore.accounts.limits import Counted, KeyCounts, Standing, Verdict
from ecocore.server.error_table import RequestsExceeded, TokensExceeded
from ecocore.server.guard import LATE_HEADERS, Headers

_ALLOWANCE: Final = "ecocore.allowance"
CONCURRENCY: Final = "concurrency"
REFUSALS: Final = (Counted.REQUESTS.value, Counted.TOKENS.value, CONCURRENCY)

# A request that can never be taken: clients that do not know `x-should-retry` shall at least be slow.
_NEVER_SECONDS: Final = 60.0
# Nobody knows when an answer ends that holds a place.
_PLACE_SECONDS: Final = 1.0


class RateLimiter:
    """The limits of all keys, and how often they were reached."""

    def __init__(self, limits: KeyCounts | None = None) -> None:
        """`limits`: unless given, those of this process alone."""
        self._limits = limits or KeyCounts()
        self.refused: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        """How many requests were refused, by the limit."""

    @property
    def shared_is_lost(self) -> bool | None:
        """Whether Redis is lost; None if there is none to lose."""
        return self._limits.shared_is_lost

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Holds connections while inside."""
        return self._limits.connected()

    def watch(self, scope: Scope, owner: KeyOwner) -> Scope:
        """Gives an exchange its `Allowance`, and its answer the headers of it."""
        allowance = scope[_ALLOWANCE] = Allowance(owner, self._limits, self.refused)
        if allowance.tells_headers and LATE_HEADERS in scope:
            scope[LATE_HEADERS].append(allowance.headers)
        return scope


def allowance(scope: Scope) -> "Allowance":
    """What the sender of the request may use, on a route that wants a key."""
    found = scope[_ALLOWANCE]
    assert isinstance(found, Allowance)
    return found


class Allowance:
    """What one exchange may use of its key's limits: a request and a place, the tokens of its prompt, those of its answer."""

    def __init__(self, owner: KeyOwner, limits: KeyCounts, refused: Counter[str]) -> None:
        """`refused` counts what this exchange is refused."""
        self._owner = owner
        self._limits = limits
        self._refused = refused
        self._standings: dict[Counted, Standing] = {}

    @property
    def tells_headers(self) -> bool:
        """Whether there is anything to tell."""
        return self._owner.requests_per_minute is not None or self._owner.tokens_per_minute is not None

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Counts a request, which has one of the key's places until the block ends. Raises RequestsExceeded."""
        places = self._owner.concurrency
        if places is not None and not self._limits.enter(self._owner.key_id, places):
            self._refused[CONCURRENCY] += 1
            raise RequestsExceeded(
                f"this key may have {places} requests running at once, and has them; "
                "wait for one to end, or ask the operator for a higher limit",
                _retry(_PLACE_SECONDS),
            )
        try:
            await self._count_request()
            yield
        finally:
            if places is not None:
                self._limits.leave(self._owner.key_id)

    async def admit_tokens(self, prompt_tokens: int) -> None:
        """Counts the tokens of a prompt, once, wherever it is tried. Raises TokensExceeded."""
        limit = self._owner.tokens_per_minute
        if limit is None or Counted.TOKENS in self._standings:
            return
        verdict = await self._take(Counted.TOKENS, prompt_tokens, limit)
        if verdict.admitted:
            return
        if verdict.wait is None:
            raise TokensExceeded(
                f"this key may use {limit} tokens per minute, and the prompt alone has {prompt_tokens}, so waiting does not "
                "help; send a shorter prompt, or ask the operator for a higher limit",
                (*_retry(_NEVER_SECONDS), ("x-should-retry", "false")),
            )
        raise TokensExceeded(
            f"this key may use {limit} tokens per minute, {verdict.standing.remaining} are left, and the prompt has "
            f"{prompt_tokens}; retry in {duration(verdict.wait)}, send a shorter prompt, or ask the operator for a higher limit",
            _retry(verdict.wait),
        )

    def spend(self, completion_tokens: int) -> None:
        """Counts the tokens of an answer, which were used already: the next request waits for them. Never waits, never fails."""
        if self._owner.tokens_per_minute is not None and completion_tokens:
            self._limits.add(self._owner.key_id, Counted.TOKENS, completion_tokens)

    async def headers(self) -> Headers:
        """What an answer tells of the limits that the key has: as the last verdict was, or as it is now if there was none."""
        headers: Headers = []
        for counted, limit in (
            (Counted.REQUESTS, self._owner.requests_per_minute),
            (Counted.TOKENS, self._owner.tokens_per_minute),
        ):
            if limit is not None:
                standing = self._standings.get(counted) or await self._limits.standing(self._owner.key_id, counted, limit)
                headers += _spelled(counted, standing)
        return headers

    async def _count_request(self) -> None:
        limit = self._owner.requests_per_minute
        if limit is None:
            return
        verdict = await self._take(Counted.REQUESTS, 1, limit)
        if verdict.admitted:
            return
        if verdict.wait is None:
            raise RequestsExceeded(
                f"this key may send {limit} requests per minute; ask the operator for a higher limit", _retry(_NEVER_SECONDS)
            )
        raise RequestsExceeded(
            f"this key may send {limit} requests per minute, and they are used up; retry in {duration(verdict.wait)}, "
            "or ask the operator for a higher limit",
            _retry(verdict.wait),
        )

    async def _take(self, counted: Counted, amount: int, limit: int) -> Verdict:
        verdict = await self._limits.take(self._owner.key_id, counted, amount, limit)
        self._standings[counted] = verdict.standing
        if not verdict.admitted:
            self._refused[counted.value] += 1
        return verdict


def duration(seconds: float) -> str:
    """As OpenAI spells it: "20ms", "1s", "7.66s", "6m0s". Rounded up, so that whoever waits for it has waited enough."""
    milliseconds = ceil(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    before = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{before}{milliseconds / 1000:g}s"


def _retry(seconds: float) -> tuple[tuple[str, str], ...]:
    """Both spellings: whole seconds for everybody, and what the official clients read first."""
    milliseconds = max(1, ceil(seconds * 1000))
    return ("retry-after", str(ceil(milliseconds / 1000))), ("retry-after-ms", str(milliseconds))


def _spelled(counted: Counted, standing: Standing) -> Headers:
    what = counted.value.encode()
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % standing.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % standing.remaining),
        (b"x-ratelimit-reset-" + what, duration(standing.reset).encode()),
    ]
