"""The line of sequences that show images which nobody has looked at yet; no step may come to them before.

Takes sequences as they come, says whose images are looked at next. What looking is, the model knows; when, the loop.
"""

from collections import Counter
from typing import Generic, Protocol, TypeVar


class Visitor(Protocol):
    """Who stands in line."""

    @property
    def sequence_id(self) -> int:
        """Its name."""

    @property
    def key(self) -> int:
        """Those of one key share its turns."""

    @property
    def priority(self) -> int:
        """Lower goes first."""


V = TypeVar("V", bound=Visitor)


class Gallery(Generic[V]):
    """A line for each key, one visitor at a time. Keys take turns by how often they were looked at while they stood in line."""

    def __init__(self) -> None:
        """Nobody is there."""
        self._line: dict[int, V] = {}
        self._current: V | None = None
        self._turns: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._line

    def enter(self, visitor: V) -> None:
        """Stands in line from here on; a key that had nobody there starts level with the one that had least."""
        if visitor.key not in self._turns:
            self._turns[visitor.key] = min(self._turns.values(), default=0)
        self._line[visitor.sequence_id] = visitor

    def leave(self, sequence_id: int) -> V | None:
        """Takes one out of the line, served or not; None if it is not there."""
        visitor = self._line.pop(sequence_id, None)
        if visitor is not None and not any(other.key == visitor.key for other in self._line.values()):
            del self._turns[visitor.key]
        if visitor is self._current:
            self._current = None
        return visitor

    def turn(self) -> V | None:
        """Whose images are looked at next, and counts it: the same until it leaves, for what was begun is not put aside."""
        if self._current is None:
            self._current = min(self._line.values(), key=lambda one: (one.priority, self._turns[one.key]), default=None)
        if self._current is not None:
            self._turns[self._current.key] += 1
        return self._current
