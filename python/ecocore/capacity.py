"""How many answers an engine takes at once."""

from dataclasses import dataclass
from typing import Final

from ecocore.errors import InvalidParameter

MAX_OPEN: Final = 2**16
"""More answers at once would not be an engine's but a queue's."""
PROMPT_TOKENS: Final = 512
"""Tokens of prompts that a step reads, however many answers it goes on with."""


@dataclass(frozen=True)
class Capacity:
    """So many sequences run, as memory allows; beyond them so many wait, and so many of one key.

    Key 0 is nobody's in particular, and has no bound of its own. Raises InvalidParameter, in the words of `ecocore.load`.
    """

    running: int = 256
    waiting: int = 256
    waiting_per_key: int = 64

    @property
    def reserved(self) -> int:
        """Sequences that run beyond `running`, for keys that run fewer than so many."""
        return max(1, self.running // 16)

    @property
    def step_tokens(self) -> int:
        """Most tokens of a step: all that run may draw in one, and prompts find room beside them."""
        return self.running + self.reserved + PROMPT_TOKENS

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for name, count in (("sequences", self.running), ("waiting", self.waiting), ("waiting_per_key", self.waiting_per_key)):
            if not 1 <= count <= MAX_OPEN:
                raise InvalidParameter(f"max_{name}", f"must be between 1 and {MAX_OPEN}")
