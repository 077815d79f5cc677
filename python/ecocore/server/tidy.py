"""Gives memory back to the system after large requests.

The C library keeps what was freed for its next need, in one pool for each thread that ever allocated: a hundred requests of
a few megabytes left two hundred megabytes behind. So there is one pool, and it is asked to let go, at most once a second,
when such requests have ended. Where the C library has no such calls, nothing is done.
"""

import asyncio
import ctypes
from typing import Final

TIDY_SECONDS: Final = 1.0
_M_ARENA_MAX: Final = -8


def share_one_pool() -> None:
    """Makes the C library keep one pool for all threads that start from here on: of others it gives nothing back."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


class Tidier:
    """Tidies up on the running event loop, some time after it was told to."""

    def __init__(self) -> None:
        """Looks for the C library's `malloc_trim`."""
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._due = False

    def after_large_request(self) -> None:
        """There may be something to give back. Costs nothing now."""
        if self._trim is not None and not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._due = False
        # A few milliseconds, without the GIL; on a thread, so that no answer waits for it.
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
