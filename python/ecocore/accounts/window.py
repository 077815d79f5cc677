"""What was counted in the last minute: a sliding window, exact within a tenth of a second.

Takes amounts and the time, tells how much still counts and when there is room again. Whose window it is, and what
limit it has, is `limits`' matter.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

WINDOW_SECONDS: Final = 60.0
GRAIN_SECONDS: Final = 0.1
"""What comes within this of each other leaves together, with the last of it: 600 entries hold any minute."""


@dataclass(slots=True)
class Entry:
    """Amounts that leave the window together."""

    begun: float
    last: float
    amount: int = 0


class Window:
    """Amounts of the last minute. `now` never goes back: it is a monotonic clock's.

    An amount of time t counts until t + 60, and never leaves earlier; it leaves at most a tenth of a second later.
    """

    __slots__ = ("_entries", "_used")

    def __init__(self) -> None:
        """Holds nothing."""
        self._entries: deque[Entry] = deque()
        self._used = 0

    def used(self, now: float) -> int:
        """How much counts at the moment."""
        entries = self._entries
        while entries and entries[0].last + WINDOW_SECONDS <= now:
            gone = entries.popleft()
            self._used -= gone.amount
            gone.amount = 0
        return self._used

    def add(self, amount: int, now: float) -> Entry:
        """Counts an amount, whatever is there already. What is given back names it to `take_back`."""
        self.used(now)
        if not self._entries or now - self._entries[-1].begun >= GRAIN_SECONDS:
            self._entries.append(Entry(now, now))
        entry = self._entries[-1]
        entry.last = now
        entry.amount += amount
        self._used += amount
        return entry

    def take_back(self, entry: Entry, amount: int) -> None:
        """Undoes an `add`, unless its minute is over anyway."""
        amount = min(amount, entry.amount)
        entry.amount -= amount
        self._used -= amount
        while self._entries and not self._entries[-1].amount:
            self._entries.pop()

    def wait(self, amount: int, limit: int, now: float) -> float:
        """Seconds until `amount` fits below the limit if nothing else comes; 0 if it does now. It is no more than the limit."""
        too_much = self.used(now) + amount - limit
        for entry in self._entries:
            if too_much <= 0:
                break
            too_much -= entry.amount
            wait = entry.last + WINDOW_SECONDS - now
            if too_much <= 0:
                return wait
        return 0.0

    def reset(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        self.used(now)
        return self._entries[-1].last + WINDOW_SECONDS - now if self._entries else 0.0

    def check_integrity(self) -> None:
        """Raises AssertionError if the window contradicts itself."""
        assert self._used == sum(entry.amount for entry in self._entries)
        assert all(entry.amount >= 0 for entry in self._entries)
        assert all(entry.begun <= entry.last < entry.begun + GRAIN_SECONDS for entry in self._entries)
        begins = [entry.begun for entry in self._entries]
        assert all(later - earlier >= GRAIN_SECONDS for earlier, later in pairwise(begins))
