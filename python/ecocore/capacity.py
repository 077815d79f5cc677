"""How many answers an engine takes at once."""

from dataclasses import dataclass
from typing import Final

from ecocore.errors import InvalidParameter

MAX_OPEN: Final = 2**16
"""More answers at once would not be an engine's but a queue's."""


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

    def __post_init__(self) -> None:
        """Checks the bounds."""
        for name, count in (("sequences", self.running), ("waiting", self.waiting), ("waiting_per_key", self.waiting_per_key)):
            if not 1 <= count <= MAX_OPEN:
                raise InvalidParameter(f"max_{name}", f"must be between 1 and {MAX_OPEN}")
