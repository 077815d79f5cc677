"""Whether a server elsewhere is worth asking: takes what became of requests and probes, gives one answer.

    closed    -- 5 requests fail within 10 s, or 3 probes in a row --> open
    open      -- 2 s pass                                          --> half open
    half open -- a probe succeeds                                  --> closed

Requests are sent while it is closed. It begins half open: a server that never answered a probe gets no request.
"""

import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

FAILURES: Final = 5
WINDOW_SECONDS: Final = 10.0
PROBES: Final = 3
REST_SECONDS: Final = 2.0


class State(Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """Counts failures by a clock that never jumps. Knows no sockets and no requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._failed_probes = 0
        self._rests_until: float | None = clock()

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._rests_until is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._rests_until else State.HALF_OPEN

    @property
    def is_closed(self) -> bool:
        """Whether requests may be sent."""
        return self._rests_until is None

    @property
    def is_silent(self) -> bool:
        """Whether so many probes in a row failed that whoever waits there waits in vain."""
        return self._failed_probes >= PROBES

    def failed(self) -> None:
        """A request failed for a reason that lies with the server or the way to it."""
        now = self._clock()
        self._failures.append(now)
        if self.is_closed and len(self._failures) == FAILURES and now - self._failures[0] <= WINDOW_SECONDS:
            self._open()

    def probed(self, *, answered: bool) -> None:
        """A probe was answered, or not in time."""
        if answered:
            self._failed_probes = 0
            if self.state is State.HALF_OPEN:
                self._rests_until = None
            return
        self._failed_probes += 1
        if self.is_closed and self.is_silent:
            self._open()

    def _open(self) -> None:
        self._rests_until = self._clock() + REST_SECONDS
        # What failed before it opened says nothing of the time after it closes.
        self._failures.clear()
