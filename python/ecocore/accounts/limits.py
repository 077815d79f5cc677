"""Limits per key: requests and tokens of the last minute, and requests that run at once.

Takes whose key it is, what it wants and how much it may; gives a verdict. What a refusal looks like is the server's
matter. Every count is kept in this process, by a monotonic clock; `shared_limits` adds what other processes counted.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ecocore.accounts.window import Window

Clock = Callable[[], float]
FORGET_AT_ONCE: Final = 2
"""How many silent windows a call may forget: more than it can make, so that they never pile up."""


class Counted(StrEnum):
    """What a window counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands with one limit. `reset`: seconds until nothing counts any more."""

    limit: int
    remaining: int
    reset: float

    def and_also(self, other: "Standing") -> "Standing":
        """Where it stands if both count."""
        return Standing(self.limit, min(self.remaining, other.remaining), max(self.reset, other.reset))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something was admitted. `wait`: seconds until it would be; 0 if it was, None if it never will be."""

    standing: Standing
    wait: float | None

    @property
    def admitted(self) -> bool:
        """Whether it was taken, and counts."""
        return self.wait == 0


class SharedCounts(Protocol):
    """What several processes count together. Where it is lost it gives None, within a moment: then nobody waits for it."""

    @property
    def lost(self) -> bool:
        """Whether it is not asked at the moment."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Holds connections while inside."""

    async def take(self, name: str, amount: int, limit: int) -> Verdict | None:
        """Counts an amount if it fits."""

    async def standing(self, name: str, limit: int) -> Standing | None:
        """Where a key stands; counts nothing."""

    def add(self, name: str, amount: int) -> None:
        """Counts an amount whether or not it fits, soon."""


class KeyCounts:
    """The counts of all keys.

    A window of this process is always kept, and asked first: it alone holds the limit where nothing is shared, it
    takes over without a gap when what is shared is lost, and what it refuses costs no question to others.
    """

    def __init__(self, shared: SharedCounts | None = None, clock: Clock = time.monotonic) -> None:
        """`shared`: what other processes count too. `clock`: a monotonic one, in seconds."""
        self._shared = shared
        self._clock = clock
        # In the order in which they were last asked for, so that the silent ones stand in front.
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._running: dict[int, int] = {}

    @property
    def shared_is_lost(self) -> bool | None:
        """Whether this process counts for itself though others count too; None if nothing is shared."""
        return None if self._shared is None else self._shared.lost

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Holds connections to what is shared while inside."""
        return nullcontext() if self._shared is None else self._shared.connected()

    async def take(self, key_id: int, counted: Counted, amount: int, limit: int) -> Verdict:
        """Counts an amount if it fits below the limit."""
        now = self._clock()
        name = _name(key_id, counted)
        window = self._window(name, now)
        if amount > limit:
            return Verdict(_standing(window, limit, now), None)
        if (wait := window.wait(amount, limit, now)) > 0:
            return Verdict(_standing(window, limit, now), wait)
        entry = window.add(amount, now)
        here = Verdict(_standing(window, limit, now), 0)
        if self._shared is None or (verdict := await self._shared.take(name, amount, limit)) is None:
            return here
        if not verdict.admitted:
            window.take_back(entry, amount)
            return verdict
        return Verdict(here.standing.and_also(verdict.standing), 0)

    def add(self, key_id: int, counted: Counted, amount: int) -> None:
        """Counts an amount that was used already, so that what comes next waits for it. Never waits itself."""
        now = self._clock()
        name = _name(key_id, counted)
        self._window(name, now).add(amount, now)
        if self._shared is not None:
            self._shared.add(name, amount)

    async def standing(self, key_id: int, counted: Counted, limit: int) -> Standing:
        """Where a key stands; counts nothing."""
        now = self._clock()
        name = _name(key_id, counted)
        here = _standing(self._windows.get(name) or Window(), limit, now)
        if self._shared is None or (elsewhere := await self._shared.standing(name, limit)) is None:
            return here
        return here.and_also(elsewhere)

    def enter(self, key_id: int, limit: int) -> bool:
        """Takes a place among the requests of a key that run at once, in this process; False if there is none."""
        running = self._running.get(key_id, 0)
        if running >= limit:
            return False
        self._running[key_id] = running + 1
        return True

    def leave(self, key_id: int) -> None:
        """Gives back the place that `enter` took."""
        running = self._running.pop(key_id) - 1
        if running:
            self._running[key_id] = running

    def remembered(self) -> int:
        """How many windows and counts are held."""
        return len(self._windows) + len(self._running)

    def _window(self, name: str, now: float) -> Window:
        for _ in range(FORGET_AT_ONCE):
            first = next(iter(self._windows), None)
            if first is None or self._windows[first].used(now):
                break
            del self._windows[first]
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = Window()
        else:
            self._windows.move_to_end(name)
        return window


def _name(key_id: int, counted: Counted) -> str:
    return f"{key_id:016x}:{counted}"


def _standing(window: Window, limit: int, now: float) -> Standing:
    return Standing(limit, max(0, limit - window.used(now)), window.reset(now))
