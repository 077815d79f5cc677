"""How much of a prompt a step may read, and of images may be looked at, so that streams which run do not pause for long.

Takes what steps took, gives a number of tokens or of seconds. It changes when something is computed, never what is computed.
"""

from typing import Final

GAP_SECONDS: Final = 0.2
"""A step with both prompts and running streams should take no longer."""

ENOUGH: Final = 2**20
"""No step is that large."""

# How fast an average forgets: the last twenty steps or so count.
_WEIGHT: Final = 0.1


class PromptBudget:
    """Learns what a prompt token and a step of decode rows cost, each as a moving average."""

    def __init__(self, gap_seconds: float = GAP_SECONDS) -> None:
        """Knows nothing yet: until it has seen a step with a prompt it sets no limit."""
        self._gap = gap_seconds
        self._decode_seconds = 0.0
        self._seconds_per_token = 0.0

    def observe(self, *, prompt_tokens: int, decode_rows: int, seconds: float) -> None:
        """Takes what one step held and took."""
        if not prompt_tokens:
            self._decode_seconds = _averaged(self._decode_seconds, seconds)
            return
        decoding = self._decode_seconds if decode_rows else 0.0
        self._seconds_per_token = _averaged(self._seconds_per_token, max(0.0, seconds - decoding) / prompt_tokens)

    def limit(self) -> int | None:
        """Most tokens of prompts beside decode rows; None for as many as fit. A scheduler never takes less than a block."""
        if not self._seconds_per_token:
            return None
        left = (self._gap - self._decode_seconds) / self._seconds_per_token
        return int(min(max(left, 0), ENOUGH))

    def between(self) -> float:
        """Seconds that other work may take between two steps: as long as a step of streams, and no longer than a gap."""
        return min(self._decode_seconds or self._gap, self._gap)


def _averaged(average: float, value: float) -> float:
    """The average with one more value. The first tells more than nothing."""
    return average + _WEIGHT * (value - average) if average else value
