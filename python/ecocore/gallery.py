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
    def request_id(self) -> int:
        """Sequences of one request show the same images."""

    @property
    def key(self) -> int:
        """Requests of one key share its turns."""

    @property
    def priority(self) -> int:
        """Lower goes first."""


V = TypeVar("V", bound=Visitor)


class Gallery(Generic[V]):
    """Visitors whose images are looked at by turns, one image at a time.

    Keys take turns by how often they were looked at while they stood in line, and so do the requests of a key.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self._line: dict[int, V] = {}
        self._current: V | None = None
        self._of_keys: Counter[int] = Counter()
        self._of_requests: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._line

    def enter(self, visitor: V) -> None:
        """Stands in line from here on. A new key or request starts level with the one beside it that had least."""
        if visitor.key not in self._of_keys:
            self._of_keys[visitor.key] = min(self._of_keys.values(), default=0)
        if visitor.request_id not in self._of_requests:
            beside = (self._of_requests[other.request_id] for other in self._line.values() if other.key == visitor.key)
            self._of_requests[visitor.request_id] = min(beside, default=0)
        self._line[visitor.sequence_id] = visitor

    def leave(self, sequence_id: int) -> V | None:
        """Takes one out of the line, served or not; None if it is not there."""
        visitor = self._line.pop(sequence_id, None)
        if visitor is not None:
            left = self._line.values()
            if not any(other.key == visitor.key for other in left):
                del self._of_keys[visitor.key]
            if not any(other.request_id == visitor.request_id for other in left):
                del self._of_requests[visitor.request_id]
        if visitor is self._current:
            self._current = None
        return visitor

    def turn(self) -> V | None:
        """Whose images are looked at next, and counts it: the same until it rests, for what was begun is not put aside."""
        if self._current is None:
            self._current = min(self._line.values(), key=self._rank, default=None)
        if self._current is not None:
            self._of_keys[self._current.key] += 1
            self._of_requests[self._current.request_id] += 1
        return self._current

    def rest(self) -> None:
        """An image was looked at to its end: whose turn it is may change."""
        self._current = None

    def _rank(self, visitor: V) -> tuple[int, int, int]:
        return visitor.priority, self._of_keys[visitor.key], self._of_requests[visitor.request_id]
