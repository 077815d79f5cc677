"""How many bytes of image files all requests together hold, from the first byte that comes until a file is decoded.

Counts, and refuses past the bound; keeps nothing itself. Pixels are counted elsewhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ecocore.errors import InvalidParameter, Overloaded


class HeldBytes:
    """One count for a process, on one event loop."""

    def __init__(self, limit: int) -> None:
        """`limit`: of one request, and of all together."""
        self.limit: Final = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """The part of one request; whatever is left of it is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            share.give_back(share.held)


class Share:
    """What one request holds."""

    def __init__(self, whole: HeldBytes) -> None:
        """Use `HeldBytes.share`."""
        self.held = 0
        self._whole = whole

    def take(self, size: int) -> None:
        """Raises InvalidParameter("messages") where waiting would not help, else Overloaded."""
        limit = self._whole.limit
        if self.held + size > limit:
            raise InvalidParameter("messages", f"its images have more than {limit} bytes together", "invalid_image_url")
        if self._whole.held + size > limit:
            raise Overloaded("many images are being loaded; retry in a moment")
        self._move(size)

    def give_back(self, size: int) -> None:
        """`size`: at most what is held."""
        self._move(-size)

    def _move(self, size: int) -> None:
        self.held += size
        self._whole.held += size
